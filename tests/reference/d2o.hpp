// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "reference.hpp"

namespace reference {

struct d2o_rows {
  matrix k, v;
};

/// A threshold that runs on; NaN before the first time.
struct d2o_threshold {
  double past = 0, present = 1, least = std::nan("");
};

/// D2O at the end of a prompt, the heads of one layer, or after it: `kept[h]` ascending.
inline std::vector<d2o_rows> d2o(std::vector<matrix> const& k, std::vector<matrix> const& v,
                                 std::vector<std::vector<std::size_t>> const& kept, bool softmax,
                                 d2o_threshold* running = nullptr) {
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
  if (running != nullptr && gone > 0) {
    if (!std::isnan(running->least))
      threshold = running->past * running->least + running->present * threshold;
    running->least = threshold;
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

/// What each layer keeps of n tokens, by score and newest, from attention[layer][head][token].
inline std::vector<std::pair<int, int>> d2o_layers(std::vector<matrix> const& attention, double n,
                                                   double best, double recent) {
  std::vector<double> uneven;
  for (auto const& layer : attention) {
    std::vector<double> variance;
    for (auto const& head : layer) {
      double s = 0, s2 = 0;
      for (double const x : head) s += x, s2 += x * x;
      auto const t = static_cast<double>(head.size());
      variance.push_back((s2 - s * s / t) / (t - 1));
    }
    double const low = *std::min_element(variance.begin(), variance.end());
    double const high = *std::max_element(variance.begin(), variance.end());
    double sum = 0;
    for (double const x : variance) sum += (x - low) / (high - low + 1e-6);
    uneven.push_back(sum / static_cast<double>(variance.size()));
  }
  double all = 0;
  for (double const x : uneven) all += std::exp(-x);
  std::vector<std::pair<int, int>> out;
  for (double const x : uneven) {
    double const ratio = std::clamp(
        std::exp(-x) / all * static_cast<double>(uneven.size()) * (best + recent), 0.01, 1.0);
    out.emplace_back(static_cast<int>(n * ratio * best / (best + recent)),
                     static_cast<int>(n * ratio * recent / (best + recent)));
  }
  return out;
}

}  // namespace reference
