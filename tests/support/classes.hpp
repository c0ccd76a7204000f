// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What is asked of methods that hold two classes of tokens in two caches.

#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <algorithm>
#include <cmath>

namespace classes {

using namespace kvslim;

/// A keep set of one's own memory.
struct tokens {
  std::vector<std::int64_t> begins;
  std::vector<std::int32_t> cells, ranks;
  keep_set set;

  tokens(index_t rows, index_t room)
      : begins(static_cast<std::size_t>(rows + 1), 0),
        cells(static_cast<std::size_t>(room)),
        ranks(static_cast<std::size_t>(room)),
        set{.begins = begins.data(), .cells = cells.data(), .ranks = ranks.data(), .room = room} {}
};

/// A stored value is the reference's, or as near to what was given: rounding may decide between
/// two codes.
inline void check_near(double got, double expected, double given) {
  double const size = 10 * tolerance::accumulated * std::max({1.0, std::abs(given)});
  CAPTURE(got, expected, given);
  REQUIRE((std::abs(got - expected) <= size ||
           std::abs(std::abs(got - given) - std::abs(expected - given)) <= size));
}

/// Two caches of one view: their attention is that of all their decoded tokens.
template <class One, class Other>
double segments_error(One const& one, Other const& other, data::cache const& c) {
  oracle::asked both(one, c.queries(1));
  auto const& q = both.request.q;
  data::buffer scratch(segments_bytes(q.heads, 1, 1, one.layout(), other.layout()));
  REQUIRE(attend_segments(cpu{}, both.request, scratch, one, other).ok());
  CHECK(scratch.intact());
  double apart = 0, size = 0;
  for (index_t s = 0; s < q.sequences; ++s)
    for (index_t head = 0; head < q.heads; ++head) {
      auto const a = oracle::attend(one, both.request, s, head, 0),
                 b = oracle::attend(other, both.request, s, head, 0);
      double const part = 1 / (1 + std::exp(b.lse - a.lse));
      for (index_t d = 0; d < both.request.out.head_dim; ++d) {
        auto const i = static_cast<std::size_t>(d);
        double const x = part * a.out[i] + (1 - part) * b.out[i];
        apart += std::pow(both.request.out.at(s, head, 0, d) - x, 2);
        size += x * x;
      }
    }
  return std::sqrt(apart / size);
}

}  // namespace classes
