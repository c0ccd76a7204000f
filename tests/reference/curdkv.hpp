// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

namespace reference {

enum class cur_kind { product, key, value, average };

/// CurDKV's scores of one KV head. Windows of zero vectors have share 0.
inline std::vector<double> curdkv(matrix const& k, matrix const& v, std::size_t sinks,
                                  std::size_t window, cur_kind kind) {
  auto const shares = [&](matrix const& x) {
    std::vector<double> norm, share;
    for (auto const& row : x) norm.push_back(dot(row, row));
    for (std::size_t t = 0; t < norm.size() && window > 0; ++t) {
      double sum = 0;
      for (std::size_t i = t - t % window; i < std::min(norm.size(), t - t % window + window); ++i)
        sum += norm[i];
      share.push_back(sum > 0 ? norm[t] / sum : 0);
    }
    return window > 0 ? share : norm;
  };
  auto const a = shares(k), b = shares(v);
  std::vector<double> score;
  for (std::size_t t = 0; t < k.size(); ++t)
    score.push_back(kind == cur_kind::key       ? a[t]
                    : kind == cur_kind::value   ? b[t]
                    : kind == cur_kind::average ? (a[t] + b[t]) / 2
                                                : a[t] * b[t]);
  double const all = std::accumulate(score.begin(), score.end(), 0.0);
  for (std::size_t t = 0; t < score.size(); ++t)
    score[t] = t < sinks ? 1 : all > 0 ? score[t] / all : 0;
  return score;
}

}  // namespace reference
