// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

TEST_CASE("K and V may have any two codecs", "[codec_pair]") {
  constexpr codec_pair k8v4{token_key<8>{.residual = 5},
                            token_value<4>{.group = 32, .residual = 9}};
  static_assert(quantizer<std::remove_const_t<decltype(k8v4)>>);
  CHECK(k8v4.key_codec().residual == 5);
  CHECK(k8v4.value_codec().residual == 9);
  codec_pair<dense_key<f16>, token_value<2>> const defaults{};
  static_assert(quantizer<codec_pair<dense_key<f16>, token_value<2>>>);
  CHECK(defaults.value_codec().group == 0);
}

TEST_CASE("a pair stores K as one quantizer would and V as another", "[codec_pair]") {
  data::cache const c({.kv_heads = 2, .group = 4, .tokens = 75, .head_dim = 80});
  auto const filled = [&](auto policy) { return data::compressed(policy, c.view()); };
  auto const k8 = filled(int_per_token<8>{{.residual = 5}});
  auto const v4 = filled(int_per_token<4>{});
  auto const exact = filled(dense<bf16>{});
  auto const check = [&](auto policy, auto const& keys, auto const& values) {
    auto const pair = filled(policy);
    REQUIRE(pair.result.ok());
    CHECK(pair.intact());
    for (index_t h = 0; h < 2; ++h)
      for (index_t t = 0; t < 75; ++t)
        for (index_t d = 0; d < 80; ++d) {
          REQUIRE(pair.packed.key(h, t, d) == keys.packed.key(h, t, d));
          REQUIRE(pair.packed.value(h, t, d) == values.packed.value(h, t, d));
        }
    CHECK(oracle::attend_error(pair.packed, c) <= tolerance::attend);
  };
  check(codec_pair{token_key<8>{.residual = 5}, token_value<4>{}}, k8, v4);
  check(codec_pair{token_key<8>{.residual = 5}, dense_value<bf16>{}}, k8, exact);
  check(codec_pair{dense_key<bf16>{}, token_value<4>{}}, exact, v4);
}

TEST_CASE("the halves of a pair settle by their own residuals", "[codec_pair]") {
  data::cache const c({.kv_heads = 1, .tokens = 40, .head_dim = 32});
  data::compressed const run(
      codec_pair{token_key<4>{.residual = 2}, token_value<4>{.residual = 30}}, c.view(), {},
      {.append_tokens = 12});
  REQUIRE(run.result.ok());
  data::life life(run.packed, c);
  for (int i = 0; i < 12; ++i) {
    REQUIRE(life.append().ok());
    REQUIRE(life.settle().ok());
  }
  CHECK(life.intact());
  CHECK(life.storage_error() <= tolerance::four_bits);
  for (index_t d = 0; d < 32; ++d)
    CHECK(run.packed.value(0, 30, d) == to_float(from_float<f16>(c.value(0, 0, 30, d))));
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
}
