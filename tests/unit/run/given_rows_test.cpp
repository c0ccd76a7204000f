// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Rows that callers hand over: on every path, of every type and stride, what plain loops say.

#include "support/catch.hpp"

#include <kvslim/isa/path.hpp>
#include <kvslim/run/given_rows.hpp>

#include <cstring>
#include <limits>
#include <random>
#include <vector>

using namespace kvslim;

namespace {

constexpr index_t dims[] = {1, 8, 16, 20, 48, 80, 128};

/// What the memory may look like: dense, channels apart, gaps between tokens or heads.
strided layout_of(int kind, index_t heads, index_t tokens, index_t dim) {
  index_t const channel = kind == 1 ? 2 : 1, token = channel * dim + (kind == 2 ? 3 : 0),
                head = tokens * token + (kind == 3 ? 5 : 0);
  return {heads * head + 7, head, token, channel};
}

template <class T>
void compare() {
  constexpr index_t sequences = 2, heads = 3, tokens = 2;
  std::mt19937 engine(3);
  std::normal_distribution<float> normal(0.0f, 20.0f);
  for (index_t const dim : dims)
    for (int kind = 0; kind < 4; ++kind) {
      strided const at = layout_of(kind, heads, tokens, dim);
      std::vector<T> memory(static_cast<std::size_t>(sequences * at.sequence + 1));
      for (T& x : memory) x = from_float<T>(normal(engine));
      rows_view<T> const view{memory.data() + 1, sequences, heads, tokens, dim, at};
      rows<> const given = rows_view<T const>(view);
      for (index_t s = 0; s < sequences; ++s)
        for (index_t h = 0; h < heads; ++h)
          for (index_t t = 0; t < tokens; ++t) {
            std::vector<float> seen(static_cast<std::size_t>(dim + 1), -1.0f), plain = seen;
            detail::load_given(given, s, h, t, seen.data());
            given.load(s, h, t, plain.data());
            REQUIRE(std::memcmp(seen.data(), plain.data(), seen.size() * sizeof(float)) == 0);
            for (float const limit : {10.0f, 60.0f, ops::largest_float})
              REQUIRE(detail::given_within(given, s, h, t, limit) ==
                      ops::row_within(given, s, h, t, limit));
            std::vector<float> sums(static_cast<std::size_t>(dim));
            for (float& x : sums) x = normal(engine);
            sums[0] = std::numeric_limits<float>::quiet_NaN();
            auto one = memory, other = memory;
            rows_out<> const to = rows_view<T>{one.data() + 1, sequences, heads, tokens, dim, at},
                             as = rows_view<T>{other.data() + 1, sequences, heads, tokens, dim, at};
            detail::store_given(to, s, h, t, sums.data());
            as.store(s, h, t, sums.data());
            REQUIRE(std::memcmp(one.data(), other.data(), one.size() * sizeof(T)) == 0);
            auto scaled = seen;
            detail::scale_given(scaled.data(), dim, 0.3f);
            for (float& x : plain) x *= &x == &plain.back() ? 1.0f : 0.3f;
            REQUIRE(std::memcmp(scaled.data(), plain.data(), plain.size() * sizeof(float)) == 0);
          }
      CHECK(detail::all_given_within(given, ops::largest_float));
      CHECK(detail::all_given_within(given, 10.0f) == ops::all_within(given, 10.0f));
      // One bad value is found wherever it is; what lies between rows is not looked at.
      std::vector<bool> inside(memory.size(), false);
      for (index_t s = 0; s < sequences; ++s)
        for (index_t h = 0; h < heads; ++h)
          for (index_t t = 0; t < tokens; ++t)
            for (index_t d = 0; d < dim; ++d)
              inside[static_cast<std::size_t>(1 + at.offset(s, h, t) + d * at.channel)] = true;
      for (std::size_t i = 0; i < memory.size(); ++i) {
        T const kept = memory[i];
        memory[i] = from_float<T>(std::numeric_limits<float>::quiet_NaN());
        REQUIRE(detail::all_given_within(given, ops::largest_float) == !inside[i]);
        memory[i] = kept;
      }
    }
}

}  // namespace

TEST_CASE("given rows are read, checked and written as plain loops do", "[given_rows]") {
  auto const before = isa::current();
  for (auto const path : isa::every_path) {
    if (isa::use(path) != path) continue;
    compare<float>();
    compare<f16>();
    compare<bf16>();
    compare<e4m3>();
    compare<e5m2>();
  }
  isa::use(before);
}
