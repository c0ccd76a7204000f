// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

TEST_CASE("dense names its codecs", "[dense]") {
  CHECK(dense<e4m3>{}.key_codec().sizes(64, 1).block_bytes == 16 * 64);
  CHECK(std::same_as<decltype(dense{}), dense<f16>>);
}

TEMPLATE_TEST_CASE("a stored cache holds every value rounded once", "[dense]", float, f16, bf16,
                   e4m3, e5m2) {
  for (data::shape const s : {data::shape{.tokens = 37, .head_dim = 80}, data::shape{.sequences = 2,
                                                                         .kv_heads = 1,
                                                                         .group = 8,
                                                                         .tokens = 1,
                                                                         .head_dim = 5,
                                                                         .value_dim = 7}}) {
    data::cache const c(s);
    data::compressed const run(dense<TestType>{}, c.view());
    REQUIRE(run.result.ok());
    CHECK(run.intact());
    auto const once = [](float x) { return to_float(from_float<TestType>(x)); };
    for (index_t r = 0; r < s.rows(); ++r)
      for (index_t t = 0; t < s.tokens; ++t) {
        index_t const at = r / s.kv_heads, h = r % s.kv_heads;
        for (index_t d = 0; d < s.head_dim; ++d)
          REQUIRE(run.packed.key(r, t, d) == once(c.key(at, h, t, d)));
        for (index_t d = 0; d < s.value_width(); ++d)
          REQUIRE(run.packed.value(r, t, d) == once(c.value(at, h, t, d)));
      }
    CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  }
}

TEMPLATE_TEST_CASE("a dense token's bytes are its channels'", "[dense]", float, f16, bf16, e4m3,
                   e5m2) {
  auto const bytes = [](index_t tokens) {
    return make_plan(dense<TestType>{}, extents{1, 1, tokens, 48, 32}).packed_bytes();
  };
  CHECK(bytes(4096) - bytes(2048) == 2048 * (48 + 32) * sizeof(TestType));
}

TEST_CASE("a pipeline without a quantizer stores f16", "[dense]") {
  data::cache const c({.tokens = 30, .head_dim = 16});
  data::compressed const plain(pipeline{knorm{}, top_k{{.budget = 10}}}, c.view());
  data::compressed const said(pipeline{knorm{}, top_k{{.budget = 10}}, dense<f16>{}}, c.view());
  REQUIRE(plain.result.ok());
  CHECK(plain.storage.copy() == said.storage.copy());
}

TEST_CASE("appended tokens are stored as those of the prompt", "[dense]") {
  data::cache const c({.tokens = 20, .head_dim = 32});
  data::compressed const run(dense<bf16>{}, c.view(), {}, {.append_tokens = 9, .draft_tokens = 5});
  REQUIRE(run.result.ok());
  data::life life(run.packed, c);
  for (index_t n : {1, 5, 3}) {
    REQUIRE(life.append(n).ok());
    REQUIRE(life.settle().ok());
  }
  CHECK(life.intact());
  CHECK(life.storage_error() == 0.0);  // data::life gives values that bf16 holds
  CHECK(run.packed.tokens(0, 0) == 29);
}

TEST_CASE("dense storage refuses values that its type does not hold, and writes nothing",
          "[dense][bad_input]") {
  data::cache c({.kv_heads = 1, .tokens = 8, .head_dim = 8});
  auto const outcome = [&](auto policy) {
    data::compressed const run(policy, c.view());
    CHECK((run.result.ok() || run.storage.untouched()));
    return run.result.code;
  };
  for (float x : {500.0f, 70000.0f, -70000.0f}) {
    for (std::vector<float>* half : {&c.k, &c.v}) {
      float const before = (*half)[11];
      (*half)[11] = x;
      CHECK(outcome(dense<float>{}) == errc::ok);
      CHECK(outcome(dense<bf16>{}) == errc::ok);
      CHECK(outcome(dense<f16>{}) == (std::abs(x) < 65504.0f ? errc::ok : errc::non_finite));
      CHECK(outcome(dense<e4m3>{}) == errc::non_finite);
      (*half)[11] = before;
    }
  }
  for (float x : {std::nanf(""), INFINITY, -INFINITY}) {
    c.v[3] = x;
    CHECK(outcome(dense<float>{}) == errc::non_finite);
  }
}
