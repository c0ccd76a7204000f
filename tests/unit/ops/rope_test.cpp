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

TEST_CASE("sines and cosines are the C library's floats on every path", "[rope]") {
  std::mt19937_64 engine(3);
  std::size_t angles = 0, apart = 0, elsewhere = 0;
  index_t const n = 48;
  isa::path const before = isa::current();
  for (int k = 0; k < 4000; ++k) {
    auto const most = std::uint64_t{1} << (1 + k % 21);
    auto const by = static_cast<double>(engine() % (2 * most)) - static_cast<double>(most);
    std::vector<double> each;
    for (index_t i = 0; i < n; ++i) {
      double const quarter = 1.5707963267948966 * static_cast<double>(engine() % 64);
      each.push_back(k % 5 == 0 && by != 0.0
                         ? quarter / by  // next to where one of them is zero
                         : std::pow(1e4, -static_cast<double>(i) / static_cast<double>(n)));
    }
    for (isa::path const path : isa::every_path) {
      if (isa::use(path) != path) continue;
      std::vector<float> s(static_cast<std::size_t>(n)), c(s.size());
      bool const ran = kvslim::detail::sines_and_cosines(each.data(), n, by, s.data(), c.data());
      for (index_t i = 0; i < n; ++i) {
        double const angle = by * each[static_cast<std::size_t>(i)];
        auto const x = kvslim::detail::sine_and_cosine_of(angle);
        auto const at = static_cast<std::size_t>(i);
        if (ran && std::abs(angle) < kvslim::detail::most_turned)
          elsewhere += x.s != s[at] || x.c != c[at];
        ++angles;
        apart += x.s != static_cast<float>(std::sin(angle)) ||
                 x.c != static_cast<float>(std::cos(angle));
      }
    }
    isa::use(before);
  }
  CHECK(elsewhere == 0);
  CHECK(apart * 1000000 <= angles);
}

TEST_CASE("rows are turned to the same bits on every path", "[rope]") {
  std::mt19937 engine(5);
  std::normal_distribution<float> normal;
  isa::path const before = isa::current();
  for (bool const interleaved : {false, true})
    for (index_t const dim : {6, 40, 80, 128, 160, 512})
      for (index_t const members : {1, 3}) {
        index_t const n = 5;
        rope const r{.base = 500000.0f, .interleaved = interleaved};
        std::vector<float> rows;
        for (index_t i = 0; i < members * n * dim; ++i) rows.push_back(normal(engine));
        auto const delta = [](index_t t) {
          constexpr std::int64_t by[] = {0, 1, -77, 131072, -2000000000};
          return by[t];
        };
        auto expected = rows;
        for (index_t m = 0; m < members; ++m)
          for (index_t t = 0; t < n; ++t)
            for (index_t i = 0; i < dim / 2; ++i) {
              auto const [a, b] = r.pair(dim, i);
              float* const row = expected.data() + (m * n + t) * dim;
              if (delta(t) != 0)
                ops::pair_turn(static_cast<double>(delta(t)) * r.frequency(dim, i))(row[a], row[b]);
            }
        for (isa::path const path : isa::every_path) {
          if (isa::use(path) != path) continue;
          auto mine = rows;
          ops::rotate_rows(r, dim, n, members, delta, mine.data());
          CHECK(mine == expected);
        }
        isa::use(before);
      }
}
