// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/stored.hpp"

#include <kvslim/codec/dense.hpp>

#include <limits>

using namespace kvslim;

TEMPLATE_TEST_CASE("dense keys and values are rounded once", "[dense]", f16, bf16, float, e4m3,
                   e5m2) {
  for (index_t dim : {1, 15, 16, 36, 80, 128}) {
    auto const x = data::rows(50, dim), q = data::rows(9, dim, 1.0f, 0.0f, 2),
               p = data::rows(8, run_tokens, 1.0f, 0.0f, 3);
    data::stored const k(dense_key<TestType>{}, x, dim);
    data::stored const v(dense_value<TestType>{}, x, dim);
    CHECK(data::stored(dense_key<TestType>{}, x, dim, 5).bytes == k.bytes);
    for (index_t t = 0; t < 50; ++t)
      for (index_t d = 0; d < dim; ++d) {
        float const once = to_float(from_float<TestType>(x[static_cast<std::size_t>(t * dim + d)]));
        REQUIRE(k.value(t, d) == once);
        REQUIRE(v.value(t, d) == once);
      }
    for (index_t heads : {1, 3, 4, 8})
      for (index_t first : {0, 3, 18}) {
        CHECK(data::dot_error(k, first, 32, heads, q) <= data::roundings(40));
        CHECK(data::accumulate_error(v, first, 32, heads, p) <= data::roundings(35));
      }
  }
}

TEMPLATE_TEST_CASE("dense storage refuses what its type cannot hold", "[dense]", f16, bf16, float,
                   e4m3, e5m2) {
  float const limit = dense_key<TestType>{}.limit();
  CHECK(to_float(from_float<TestType>(limit)) == limit);
  CHECK(dense_value<TestType>{}.limit() == limit);
  constexpr index_t huge = std::numeric_limits<index_t>::max();
  for (index_t dim : {index_t{0}, index_t{-1}, huge, -huge - 1})
    CHECK(dense_key<TestType>{}.check(dim).code == errc::invalid_shape);
}
