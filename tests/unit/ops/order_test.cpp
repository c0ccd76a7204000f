// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

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
