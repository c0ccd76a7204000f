// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

namespace reference {

/// Scores of the prefix of one KV head by the queries [query head][token][channel] of its group,
/// which belong to the newest keys: mean over the window, then over the group, then pooled. (The
/// reference of SnapKV pools before it reduces the group, as kvpress does.)
inline std::vector<double> window_score(std::vector<matrix> const& q, matrix const& k,
                                        std::size_t kernel, bool max_pool, reduce how,
                                        bool sum_rows = false) {
  std::size_t const prefix = k.size() - q[0].size();
  std::vector<double> group(prefix, 0.0), pooled(prefix);
  for (auto const& head : q) {
    auto const sum = column_sums(head, k);
    double const share = (sum_rows ? 1.0 : 1.0 / static_cast<double>(head.size())) /
                         (how == reduce::mean ? static_cast<double>(q.size()) : 1.0);
    for (std::size_t t = 0; t < prefix; ++t)
      group[t] =
          how == reduce::maximum ? std::max(group[t], sum[t] * share) : group[t] + sum[t] * share;
  }
  for (std::size_t t = 0; t < prefix; ++t) {
    double sum = 0, most = 0;
    for (std::size_t i = 0; i < kernel; ++i) {
      if (t + i < kernel / 2 || t + i - kernel / 2 >= prefix) continue;
      sum += group[t + i - kernel / 2];
      most = std::max(most, group[t + i - kernel / 2]);
    }
    pooled[t] =
        max_pool ? most : sum / static_cast<double>(kernel);  // zeros beyond the edges count
  }
  return pooled;
}

/// How many of the best `base` per head, taken over all heads of a layer together, fall to each.
/// With `normalized` a head's scores are first weighted by the share that its own best `base` have.
inline std::vector<std::size_t> adakv_winners(std::vector<std::vector<double>> score,
                                              std::size_t base, bool normalized = false) {
  std::vector<double> all;
  for (auto& head : score) {
    if (normalized) {
      double top = 0, total = 0;
      for (auto i : best(head, base)) top += head[static_cast<std::size_t>(i)];
      for (double x : head) total += x;
      for (double& x : head) x *= top / total;
    }
    all.insert(all.end(), head.begin(), head.end());
  }
  std::vector<std::size_t> won(score.size(), 0);
  for (auto i : best(all, base * score.size()))
    ++won[static_cast<std::size_t>(i) / score[0].size()];
  return won;
}

/// The safeguard of the paper: between what a head won and the even share. The authors round each
/// head by itself (halves to even, in single precision) and truncate the even part, so that the
/// total drifts; `exact_total` gives what flooring leaves to the largest fractions instead.
inline std::vector<std::size_t> adakv_interpolated(std::vector<std::size_t> const& won,
                                                   std::size_t base, double alpha,
                                                   bool exact_total = false) {
  std::vector<std::size_t> budget(won.size());
  if (!exact_total) {
    auto const floor = static_cast<float>(static_cast<int>(static_cast<double>(base) * alpha));
    for (std::size_t h = 0; h < won.size(); ++h)
      budget[h] = static_cast<std::size_t>(
          std::nearbyint(static_cast<float>(won[h]) * static_cast<float>(1.0 - alpha) + floor));
    return budget;
  }
  std::vector<double> fraction(won.size());
  std::size_t rest = base * won.size();
  for (std::size_t h = 0; h < won.size(); ++h) {
    double const share =
        static_cast<double>(won[h]) * (1.0 - alpha) + static_cast<double>(base) * alpha;
    budget[h] = static_cast<std::size_t>(std::floor(share + 1e-9));            // 2.9999... means 3
    fraction[h] = std::round((share - static_cast<double>(budget[h])) * 1e9);  // ties are ties
    rest -= budget[h];
  }
  for (auto h : best(fraction, rest)) ++budget[static_cast<std::size_t>(h)];
  return budget;
}

/// Kept indices per head: its best of the prefix, and the window.
inline std::vector<indices> adakv_keep(std::vector<std::vector<double>> const& score,
                                       std::vector<std::size_t> const& budget, std::size_t window) {
  std::vector<indices> kept;
  for (std::size_t h = 0; h < score.size(); ++h) {
    kept.push_back(best(score[h], budget[h]));
    for (std::size_t w = 0; w < window; ++w)
      kept[h].push_back(static_cast<std::int64_t>(score[h].size() + w));
  }
  return kept;
}

/// The safeguard of kvpress: every head is sure of its best int(alpha * budget), the rest goes to
/// the best of all heads together. The total is exact. `budget` and the scores hold the window.
inline std::vector<indices> adakv_pinned(std::vector<std::vector<double>> score, std::size_t budget,
                                         double alpha) {
  std::size_t const tokens = score[0].size();
  std::vector<double> all;
  for (auto& head : score) {
    for (auto i : best(head, static_cast<std::size_t>(static_cast<double>(budget) * alpha)))
      head[static_cast<std::size_t>(i)] = std::numeric_limits<double>::infinity();
    all.insert(all.end(), head.begin(), head.end());
  }
  std::vector<indices> kept(score.size());
  for (auto i : best(all, budget * score.size()))
    kept[static_cast<std::size_t>(i) / tokens].push_back(i % static_cast<std::int64_t>(tokens));
  return kept;
}

}  // namespace reference
