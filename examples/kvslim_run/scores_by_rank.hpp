// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "problem.hpp"

#include <algorithm>

namespace example {

/// A scorer of scores that were made before, by rank. Unlike given_scores it protects what the
/// scorer that made them protects.
struct scores_by_rank {
  static constexpr kvslim::scorer_traits<> traits{.bulk = true, .states = true};
  float const* data;
  index_t recent;
  kvslim::row_statistics const* statistics;

  explicit scores_by_rank(ranked const& of)
      : data(of.scores.data()),
        recent(of.recent),
        statistics(of.statistics.empty() ? nullptr : of.statistics.data()) {}

  [[nodiscard]] kvslim::status check(kvslim::extents const&) const { return {}; }
  template <class Text, class Evidence>
  [[nodiscard]] kvslim::status check(Text const&, Evidence const&) const {
    return {};
  }
  [[nodiscard]] index_t protected_recent() const { return recent; }
  [[nodiscard]] index_t scratch_floats(kvslim::extents const&) const { return 0; }
  template <class Exec, class Text, class Evidence>
  [[nodiscard]] kvslim::status score(Exec const&, Text const& text, Evidence const&,
                                     kvslim::score_view out, float*) const {
    auto const& e = text.extents();
    for (index_t r = 0; r < e.rows(); ++r) std::copy_n(data + r * e.tokens, e.tokens, out.row(r));
    if (out.statistics != nullptr && statistics != nullptr)
      std::copy_n(statistics, e.rows(), out.statistics);
    return {};
  }
};

}  // namespace example
