// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "reference.hpp"

namespace reference {

struct d2o_rows {
  matrix k, v;
};

/// D2O at the end of a prompt, the heads of one layer: `kept[h]` ascending.
inline std::vector<d2o_rows> d2o(std::vector<matrix> const& k, std::vector<matrix> const& v,
                                 std::vector<std::vector<std::size_t>> const& kept, bool softmax) {
  std::size_t const heads = k.size(), gone = k[0].size() - kept[0].size();
  std::vector<std::vector<std::size_t>> token(heads), target(heads);
  matrix likeness(heads);
  double threshold = 0;
  for (std::size_t h = 0; h < heads; ++h)
    for (std::size_t t = 0; t < k[h].size(); ++t) {
      if (std::find(kept[h].begin(), kept[h].end(), t) != kept[h].end()) continue;
      double most = -2;
      std::size_t best = 0;
      for (std::size_t i = 0; i < kept[h].size(); ++i) {
        auto const& c = k[h][kept[h][i]];
        double const u = dot(k[h][t], c) / std::sqrt(dot(k[h][t], k[h][t]) * dot(c, c));
        if (u > most) most = u, best = i;
      }
      token[h].push_back(t);
      target[h].push_back(best);
      likeness[h].push_back(most);
      threshold += most / static_cast<double>(heads * gone);
    }
  std::vector<d2o_rows> out(heads);
  for (std::size_t h = 0; h < heads; ++h)
    for (std::size_t i = 0; i < kept[h].size(); ++i) {
      double const own = softmax ? std::exp(1.0) : 1;
      double divisor = own;
      auto key = k[h][kept[h][i]], value = v[h][kept[h][i]];
      for (double& x : key) x *= own;
      for (double& x : value) x *= own;
      for (std::size_t j = 0; j < gone; ++j) {
        double mean = 0;
        for (std::size_t g = 0; g < heads; ++g) mean += likeness[g][j] / static_cast<double>(heads);
        if (target[h][j] != i || mean < threshold) continue;
        double const w = softmax ? std::exp(likeness[h][j]) : likeness[h][j];
        divisor += softmax ? w : 1;
        for (std::size_t d = 0; d < key.size(); ++d) key[d] += w * k[h][token[h][j]][d];
        for (std::size_t d = 0; d < value.size(); ++d) value[d] += w * v[h][token[h][j]][d];
      }
      for (double& x : key) x /= divisor;
      for (double& x : value) x /= divisor;
      out[h].k.push_back(key);
      out[h].v.push_back(value);
    }
  return out;
}

}  // namespace reference
