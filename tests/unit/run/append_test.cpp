// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// append(): new tokens wait exactly in the tail, whatever the codec; nothing is coded before
// settle().

#include "support/catch.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/policies.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

namespace {

data::shape const shape{.sequences = 3, .kv_heads = 2, .group = 2, .tokens = 70, .head_dim = 32};

/// Bytes of a row's coded blocks.
template <class Packed>
std::vector<std::byte> coded_bytes(Packed const& packed, index_t r) {
  auto const k = packed.keys(r);
  auto const v = packed.values(r);
  std::vector<std::byte> out(k.blocks, k.blocks + (k.coded + k.sizes.block_tokens - 1) /
                                                      k.sizes.block_tokens * k.sizes.block_bytes);
  out.insert(
      out.end(), v.blocks,
      v.blocks + (v.coded + v.sizes.block_tokens - 1) / v.sizes.block_tokens * v.sizes.block_bytes);
  return out;
}

}  // namespace

TEMPLATE_TEST_CASE("append writes the tail and never codes", "[append]", kivi<2>,
                   (int_per_token<4>), (dense<bf16>)) {
  data::cache const c(shape);
  TestType policy{};
  if constexpr (requires { policy.opt.residual = 32; }) policy.opt.residual = 32;
  data::compressed const run(policy, c.view(), evidence<>{},
                             {.append_tokens = 50, .draft_tokens = 50});
  REQUIRE(run.result.ok());
  auto const before = coded_bytes(run.packed, 3);
  index_t const coded = run.packed.raw_row(3).key_coded;
  data::life life(run.packed, c);
  for (index_t i = 0; i < 10; ++i) REQUIRE(life.append(i % 3 + 1).ok());
  CHECK(run.packed.slots(1, 1) == 70 + 19);
  CHECK(run.packed.next_position(1, 1) == 89);
  CHECK(run.packed.raw_row(3).key_coded == coded);
  CHECK(coded_bytes(run.packed, 3) == before);
  for (index_t t = 70; t < 89; ++t) CHECK(run.packed.position(1, 1, t) == t);
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  CHECK(run.intact());
  CHECK(life.intact());
}

TEST_CASE("appended tokens are stored exactly, at the next position", "[append]") {
  data::cache const c(shape);
  data::compressed const run(pipeline{knorm{}, top_k{{.budget = 30}}, dense<float>{}}, c.view(),
                             evidence<>{}, {.append_tokens = 12, .draft_tokens = 12});
  data::life life(run.packed, c);
  CHECK(life.storage_error() == 0.0);
  REQUIRE(life.append(7).ok());
  REQUIRE(life.append(5).ok());
  CHECK(life.storage_error() == 0.0);
  CHECK(run.packed.position(2, 1, 30) == 70);
  CHECK(run.packed.position(2, 1, 41) == 81);
}

TEST_CASE("layers of one sequence arrive one by one, and rows may rest", "[append][settle]") {
  data::cache const c(shape);
  data::compressed const run(kivi<4>{{.residual = 32}}, c.view(), evidence<>{},
                             {.append_tokens = 70, .draft_tokens = 4});
  data::life life(run.packed, c);
  for (int token = 0; token < 60; ++token) {
    for (index_t layer = 0; layer < 3; ++layer) {
      REQUIRE(life.append(1, {.first_sequence = layer, .sequences = 1}).ok());
      CHECK(run.packed.slots(layer, 0) == 71 + token);
      if (layer < 2) CHECK(run.packed.slots(2, 1) == 70 + token);
    }
    REQUIRE(life.settle().ok());
  }
  CHECK(life.storage_error() < tolerance::four_bits);
  std::uint8_t const active[] = {1, 0};
  REQUIRE(life.append(3, {.first_sequence = 1, .sequences = 2, .active = active}).ok());
  REQUIRE(life.settle({.first_sequence = 1, .sequences = 2, .active = active}).ok());
  CHECK(run.packed.slots(0, 0) == 130);
  CHECK(run.packed.slots(1, 0) == 133);
  CHECK(run.packed.slots(2, 1) == 130);
  CHECK(life.storage_error() < tolerance::four_bits);
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
}

TEST_CASE("appended tokens have no bias and no record yet", "[append]") {
  data::cache const c(shape);
  std::vector<float> const bias(3 * 70, -0.5f);
  auto view = c.view();
  view.bias = bias.data();
  data::compressed const run(pipeline{policies::heavy{}, top_k{{.budget = 40}}}, view,
                             evidence{window_queries{c.queries(8)}},
                             {.append_tokens = 3, .evicts = true, .biases = true});
  REQUIRE(run.result.ok());
  data::life life(run.packed, c);
  REQUIRE(life.append(1).ok());
  CHECK(run.packed.logit_bias(4, 39) == -0.5f);
  CHECK(run.packed.logit_bias(4, 40) == 0.0f);
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
}

