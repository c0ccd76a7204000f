// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

TEST_CASE("rotation matches the reference and composes", "[rope]") {
  std::mt19937 engine(4);
  std::normal_distribution<float> normal;
  for (bool interleaved : {false, true})
    for (index_t dims : {0, 32, 64}) {
      std::vector<float> x(80);
      for (float& v : x) v = normal(engine);
      rope const r{.base = 10000.0f, .dims = dims, .interleaved = interleaved};
      index_t const n = dims == 0 ? 80 : dims;
      auto const expected = reference::rope({x.begin(), x.end()}, 10000.0,
                                            static_cast<std::size_t>(n), interleaved, 777);
      auto y = x;
      ops::rotate(r, 80, 777, y.data());
      for (std::size_t d = 0; d < 80; ++d)
        CHECK(std::abs(y[d] - expected[d]) <= 5 * tolerance::elementwise);
      ops::rotate(r, 80, -777, y.data());
      for (std::size_t d = 0; d < 80; ++d)
        CHECK(std::abs(y[d] - x[d]) <= 5 * tolerance::elementwise);
      auto z = x;
      ops::rotate(r, 80, 0, z.data());
      CHECK(z == x);
      std::vector<float> table;
      for (index_t i = 0; i < n / 2; ++i)
        table.push_back(static_cast<float>(
            std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(n))));
      rope const from_table{
          .dims = dims, .interleaved = interleaved, .inverse_frequency = table.data()};
      auto w = x;
      ops::rotate(from_table, 80, 5, w.data());
      ops::rotate(r, 80, 5, z.data());
      for (std::size_t d = 0; d < 80; ++d)
        CHECK(std::abs(w[d] - z[d]) <= 5 * tolerance::elementwise);
    }
}
