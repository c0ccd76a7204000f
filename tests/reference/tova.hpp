// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

namespace reference {

/// TOVA's score of a layer: the newest query's weights, averaged over all query heads; one set for
/// all KV heads. `q` is [query head][channel], `k` [KV head][token][channel].
inline std::vector<double> tova(matrix const& q, std::vector<matrix> const& k) {
  std::size_t const tokens = k[0].size(), group = q.size() / k.size();
  std::vector<double> score(tokens, 0.0);
  for (std::size_t h = 0; h < q.size(); ++h) {
    auto const p = weights(q[h], k[h / group], tokens);
    for (std::size_t t = 0; t < tokens; ++t) score[t] += p[t] / static_cast<double>(q.size());
  }
  return score;
}

/// Kept indices after the prompt and after each later token. `q` is [query head][token][channel]
/// and `k` [KV head][token][channel], both with the prompt and everything after it. The authors may
/// drop the token that just came; kvpress, and `protect_newest`, may not.
inline std::vector<indices> tova_run(std::vector<matrix> const& q, std::vector<matrix> const& k,
                                     std::size_t prompt, std::size_t capacity,
                                     bool protect_newest = false) {
  std::vector<indices> history;
  indices kept;
  for (std::size_t t = 0; t < k[0].size(); ++t) {
    kept.push_back(static_cast<std::int64_t>(t));
    if (t + 1 < prompt) continue;  // the prompt is cut once, by its last query
    if (kept.size() > capacity) {
      matrix newest;
      std::vector<matrix> keys;
      for (auto const& head : q) newest.push_back(head[t]);
      for (auto const& head : k) keys.push_back(pick(head, kept));
      auto score = tova(newest, keys);
      if (protect_newest) score.back() = 2.0;  // no weight exceeds 1
      kept = pick(kept, best(score, capacity));
    }
    history.push_back(kept);
  }
  return history;
}

}  // namespace reference
