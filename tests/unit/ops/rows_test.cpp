// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

TEST_CASE("norm, dot and cosine match the reference", "[rows]") {
  std::mt19937 engine(5);
  std::normal_distribution<float> normal;
  for (index_t n : {1, 7, 8, 64, 80, 96, 112, 128, 256, 576}) {
    std::vector<float> a(static_cast<std::size_t>(n)), b(a.size());
    for (std::size_t i = 0; i < a.size(); ++i) a[i] = normal(engine), b[i] = normal(engine);
    std::vector<double> const x(a.begin(), a.end()), y(b.begin(), b.end());
    double const scale = std::sqrt(reference::dot(x, x) * reference::dot(y, y));
    CHECK(std::abs(ops::dot(a.data(), b.data(), n) - reference::dot(x, y)) <=
          tolerance::accumulated * scale);
    CHECK(std::abs(ops::norm(a.data(), n) - std::sqrt(reference::dot(x, x))) <=
          tolerance::accumulated * std::sqrt(reference::dot(x, x)));
    CHECK(std::abs(ops::cosine(a.data(), b.data(), n) - reference::cosine(x, y)) <=
          tolerance::accumulated);
  }
}

TEST_CASE("the range of a group, whatever its stride and length", "[rows]") {
  std::mt19937 engine(8);
  std::normal_distribution<float> normal;
  for (index_t n : {1, 2, 5, 31, 32, 33, 64, 100, 128})
    for (index_t stride : {1, 3}) {
      std::vector<float> x(static_cast<std::size_t>(n * stride));
      for (float& y : x) y = normal(engine);
      float low = x[0], high = x[0];
      for (index_t i = 0; i < n; ++i) {
        low = std::min(low, x[static_cast<std::size_t>(i * stride)]);
        high = std::max(high, x[static_cast<std::size_t>(i * stride)]);
      }
      auto const r = ops::group_range(x.data(), n, stride);
      CHECK(r.low == low);
      CHECK(r.high == high);
    }
}

TEST_CASE("within a limit means finite too", "[rows]") {
  std::vector<float> x(70, 2.0f);
  CHECK(ops::within(x.data(), 1, 70, 2.0f));
  CHECK_FALSE(ops::within(x.data(), 1, 70, 1.99f));
  for (std::size_t at : {0u, 15u, 16u, 69u})
    for (float bad : {std::nanf(""), INFINITY, -INFINITY, -2.5f}) {
      x[at] = bad;
      CHECK_FALSE(ops::within(x.data(), 1, 70, 2.0f));
      CHECK(ops::within(x.data() + 1, 69, 1, 2.0f) == (at != 1));
      CHECK_FALSE(ops::row_within(channel_range<float>(x.data(), 1, 70), 2.0f));
      x[at] = 2.0f;
    }
}