TEST_CASE("append refuses, and changes no row", "[append]") {
  data::cache const c(shape);
  data::compressed const run(kivi<4>{{.residual = 32}}, c.view(), evidence<>{},
                             {.append_tokens = 6, .draft_tokens = 2});
  auto const before = data::bytes_of(run.packed);
  std::vector<float> k(6 * 7 * 32, 1.0f), v(k.size(), 2.0f);
  data::buffer scratch(append_bytes(run.packed.layout()));
  auto const of = [](std::vector<float> const& x, index_t n) {
    return dense_rows(x.data(), {3, 2, n, 32});
  };
  auto const refused = [&](rows<> const& a, rows<> const& b, step at = {}) {
    auto const s = append(cpu{}, run.packed, a, b, scratch, at);
    CHECK(std::string(s.message).rfind("kvslim: ", 0) == 0);
    CHECK(data::bytes_of(run.packed) == before);
    return s.code;
  };
  CHECK(refused({}, of(v, 1)) == errc::invalid_pointer);
  CHECK(refused(of(k, 1), {}) == errc::invalid_pointer);
  CHECK(refused(of(k, 1), of(v, 2)) == errc::invalid_shape);
  CHECK(refused(dense_rows(k.data(), {3, 1, 1, 32}), of(v, 1)) == errc::invalid_shape);
  CHECK(refused(dense_rows(k.data(), {3, 2, 0, 32}), of(v, 0)) == errc::invalid_shape);
  CHECK(refused(of(k, 1), of(v, 1), {.first_sequence = 1}) == errc::invalid_shape);
  CHECK(refused(of(k, 1), of(v, 1), {.first_sequence = 2, .sequences = 2}) == errc::invalid_shape);
  CHECK(refused(of(k, 1), of(v, 1), {.first_sequence = -1}) == errc::invalid_shape);
  CHECK(refused(of(k, 7), of(v, 7)) == errc::capacity_exceeded);  // the row
  for (float poison : {std::nanf(""), INFINITY, 1e6f}) {          // 1e6 is beyond the f16 tail
    auto bad = v;
    bad[6 * 32 - 1] = poison;
    CHECK(refused(of(k, 1), of(bad, 1)) == errc::non_finite);
    CHECK(refused(of(bad, 1), of(v, 1)) == errc::non_finite);
  }
  data::buffer small(append_bytes(run.packed.layout()) - 1);
  CHECK(append(cpu{}, run.packed, of(k, 1), of(v, 1), small).code == errc::buffer_too_small);
  CHECK(append(cpu{}, run.packed, of(k, 1), of(v, 1), {}).code == errc::invalid_pointer);
  data::buffer never(run.plan.packed_bytes());
  CHECK(append(cpu{}, packed_cache(run.plan, never), of(k, 1), of(v, 1), scratch).code ==
        errc::corrupt);
  CHECK(never.untouched());
  CHECK(append(cpu{}, packed_cache(run.plan, nullptr, 0), of(k, 1), of(v, 1), scratch).code ==
        errc::invalid_pointer);
  CHECK(scratch.untouched());

  data::life life(run.packed, c);
  for (int i = 0; i < 3; ++i) {
    REQUIRE(life.append(2).ok());
    auto const full = data::bytes_of(run.packed);
    CHECK(life.append(1).code == errc::capacity_exceeded);  // the tail, then the row
    CHECK(data::bytes_of(run.packed) == full);
    REQUIRE(life.settle().ok());
  }
  CHECK(life.append(1).code == errc::capacity_exceeded);
}

TEST_CASE("a tail that is full asks for settle", "[append][settle]") {
  data::cache const c({.kv_heads = 1, .tokens = 40, .head_dim = 32});
  data::compressed const run(int_per_token<8>{{.residual = 4}}, c.view(), evidence<>{},
                             {.append_tokens = 20, .draft_tokens = 3});
  data::life life(run.packed, c);
  REQUIRE(life.append(3).ok());
  auto const full = data::bytes_of(run.packed);
  auto const s = life.append(1);
  CHECK(s.code == errc::capacity_exceeded);
  CHECK(std::string(s.message).find("settle") != std::string::npos);
  CHECK(data::bytes_of(run.packed) == full);
  REQUIRE(life.settle().ok());
  CHECK(run.packed.raw_row(0).key_coded == 39);
  CHECK(life.append(1).ok());
  CHECK(life.storage_error() < tolerance::eight_bits);
}
