// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"

#include <kvslim/codec/dense.hpp>
#include <kvslim/codec/token_key.hpp>
#include <kvslim/codec/token_value.hpp>
#include <kvslim/quant/codec_pair.hpp>
#include <kvslim/quant/dense.hpp>
#include <kvslim/quant/int_per_token.hpp>

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

TEST_CASE("int_per_token and dense name their codecs", "[int_per_token][dense]") {
  int_per_token<8, f16, float> const policy{{.residual = 3}};
  CHECK(policy.key_codec().residual == 3);
  CHECK(policy.value_codec().residual == 3);
  CHECK(policy.key_codec().sizes(64, 1).block_bytes == 32 * 64 + 2 * 4 * 32);
  CHECK(policy.value_codec().sizes(64, 1).block_bytes == 2 * 128 + 2 * 4 * 4);
  CHECK(dense<e4m3>{}.key_codec().sizes(64, 1).block_bytes == 16 * 64);
}
