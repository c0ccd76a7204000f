// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/stored.hpp"

#include <kvslim/codec/token_key.hpp>

#include <limits>

using namespace kvslim;

namespace {

template <int Bits, class Param>
void check(index_t tokens, index_t dim) {
  token_key<Bits, f16, Param> const codec{};
  REQUIRE(codec.check(dim).ok());
  auto const x = data::rows(tokens, dim);
  data::stored const s(codec, x, dim), singly(codec, x, dim, 1), some(codec, x, dim, 7);
  CHECK(singly.bytes == s.bytes);
  CHECK(some.bytes == s.bytes);
  double const levels = (1 << Bits) - 1;
  for (index_t t = 0; t < tokens; ++t)
    for (index_t d = 0; d < dim; ++d) {
      double const step = to_float(s.parameters(t, d).scale);
      REQUIRE(std::abs(s.value(t, d) - x[static_cast<std::size_t>(t * dim + d)]) <=
              step * (0.5 + levels * 0x1p-11) + 1e-6);
    }
  auto const q = data::rows(9, dim, 1.0f, 0.0f, 2);
  for (index_t heads : {1, 3, 4, 8})
    for (index_t first = 0; first < tokens; first += 13) {
      index_t const n = std::min(tokens - first, 32 - first % 32);
      CHECK(data::dot_error(s, first, n, heads, q) <= data::roundings(45));
    }
}

}  // namespace

TEST_CASE("keys per token stay within half a step and dot reads them", "[token_key]") {
  check<8, f16>(100, 64);
  check<4, f16>(33, 80);
  check<4, bf16>(70, 128);
  check<8, f16>(1, 576);
  check<2, float>(40, 4);
}

TEST_CASE("a token is coded again without its neighbours", "[token_key]") {
  auto x = data::rows(40, 64);
  token_key<4> const codec{};
  data::stored s(codec, x, 64);
  auto const other = data::rows(1, 64, 3.0f, 0.0f, 9);
  codec.encode(other.data(), s.site(37), s.bytes.data() + s.offset(37));
  std::copy(other.begin(), other.end(), x.begin() + 37 * 64);
  CHECK(s.bytes == data::stored(codec, x, 64).bytes);
}

TEST_CASE("what keys per token code, and what they refuse", "[token_key]") {
  constexpr index_t huge = std::numeric_limits<index_t>::max();
  CHECK(token_key<4>{.residual = 16}.sizes(64, 100).coded(100) == 84);
  CHECK(token_key<4>{.residual = 16}.sizes(64, 100).tail() == 16);
  for (index_t residual : {index_t{-1}, (index_t{1} << 20) + 1, huge, -huge - 1})
    CHECK(token_key<4>{residual}.check(64).code == errc::invalid_option);
  for (index_t dim : {index_t{0}, index_t{-4}, index_t{66}, huge, -huge - 1})
    CHECK(token_key<4>{}.check(dim).code == errc::invalid_shape);
}
