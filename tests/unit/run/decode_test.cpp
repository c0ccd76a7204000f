// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// decode(): held tokens as plain rows, in text order.

#include "support/catch.hpp"
#include "support/life.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

namespace {

data::shape const shape{
    .sequences = 2, .kv_heads = 2, .tokens = 60, .head_dim = 16, .value_dim = 24};

}  // namespace

TEST_CASE("decode gives back an exact cache", "[decode]") {
  data::cache const c(shape);
  data::compressed const run(dense<float>{}, c.view());
  std::vector<float> k(c.k.size()), v(c.v.size());
  data::buffer scratch(decode_bytes(run.packed.layout(), 60));
  REQUIRE(decode(cpu{}, run.packed, dense_rows(k.data(), {2, 2, 60, 16}),
                 dense_rows(v.data(), {2, 2, 60, 24}), nullptr, scratch)
              .ok());
  CHECK(k == c.k);
  CHECK(v == c.v);
  CHECK(scratch.intact());
}

TEST_CASE("slots that were filled again come in text order, rounded once", "[decode][evict]") {
  data::cache const c(shape);
  data::compressed const run(pipeline{knorm{}, top_k{{.budget = 30}}, int_per_token<8>{}}, c.view(),
                             evidence<>{}, {.append_tokens = 6, .evicts = true});
  data::life life(run.packed, c);
  for (std::int32_t i = 0; i < 20; ++i) {
    std::int32_t const victims[] = {i, 29 - i, i, -1};
    if (i > 3) REQUIRE(evict(cpu{}, run.packed, victims, {.sequences = 1}).ok());
    if (i < 4) REQUIRE(life.append().ok());
    if (i > 3) REQUIRE(life.append(1, {.sequences = 1}).ok());
    REQUIRE(life.settle().ok());
  }
  std::vector<bf16> k(static_cast<std::size_t>(4 * 40 * 16), bf16{1}), v(4 * 40 * 24, bf16{1});
  std::vector<std::int32_t> positions(4 * 40, -7);
  data::buffer scratch(decode_bytes(run.packed.layout(), 40));
  REQUIRE(decode(cpu{}, run.packed, dense_rows(k.data(), {2, 2, 40, 16}),
                 dense_rows(v.data(), {2, 2, 40, 24}), positions.data(), scratch)
              .ok());
  CHECK(scratch.intact());
  for (index_t r = 0; r < 4; ++r) {
    auto const held = data::held(run.packed, r / 2, r % 2);
    for (index_t i = 0; i < 40; ++i) {
      auto const at = static_cast<std::size_t>(r * 40 + i);
      if (i >= std::ssize(held)) {
        CHECK(positions[at] == -7);
        CHECK(k[at * 16 + 3] == bf16{1});
        CHECK(v[at * 24 + 3] == bf16{1});
        continue;
      }
      REQUIRE(positions[at] == held[static_cast<std::size_t>(i)]);
      index_t slot = 0;
      while (run.packed.position(r / 2, r % 2, slot) != positions[at]) ++slot;
      for (index_t d = 0; d < 16; ++d)
        REQUIRE(k[at * 16 + static_cast<std::size_t>(d)] ==
                from_float<bf16>(run.packed.key(r, slot, d)));
      for (index_t d = 0; d < 24; ++d)
        REQUIRE(v[at * 24 + static_cast<std::size_t>(d)] ==
                from_float<bf16>(run.packed.value(r, slot, d)));
    }
  }
}

TEST_CASE("decode refuses, and writes nothing", "[decode]") {
  data::cache const c(shape);
  data::compressed const run(kivi<4>{{.residual = 32, .value_group = 8}}, c.view());
  REQUIRE(run.result.ok());
  std::vector<float> k(c.k.size(), 777.0f), v(c.v.size(), 777.0f);
  data::buffer scratch(decode_bytes(run.packed.layout(), 60)), small(scratch.size() - 1);
  auto const good_k = dense_rows(k.data(), {2, 2, 60, 16}),
             good_v = dense_rows(v.data(), {2, 2, 60, 24});
  auto const refused = [&](auto const& packed, rows_out<> const& to_k, rows_out<> const& to_v,
                           workspace memory) {
    auto const s = decode(cpu{}, packed, to_k, to_v, nullptr, memory);
    CHECK(std::all_of(k.begin(), k.end(), [](float x) { return x == 777.0f; }));
    CHECK(std::all_of(v.begin(), v.end(), [](float x) { return x == 777.0f; }));
    return s.code;
  };
  CHECK(refused(run.packed, {}, good_v, scratch) == errc::invalid_pointer);
  CHECK(refused(run.packed, good_k, {}, scratch) == errc::invalid_pointer);
  CHECK(refused(run.packed, dense_rows(k.data(), {2, 2, 59, 16}),
                dense_rows(v.data(), {2, 2, 59, 24}), scratch) == errc::invalid_shape);
  CHECK(refused(run.packed, dense_rows(k.data(), {2, 2, 60, 8}), good_v, scratch) ==
        errc::invalid_shape);
  CHECK(refused(run.packed, good_k, dense_rows(v.data(), {2, 2, 60, 16}), scratch) ==
        errc::invalid_shape);
  CHECK(refused(run.packed, good_k, good_v, small) == errc::buffer_too_small);
  CHECK(refused(run.packed, good_k, good_v, {}) == errc::invalid_pointer);
  data::buffer never(run.plan.packed_bytes());
  CHECK(refused(packed_cache(run.plan, never), good_k, good_v, scratch) == errc::corrupt);
  CHECK(refused(packed_cache(run.plan, nullptr, 0), good_k, good_v, scratch) ==
        errc::invalid_pointer);
  CHECK(small.untouched());
  CHECK(decode_bytes(run.packed.layout(), -1) == 0);
}
