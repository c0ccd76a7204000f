// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// bytes() is the memory really held, by hand.

#include "support/catch.hpp"
#include "support/life.hpp"
#include "support/policies.hpp"

using namespace kvslim;

namespace {

index_t const header = 320, row = 64;

}  // namespace

TEST_CASE("bytes() of kivi: 2 bits, group 32, residual 128", "[store]") {
  data::cache const c({.sequences = 1, .kv_heads = 2, .tokens = 256, .head_dim = 128});
  data::compressed const run(kivi<2>{}, c.view());
  // Per row: 8 key blocks of 32 * 128 / 4 bytes and 4 * 128 of parameters; a ring of 127 keys (what
  // waits for its block), in tiles of 16; 32 value blocks of 4 * 128 / 4 + 16 * 4; a ring of 128.
  index_t const one = 8 * (1024 + 512) + 128 * 256 + 32 * (128 + 64) + 128 * 256;
  CHECK(static_cast<index_t>(run.packed.bytes()) == header + 2 * row + 2 * one);
  CHECK(run.plan.packed_bytes() == run.packed.bytes());
  CHECK(run.intact());
}

TEST_CASE("bytes() of f16, and of what lies beside K and V", "[store]") {
  data::cache const c({.sequences = 1, .kv_heads = 2, .tokens = 256, .head_dim = 128});
  index_t const planes = 2 * 2 * 256 * 128 * 2;
  auto const held = [&](plan_options options) {
    data::compressed const run(dense<f16>{}, c.view(), evidence<>{}, options);
    CHECK(run.plan.packed_bytes() == run.packed.bytes());
    return static_cast<index_t>(run.packed.bytes()) - header - 2 * row - planes;
  };
  CHECK(held({}) == 0);
  CHECK(held({.positions = true}) == 2 * 256 * 4);
  CHECK(held({.positions = true, .biases = true}) == 2 * 256 * 8);
  // 16 more slots: a tile of keys, 16 values, and a ring of one draft, itself a tile of keys.
  CHECK(held({.append_tokens = 16}) == 2 * (16 * 128 * 2 * 2 + 16 * 128 * 2 + 128 * 2));
}

TEST_CASE("a scorer's records are counted", "[store]") {
  data::cache const c({.sequences = 1, .kv_heads = 2, .tokens = 64, .head_dim = 16});
  pipeline const policy{policies::heavy{}, top_k{{.budget = 32}}};
  evidence const ev{window_queries{c.queries(4)}};
  data::compressed const plain(policy, c.view(), ev),
      living(policy, c.view(), ev, {.evicts = true});
  // And a byte for each pin: a side begins at a multiple of 64 bytes.
  CHECK(living.packed.bytes() == plain.packed.bytes() + 2 * (32 * 12 + 64));
}

TEST_CASE("live bytes grow with tokens, bytes do not", "[store]") {
  data::cache const c({.sequences = 1, .kv_heads = 2, .tokens = 64, .head_dim = 32});
  data::compressed const run(int_per_token<8>{}, c.view(), evidence<>{}, {.append_tokens = 40});
  data::life life(run.packed, c);
  std::size_t const bytes = run.packed.bytes();
  std::size_t live = run.packed.live_bytes();
  CHECK(live < bytes);
  for (int i = 0; i < 40; ++i) {
    REQUIRE(life.append().ok());
    REQUIRE(life.settle().ok());
    CHECK(run.packed.live_bytes() >= live);
    live = run.packed.live_bytes();
    CHECK(run.packed.bytes() == bytes);
  }
  CHECK(live == bytes);
  data::buffer never(run.plan.packed_bytes());
  packed_cache const empty(run.plan, never);
  CHECK(empty.bytes() == 0);
  CHECK(empty.live_bytes() == 0);
  CHECK_FALSE(empty.ready());
}

TEST_CASE("nothing beyond bytes() is touched", "[store]") {
  data::cache const c({.sequences = 1, .kv_heads = 2, .tokens = 256, .head_dim = 128});
  std::int32_t const lengths[] = {50};
  auto view = c.view();
  view.lengths = lengths;
  data::compressed const run(pipeline{knorm{}, top_k{{.budget = 77}}, int_per_token<4>{}}, view,
                             evidence<>{}, {.append_tokens = 9});
  REQUIRE(run.result.ok());
  CHECK(run.packed.bytes() < run.storage.size());
  CHECK(run.intact());
}
