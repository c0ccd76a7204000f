// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// settle(): what may leave the exact tail is coded, and nothing else.

#include "support/catch.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

namespace {

/// Appends c's tokens [from, c.tokens) one by one, settling after each.
template <class Run>
void grow(Run const& run, data::cache const& c, index_t from) {
  auto const& e = c.shape;
  data::buffer append_scratch(append_bytes(run.packed.layout())),
      settle_scratch(settle_bytes(run.packed.layout()));
  for (index_t t = from; t < e.tokens; ++t) {
    rows_view<float const> const k{
        c.k.data() + t * e.head_dim,
        e.sequences,
        e.kv_heads,
        1,
        e.head_dim,
        {e.kv_heads * e.tokens * e.head_dim, e.tokens * e.head_dim, 0, 1}};
    rows_view<float const> const v{
        c.v.data() + t * e.head_dim, e.sequences, e.kv_heads, 1, e.head_dim, k.layout};
    REQUIRE(append(cpu{}, run.packed, k, v, append_scratch).ok());
    REQUIRE(settle(cpu{}, run.packed, settle_scratch).ok());
  }
  CHECK(append_scratch.intact());
  CHECK(settle_scratch.intact());
}

template <class Policy>
void grows_as_compressed(Policy const& policy, index_t from) {
  data::cache const c({.sequences = 2, .kv_heads = 2, .tokens = 150, .head_dim = 32});
  data::compressed const once(policy, c.view());
  auto part = c.view();
  part.extent.tokens = from;
  data::compressed const grown(policy, part, evidence<>{}, {.append_tokens = 150 - from});
  grow(grown, c, from);
  CHECK(grown.intact());
  for (index_t r = 0; r < 4; ++r) {
    CHECK(once.packed.raw_row(r).key_coded == grown.packed.raw_row(r).key_coded);
    CHECK(once.packed.raw_row(r).value_coded == grown.packed.raw_row(r).value_coded);
    for (index_t t = 0; t < 150; ++t)
      for (index_t d = 0; d < 32; ++d) {
        REQUIRE(once.packed.key(r, t, d) == grown.packed.key(r, t, d));
        REQUIRE(once.packed.value(r, t, d) == grown.packed.value(r, t, d));
      }
  }
}

}  // namespace

TEST_CASE("growing gives the codes of compressing at once", "[settle]") {
  grows_as_compressed(kivi<4>{{.residual = 32}}, 32);
  grows_as_compressed(kivi<2>{{.residual = 64}}, 90);
  grows_as_compressed(int_per_token<8>{}, 17);
  grows_as_compressed(int_per_token<4>{{.residual = 20}}, 3);
  grows_as_compressed(dense<f16>{}, 1);
  grows_as_compressed(dense<float>{}, 33);
}

TEST_CASE("settling twice codes nothing twice", "[settle]") {
  data::cache const c({.kv_heads = 2, .tokens = 100, .head_dim = 32});
  data::compressed const run(kivi<2>{{.residual = 32}}, c.view(), evidence<>{},
                             {.append_tokens = 90, .draft_tokens = 90});
  data::life life(run.packed, c);
  REQUIRE(life.append(90).ok());
  CHECK(life.storage_error() < 2 * tolerance::two_bits);
  REQUIRE(life.settle().ok());
  auto const settled = data::bytes_of(run.packed);
  REQUIRE(life.settle().ok());
  CHECK(data::bytes_of(run.packed) == settled);
  CHECK(run.packed.raw_row(0).key_coded == 160);
}

TEST_CASE("drafts are taken back across a flush", "[settle][rewind]") {
  // 96 + 6 drafts pass a block's end; until settle() they can all be taken back.
  data::cache const c({.kv_heads = 2, .tokens = 94, .head_dim = 32});
  data::compressed const run(kivi<4>{{.residual = 32}}, c.view(), evidence<>{},
                             {.append_tokens = 40, .draft_tokens = 8});
  data::life life(run.packed, c);
  REQUIRE(life.append(8).ok());
  REQUIRE(rewind(run.packed, 7).ok());
  CHECK(run.packed.slots(0, 1) == 95);
  CHECK(run.packed.next_position(0, 1) == 95);
  CHECK(life.storage_error() >= 0);
  REQUIRE(life.settle().ok());
  for (int i = 0; i < 30; ++i) {
    REQUIRE(life.append(8).ok());
    REQUIRE(rewind(run.packed, 7).ok());
    REQUIRE(life.settle().ok());
    CHECK(life.storage_error() < tolerance::four_bits);
    CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  }
  CHECK(run.packed.slots(0, 0) == 125);
  CHECK(run.packed.raw_row(0).key_coded == 96);
}

TEST_CASE("settle refuses, and changes nothing", "[settle]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .tokens = 70, .head_dim = 32});
  data::compressed const run(kivi<4>{{.residual = 32}}, c.view(), evidence<>{},
                             {.append_tokens = 40, .draft_tokens = 40});
  data::life life(run.packed, c);
  REQUIRE(life.append(40).ok());
  auto const before = data::bytes_of(run.packed);
  data::buffer scratch(settle_bytes(run.packed.layout())), small(scratch.size() - 1);
  CHECK(settle(cpu{}, run.packed, small).code == errc::buffer_too_small);
  CHECK(settle(cpu{}, run.packed, {}).code == errc::invalid_pointer);
  CHECK(settle(cpu{}, run.packed, {scratch.data() + 4, scratch.size()}).code ==
        errc::invalid_pointer);
  CHECK(settle(cpu{}, run.packed, scratch, {.first_sequence = 3}).code == errc::invalid_shape);
  CHECK(settle(cpu{}, run.packed, scratch, {.sequences = 3}).code == errc::invalid_shape);
  data::buffer never(run.plan.packed_bytes());
  CHECK(settle(cpu{}, packed_cache(run.plan, never), scratch).code == errc::corrupt);
  CHECK(settle(cpu{}, packed_cache(run.plan, nullptr, 0), scratch).code == errc::invalid_pointer);
  CHECK(data::bytes_of(run.packed) == before);
  CHECK(never.untouched());
  CHECK(scratch.untouched());
}
