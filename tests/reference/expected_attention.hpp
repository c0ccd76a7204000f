// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

namespace reference {

struct expected_attention_options {
  std::size_t future = 512, sinks = 4;
  bool covariance = true, value_norm = true;
  double epsilon = 0, base = 10000, scaling = 1;
  std::size_t rotated = 0;  // channels; 0: all
  bool interleaved = false;
};

struct query_moments {
  std::vector<double> mean;
  matrix covariance;
};

inline query_moments moments_of(matrix const& queries, std::size_t dim) {
  query_moments m{std::vector<double>(dim), matrix(dim, std::vector<double>(dim))};
  auto const n = static_cast<double>(queries.size());
  for (auto const& q : queries)
    for (std::size_t d = 0; d < dim; ++d) m.mean[d] += q[d] / n;
  for (auto const& q : queries)
    for (std::size_t i = 0; i < dim; ++i)
      for (std::size_t j = 0; j < dim; ++j)
        m.covariance[i][j] += (q[i] - m.mean[i]) * (q[j] - m.mean[j]) / n;
  return m;
}

/// The mean over positions [first, first + future) of the matrices that rotate by one.
inline matrix mean_rotation(expected_attention_options const& o, std::size_t dim,
                            std::size_t first) {
  std::size_t const rotated = o.rotated == 0 ? dim : o.rotated, half = rotated / 2;
  matrix r(dim, std::vector<double>(dim));
  for (std::size_t d = rotated; d < dim; ++d) r[d][d] = 1;
  for (std::size_t i = 0; i < half; ++i) {
    double const theta =
        std::pow(o.base, -2.0 * static_cast<double>(i) / static_cast<double>(rotated));
    std::size_t const a = o.interleaved ? 2 * i : i, b = o.interleaved ? 2 * i + 1 : i + half;
    for (std::size_t p = first; p < first + o.future; ++p) {
      double const angle = static_cast<double>(p) * theta, n = static_cast<double>(o.future);
      r[a][a] += o.scaling * std::cos(angle) / n;
      r[b][b] += o.scaling * std::cos(angle) / n;
      r[a][b] -= o.scaling * std::sin(angle) / n;
      r[b][a] += o.scaling * std::sin(angle) / n;
    }
  }
  return r;
}

/// Scores of the tokens of one KV head from the moments of its query heads; infinity for sinks.
inline std::vector<double> expected_attention(std::vector<query_moments> const& heads,
                                              matrix const& k, matrix const& v,
                                              std::size_t next_position,
                                              expected_attention_options const& o) {
  std::vector<double> score(k.size(), 0.0);
  std::size_t const dim = heads[0].mean.size();
  matrix const r = mean_rotation(o, dim, next_position);
  for (auto const& m : heads) {
    std::vector<double> z(k.size(), -std::numeric_limits<double>::infinity());
    double most = z.empty() ? 0 : z[0], total = 0;
    for (std::size_t t = o.sinks; t < k.size(); ++t) {
      std::vector<double> x(dim);  // the key rotated back: R' k
      for (std::size_t i = 0; i < dim; ++i)
        for (std::size_t j = 0; j < dim; ++j) x[i] += r[j][i] * k[t][j];
      z[t] = dot(m.mean, x) / std::sqrt(static_cast<double>(dim));
      for (std::size_t i = 0; i < dim && o.covariance; ++i)
        z[t] += x[i] * dot(m.covariance[i], x) / (2 * static_cast<double>(dim));
      most = std::max(most, z[t]);
    }
    for (std::size_t t = o.sinks; t < k.size(); ++t) total += std::exp(z[t] - most);
    for (std::size_t t = o.sinks; t < k.size(); ++t)
      score[t] += std::exp(z[t] - most) / total / static_cast<double>(heads.size());
  }
  for (std::size_t t = 0; t < k.size(); ++t) {
    if (t < o.sinks)
      score[t] = std::numeric_limits<double>::infinity();
    else if (o.value_norm)
      score[t] = (score[t] + o.epsilon) * std::sqrt(dot(v[t], v[t]));
  }
  return score;
}

}  // namespace reference
