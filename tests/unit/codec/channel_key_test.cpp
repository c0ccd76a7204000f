// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/stored.hpp"

#include <kvslim/codec/channel_key.hpp>
#include <kvslim/codec/token_key.hpp>

#include <limits>
#include <numeric>

using namespace kvslim;

namespace {

constexpr index_t huge = std::numeric_limits<index_t>::max();

template <int Bits, class Param>
void check(index_t group, index_t dim) {
  index_t const tokens = std::lcm(group, index_t{32});
  channel_key<Bits, f16, Param> const codec{.group = group, .residual = tokens};
  REQUIRE(codec.check(dim).ok());
  auto const x = data::rows(2 * tokens, dim);
  data::stored const s(codec, x, dim);
  CHECK(s.sizes.block_tokens == tokens);
  CHECK(s.sizes.block_bytes ==
        tokens * dim * Bits / 8 + tokens / group * 2 * dim * static_cast<index_t>(sizeof(Param)));
  double const levels = (1 << Bits) - 1;
  for (index_t t = 0; t < 2 * tokens; ++t)
    for (index_t d = 0; d < dim; ++d) {
      double const step = to_float(s.parameters(t, d).scale);
      REQUIRE(std::abs(s.value(t, d) - x[static_cast<std::size_t>(t * dim + d)]) <=
              step * (0.5 + levels * 0x1p-11) + 1e-6);
    }
  auto const q = data::rows(9, dim, 1.0f, 0.0f, 2);
  for (index_t heads : {1, 3, 4, 8})
    for (index_t first : {index_t{0}, tokens - 32, tokens + 5})
      for (index_t n : {1, 17, 27})
        CHECK(data::dot_error(s, first, n, heads, q) <= data::roundings(45));
}

}  // namespace

TEST_CASE("keys per channel stay within half a step and dot reads them", "[channel_key]") {
  check<2, f16>(32, 128);
  check<4, f16>(64, 64);
  check<8, f16>(128, 80);
  check<8, bf16>(96, 4);
  check<4, float>(32, 100);
  check<1, f16>(32, 36);
}

TEST_CASE("groups of keys need not be whole runs", "[channel_key]") {
  check<2, f16>(16, 36);
  check<8, bf16>(48, 4);
  check<4, float>(40, 32);
  check<2, f16>(8, 80);
  check<8, bf16>(7, 4);
  check<4, float>(1, 4);
  check<4, f16>(160, 36);
  check<8, f16>(1024, 4);
}

TEST_CASE("parameters of a group are those of its own tokens", "[channel_key]") {
  index_t const dim = 36;
  auto const x = data::rows(96, dim, 1.0f, 5.0f);
  for (auto const mode : {rounding::precise, rounding::authors}) {
    data::stored const mixed(channel_key<4>{.group = 48, .residual = 96, .rounding = mode}, x, dim);
    for (index_t half = 0; half < 2; ++half) {
      // Twice the same 48 tokens have the range that they have once.
      std::vector<float> twice(x.begin() + half * 48 * dim, x.begin() + (half + 1) * 48 * dim);
      twice.insert(twice.end(), twice.begin(), twice.begin() + 48 * dim);
      data::stored const alone(channel_key<4>{.group = 96, .residual = 96, .rounding = mode}, twice,
                               dim);
      for (index_t t = 0; t < 48; ++t)
        for (index_t d = 0; d < dim; ++d) {
          REQUIRE(mixed.value(half * 48 + t, d) == alone.value(t, d));
          REQUIRE(mixed.code(half * 48 + t, d) == alone.code(t, d));
        }
    }
  }
}

TEST_CASE("outlier channels cost dot no accuracy", "[channel_key]") {
  // Added one by one, 256 channels lose several times this.
  auto const x = data::rows(32, 256, 1.0f, 300.0f), q = data::rows(4, 256, 1.0f, 3.0f, 2);
  data::stored const s(channel_key<8, f16, float>{.residual = 32}, x, 256);
  CHECK(data::dot_error(s, 0, 32, 4, q) <= data::roundings(45));
}

TEST_CASE("outlier channels hurt codes per token and not codes per channel", "[channel_key]") {
  auto const x = data::rows(32, 64, 1.0f, 60.0f);
  data::stored const a(channel_key<4>{.residual = 32}, x, 64);
  data::stored const b(token_key<4>{}, x, 64);
  double per_channel = 0, per_token = 0;
  for (index_t t = 0; t < 32; ++t)
    for (index_t d = 0; d < 64; ++d) {
      if (d == 3) continue;
      float const exact = x[static_cast<std::size_t>(t * 64 + d)];
      per_channel += std::pow(a.value(t, d) - exact, 2);
      per_token += std::pow(b.value(t, d) - exact, 2);
    }
  CHECK(per_channel * 20 < per_token);
}

TEST_CASE("encoding decoded keys again changes no code", "[channel_key]") {
  auto x = data::rows(64, 64);
  channel_key<4> const codec{.residual = 32};
  data::stored const first(codec, x, 64);
  for (index_t t = 0; t < 64; ++t)
    for (index_t d = 0; d < 64; ++d) x[static_cast<std::size_t>(t * 64 + d)] = first.value(t, d);
  data::stored const second(codec, x, 64);
  for (index_t t = 0; t < 64; ++t)
    for (index_t d = 0; d < 64; ++d) REQUIRE(first.code(t, d) == second.code(t, d));
}

TEST_CASE("what keys per channel code, and what they refuse", "[channel_key]") {
  auto const sizes = channel_key<2>{.group = 32, .residual = 128}.sizes(64, 1000);
  CHECK(sizes.coded(127) == 0);
  CHECK(sizes.coded(300) == 256);
  CHECK(sizes.tail() == 127);
  CHECK(channel_key<2>{}.check(64).ok());
  for (index_t group : {index_t{0}, index_t{-32}, index_t{33}, index_t{520}, index_t{1056}, huge,
                        huge - 31, -huge - 1})
    CHECK(channel_key<2>{.group = group, .residual = std::lcm(group % 4096, index_t{32})}
              .check(64)
              .code == errc::invalid_option);
  CHECK(channel_key<2>{.group = 16, .residual = 16}.check(64).code == errc::invalid_option);
  CHECK(channel_key<2>{.group = 48, .residual = 48}.check(64).code == errc::invalid_option);
  CHECK(channel_key<2>{.group = 48, .residual = 96}.check(64).ok());
  CHECK(channel_key<2>{.group = 31, .residual = 992}.check(64).ok());
  for (index_t residual :
       {index_t{0}, index_t{-32}, index_t{48}, index_t{1} << 21, huge, -huge - 1})
    CHECK(channel_key<2>{.residual = residual}.check(64).code == errc::invalid_option);
  for (index_t dim : {index_t{0}, index_t{-4}, index_t{66}, index_t{1} << 21, huge, -huge - 1})
    CHECK(channel_key<2>{}.check(dim).code == errc::invalid_shape);
  CHECK(channel_key<2, f16, float>{.rounding = rounding::authors}.check(64).code ==
        errc::invalid_option);
  CHECK(channel_key<2>{.rounding = static_cast<rounding>(7)}.check(64).code ==
        errc::invalid_option);
}
