// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <kvslim/isa/path.hpp>

#include <functional>
#include <random>

using namespace kvslim;

TEST_CASE("the total order: score, then lower index, NaN last", "[top_k]") {
  float const nan = std::nanf("");
  float const scores[] = {1, nan, 3, 3, -INFINITY, 2, INFINITY, -0.0f, 0.0f};
  std::vector<std::uint64_t> keys;
  for (index_t i = 0; i < 9; ++i) keys.push_back(ops::order_key(scores[i], i));
  std::sort(keys.rbegin(), keys.rend());
  std::vector<index_t> order;
  for (auto k : keys) order.push_back(ops::key_index(k));
  CHECK(order == std::vector<index_t>{6, 2, 3, 5, 0, 7, 8, 4, 1});
}

TEST_CASE("the largest of many keys are those that a sort finds, on every path", "[top_k]") {
  std::mt19937 engine(5);
  std::normal_distribution<float> normal;
  auto const pick = [&](int kind, index_t i) {
    if (kind == 0) return normal(engine);
    if (kind == 1) return 0.5f;                              // all tied
    if (kind == 2) return static_cast<float>(engine() % 3);  // heavy ties
    if (kind == 3) return std::ldexp(static_cast<float>(engine() % 900), -149);
    if (kind == 4) return i % 7 == 0 ? NAN : i % 5 == 0 ? -INFINITY : -std::exp(normal(engine));
    // Every 32nd of 16384 says nothing of the others: a sample misleads, either way.
    if (kind == 5) return normal(engine) + (i % 32 == 0 ? 20.0f : 0.0f);
    if (kind == 6) return normal(engine) - (i % 32 == 0 ? 20.0f : 0.0f);
    if (kind == 7) return i % 3 == 0 ? 1e30f * normal(engine) : 1.0f + 1e-6f * normal(engine);
    return i % 2 == 0 ? -0.0f : 0.0f;
  };
  isa::path const before = isa::current();
  for (auto const path : isa::every_path) {
    if (isa::use(path) != path) continue;
    for (int kind = 0; kind < 9; ++kind)
      for (index_t n : {1, 15, 130, 1025, 3072, 16384}) {
        std::vector<float> scores;
        for (index_t i = 0; i < n; ++i) scores.push_back(pick(kind, i));
        std::vector<std::uint64_t> keys(scores.size()), sorted(scores.size());
        ops::order_keys(scores.data(), 3, n, keys.data());
        for (index_t i = 0; i < n; ++i)
          sorted[static_cast<std::size_t>(i)] =
              ops::order_key(scores[static_cast<std::size_t>(i)], 3 + i);
        REQUIRE(keys == sorted);
        std::sort(sorted.rbegin(), sorted.rend());
        for (index_t keep : {index_t{1}, n / 40, n / 3, n / 2, n - 1, n}) {
          if (keep < 1) continue;
          auto const end = static_cast<std::ptrdiff_t>(keep);
          std::uint64_t const least = sorted[static_cast<std::size_t>(keep - 1)];
          REQUIRE(ops::nth_key(keys.data(), n, keep) == least);
          std::vector<std::uint8_t> reached(keys.size(), 7);
          ops::reach_keys(keys.data(), n, least, reached.data());
          bool equal = true;
          for (std::size_t i = 0; i < keys.size(); ++i)
            equal = equal && reached[i] == (keys[i] >= least ? 1 : 0);
          REQUIRE(equal);
          auto moved = keys;
          ops::top_keys(moved.data(), n, keep);
          std::sort(moved.begin(), moved.begin() + end, std::greater<>{});
          REQUIRE(std::equal(moved.begin(), moved.begin() + end, sorted.begin()));
          std::sort(moved.rbegin(), moved.rend());
          REQUIRE(moved == sorted);  // nothing is lost
        }
      }
  }
  isa::use(before);
}
