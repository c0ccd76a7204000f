// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// MatryoshkaKV in double, from the paper: matrices that a principal component analysis starts with,
// and causal attention over the first coordinates of centred keys and values.

#include "xkv.hpp"

namespace reference {

/// mean[channel], directions[coordinate][channel] by falling variance.
struct principal {
  std::vector<double> mean;
  matrix directions;
};
inline principal principal_components(matrix rows) {
  principal out;
  out.mean.resize(rows[0].size());
  for (auto const& row : rows)
    for (std::size_t d = 0; d < row.size(); ++d)
      out.mean[d] += row[d] / static_cast<double>(rows.size());
  for (auto& row : rows)
    for (std::size_t d = 0; d < row.size(); ++d) row[d] -= out.mean[d];
  out.directions = svd(rows).vectors;
  return out;
}

/// Of one query head over tokens 0, 1, ...: `key_rank` coordinates of k, `value_rank` of v.
inline matrix matryoshkakv(matrix const& q, matrix const& k, matrix const& v, principal const& key,
                           principal const& value, std::size_t key_rank, std::size_t value_rank) {
  auto const coordinates = [](std::vector<double> x, std::vector<double> const& mean,
                              matrix const& directions, std::size_t rank) {
    for (std::size_t d = 0; d < mean.size(); ++d) x[d] -= mean[d];
    std::vector<double> z;
    for (std::size_t j = 0; j < rank; ++j)
      z.push_back(std::inner_product(x.begin(), x.end(), directions[j].begin(), 0.0));
    return z;
  };
  matrix out;
  for (std::size_t t = 0; t < q.size(); ++t) {
    auto const turned =
        coordinates(q[t], std::vector<double>(q[t].size()), key.directions, key_rank);
    double const constant = std::inner_product(q[t].begin(), q[t].end(), key.mean.begin(), 0.0);
    std::vector<double> weights, sum(value_rank), row = value.mean;
    double total = 0;
    for (std::size_t s = 0; s <= t; ++s) {
      auto const z = coordinates(k[s], key.mean, key.directions, key_rank);
      weights.push_back(
          std::exp((std::inner_product(z.begin(), z.end(), turned.begin(), 0.0) + constant) /
                   std::sqrt(static_cast<double>(q[t].size()))));
      total += weights.back();
    }
    for (std::size_t s = 0; s <= t; ++s) {
      auto const z = coordinates(v[s], value.mean, value.directions, value_rank);
      for (std::size_t j = 0; j < value_rank; ++j) sum[j] += weights[s] / total * z[j];
    }
    for (std::size_t j = 0; j < value_rank; ++j)
      for (std::size_t d = 0; d < row.size(); ++d) row[d] += sum[j] * value.directions[j][d];
    out.push_back(row);
  }
  return out;
}

}  // namespace reference
