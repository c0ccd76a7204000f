// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/stored.hpp"

#include <kvslim/codec/token_value.hpp>

#include <limits>

using namespace kvslim;

namespace {

template <int Bits, class Param>
void check(index_t tokens, index_t dim, index_t group) {
  token_value<Bits, f16, Param> const codec{.group = group};
  REQUIRE(codec.check(dim).ok());
  auto const x = data::rows(tokens, dim);
  data::stored const s(codec, x, dim), singly(codec, x, dim, 1), some(codec, x, dim, 3);
  CHECK(singly.bytes == s.bytes);
  CHECK(some.bytes == s.bytes);
  double const levels = (1 << Bits) - 1;
  for (index_t t = 0; t < tokens; ++t)
    for (index_t d = 0; d < dim; ++d) {
      double const step = to_float(s.parameters(t, d).scale);
      double const exact = x[static_cast<std::size_t>(t * dim + d)];
      double const alone = step == 0 ? std::abs(exact) * 0x1p-11 : 0;  // one value: its minimum
      REQUIRE(std::abs(s.value(t, d) - exact) <= step * (0.5 + levels * 0x1p-11) + alone + 1e-6);
    }
  auto const p = data::rows(8, run_tokens, 1.0f, 0.0f, 2);
  for (index_t heads : {1, 3, 4, 8})
    for (index_t first = 0; first < tokens; first += 11) {
      index_t const n = std::min(tokens - first, run_tokens);
      CHECK(data::accumulate_error(s, first, n, heads, p) <= data::roundings(40));
    }
}

}  // namespace

TEST_CASE("values per token stay within half a step and accumulate reads them", "[token_value]") {
  check<2, f16>(70, 128, 32);
  check<4, f16>(33, 80, 16);  // groups that share a unit
  check<4, f16>(33, 112, 28);
  check<8, f16>(40, 72, 0);  // a unit that is not full
  check<8, bf16>(64, 64, 64);
  check<4, float>(9, 100, 50);
  check<2, f16>(5, 3, 1);
  check<2, f16>(8, 1056, 32);  // more groups than kernels have room for
}

TEST_CASE("groups of equal values decode to exactly that value", "[token_value]") {
  std::vector<float> const x(64, -1.5f);
  data::stored const s(token_value<2>{.group = 32}, x, 32);
  for (index_t t = 0; t < 2; ++t) CHECK(s.value(t, 7) == -1.5f);
}

TEST_CASE("what values per token code, and what they refuse", "[token_value]") {
  constexpr index_t huge = std::numeric_limits<index_t>::max();
  CHECK(token_value<4>{.residual = 128}.sizes(64, 300).coded(300) == 172);
  for (index_t group : {index_t{-1}, index_t{33}, index_t{128}, huge, -huge - 1})
    CHECK(token_value<4>{.group = group}.check(64).code == errc::invalid_option);
  for (index_t residual : {index_t{-1}, (index_t{1} << 20) + 1, huge, -huge - 1})
    CHECK(token_value<4>{.residual = residual}.check(64).code == errc::invalid_option);
  for (index_t dim : {index_t{0}, index_t{-64}, huge, -huge - 1})
    CHECK(token_value<4>{}.check(dim).code == errc::invalid_shape);
  CHECK(token_value<4, f16, bf16>{.rounding = rounding::authors}.check(64).code ==
        errc::invalid_option);
}
