// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

namespace reference {

inline std::vector<double> reduce_heads(std::vector<std::vector<double>> const& heads, reduce how) {
  std::vector<double> result = heads[0];
  for (std::size_t h = 1; h < heads.size(); ++h)
    for (std::size_t t = 0; t < result.size(); ++t)
      result[t] =
          how == reduce::maximum ? std::max(result[t], heads[h][t]) : result[t] + heads[h][t];
  if (how == reduce::mean)
    for (double& x : result) x /= static_cast<double>(heads.size());
  return result;
}

/// H2O's score of a prompt: the attention that every key of one KV head got, from the queries
/// [query head][token][channel] of its group. kvpress divides by the queries that could see it.
inline std::vector<double> h2o_prompt(std::vector<matrix> const& q, matrix const& k, reduce how,
                                      bool per_query = false) {
  std::vector<std::vector<double>> heads;
  for (auto const& head : q) heads.push_back(column_sums(head, k));
  auto score = reduce_heads(heads, how);
  if (per_query)
    for (std::size_t t = 0; t < score.size(); ++t) score[t] /= static_cast<double>(k.size() - t);
  return score;
}

/// The `heavy` best among all but the newest, and the `recent` newest.
inline indices h2o_keep(std::vector<double> const& score, std::size_t heavy, std::size_t recent) {
  std::size_t const n = score.size();
  if (n <= heavy + recent) return best(score, n);
  auto kept = best({score.begin(), score.end() - static_cast<std::ptrdiff_t>(recent)}, heavy);
  for (std::size_t t = n - recent; t < n; ++t) kept.push_back(static_cast<std::int64_t>(t));
  return kept;
}

struct h2o_state {
  indices kept;               // tokens
  std::vector<double> score;  // of the kept ones, over the query heads
};

/// H2O as the authors' code that really drops: states after the prompt and after each later token.
/// Every step attends to all that is cached and to itself, adds its weights, then evicts. `q` and
/// `k` hold the prompt and what follows it; the queries are those of one KV head's group.
inline std::vector<h2o_state> h2o_run(std::vector<matrix> const& q, matrix const& k,
                                      std::size_t prompt, std::size_t heavy, std::size_t recent,
                                      reduce how = reduce::sum) {
  std::vector<h2o_state> history;
  std::vector<std::vector<double>> gained(q.size());  // per query head, of the cached tokens
  indices cached;
  for (std::size_t t = 0; t < k.size(); ++t) {
    cached.push_back(static_cast<std::int64_t>(t));
    auto const keys = pick(k, cached);
    for (std::size_t h = 0; h < q.size(); ++h) {
      auto const p = weights(q[h][t], keys, keys.size());
      gained[h].push_back(0.0);
      for (std::size_t i = 0; i < p.size(); ++i) gained[h][i] += p[i];
    }
    if (t + 1 < prompt) continue;  // a prompt is attended to in full and cut once
    auto const stay = h2o_keep(reduce_heads(gained, how), heavy, recent);
    cached = pick(cached, stay);
    for (auto& head : gained) head = pick(head, stay);
    history.push_back({cached, reduce_heads(gained, how)});
  }
  return history;
}

struct h2o_mask {
  std::vector<bool> visible;  // to the next step, whose own slot is the last
  std::vector<double> score;
};

/// H2O as the authors' code that only masks, one query head. It differs from dropping: the slot
/// that leaves the recent window is a candidate one step too late, so it is always hidden for one
/// step and may then come back.
inline std::vector<h2o_mask> h2o_simulated(matrix const& q, matrix const& k, std::size_t prompt,
                                           std::size_t heavy, std::size_t recent) {
  std::vector<h2o_mask> history;
  std::vector<double> score;
  std::vector<bool> visible;
  for (std::size_t t = 0; t < k.size(); ++t) {
    bool const decoding = t >= prompt;
    indices seen;
    for (std::size_t i = 0; i <= t; ++i)
      if (!decoding || visible[i]) seen.push_back(static_cast<std::int64_t>(i));
    auto const p = weights(q[t], pick(k, seen), seen.size());
    score.push_back(0.0);
    for (std::size_t i = 0; i < seen.size(); ++i) score[static_cast<std::size_t>(seen[i])] += p[i];
    if (t + 1 < prompt) continue;
    std::size_t const n = t + 1;
    visible.assign(n + 1, n <= heavy + recent);
    if (n > heavy + recent) {
      for (std::size_t i = n + 1 - recent; i <= n; ++i) visible[i] = true;
      std::vector<double> const old(score.begin(),
                                    score.end() - static_cast<std::ptrdiff_t>(recent));
      for (auto i : best(old, heavy)) visible[static_cast<std::size_t>(i)] = true;
    }
    for (std::size_t i = 0; i + recent < n; ++i)
      if (!visible[i]) score[i] = 0.0;  // forgotten, though the newest ones are spared
    history.push_back({visible, score});
  }
  return history;
}

}  // namespace reference
