// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

namespace reference {

/// One pass that repeats tokens [first, end) of the text; its own keys may be none.
struct repetition {
  std::vector<matrix> queries;  // [query head][query]
  matrix own;
  std::size_t first, end;
};

/// What the passes' queries pay to each token: the maximum, or the sum of squares, over queries and
/// the heads of the group. Tokens of no pass get 0, sinks infinity.
inline std::vector<double> kvzip(std::vector<repetition> const& passes, matrix const& k,
                                 std::size_t sinks, bool squared) {
  std::vector<double> score(k.size(), 0.0);
  for (auto const& pass : passes) {
    std::vector<std::size_t> seen;
    for (std::size_t t = 0; t < std::min({sinks, pass.first, k.size()}); ++t) seen.push_back(t);
    for (std::size_t t = pass.first; t < std::min(pass.end, k.size()); ++t) seen.push_back(t);
    for (auto const& head : pass.queries)
      for (std::size_t i = 0; i < head.size() && !seen.empty(); ++i) {
        matrix keys;
        for (std::size_t const t : seen) keys.push_back(k[t]);
        for (std::size_t j = 0; j <= i && !pass.own.empty(); ++j) keys.push_back(pass.own[j]);
        auto const p = weights(head[i], keys, keys.size());
        for (std::size_t n = 0; n < seen.size(); ++n)
          if (seen[n] >= pass.first)
            score[seen[n]] =
                squared ? score[seen[n]] + p[n] * p[n] : std::max(score[seen[n]], p[n]);
      }
  }
  for (std::size_t t = 0; t < std::min(sinks, k.size()); ++t)
    score[t] = std::numeric_limits<double>::infinity();
  return score;
}

}  // namespace reference
