// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "reference.hpp"

namespace reference {

enum class lookm_kind { averaged, pivotal, weighted, normalized };
enum class lookm_filter { none, mean, places };

struct lookm_head {
  matrix k, v;
  std::vector<std::size_t> kept;
  std::vector<double> mass = {};  // of each kept token, after folding; tokens weigh `weight`
};

/// LOOK-M over the heads of one sequence: `kept[h]` ascending, `weight[h][t]` a token's own mass
/// (empty: one each).
inline std::vector<lookm_head> lookm(std::vector<matrix> const& k, std::vector<matrix> const& v,
                                     std::vector<std::vector<std::size_t>> const& kept,
                                     lookm_kind kind, lookm_filter filter, double least,
                                     matrix const& weight = {}) {
  struct joined {
    std::size_t token, target;
    double cosine;
  };
  std::vector<std::vector<joined>> sources(k.size());
  double all = 0;
  std::size_t count = 0;
  for (std::size_t h = 0; h < k.size(); ++h)
    for (std::size_t t = 0; t < k[h].size(); ++t) {
      if (std::find(kept[h].begin(), kept[h].end(), t) != kept[h].end()) continue;
      joined best{t, 0, -2};
      for (std::size_t c : kept[h]) {
        double const size = std::sqrt(dot(k[h][t], k[h][t]) * dot(k[h][c], k[h][c]));
        double const cosine = size > 0 ? dot(k[h][t], k[h][c]) / size : 0;
        if (cosine > best.cosine) best = {t, c, cosine};
      }
      if (best.cosine < least) continue;
      sources[h].push_back(best);
      all += best.cosine;
      ++count;
    }
  auto const folds = [&](std::size_t h, std::size_t j) {
    if (filter == lookm_filter::none) return true;
    double sum = 0, own = 0;
    std::size_t heads = 0;
    for (auto const& x : sources[h]) own += x.cosine;
    if (filter == lookm_filter::mean)
      return sources[h][j].cosine >= own / static_cast<double>(sources[h].size());
    for (auto const& head : sources)
      if (j < head.size()) sum += head[j].cosine, ++heads;
    return sum / static_cast<double>(heads) >= all / static_cast<double>(count);
  };
  std::vector<lookm_head> out;
  for (std::size_t h = 0; h < k.size(); ++h) {
    lookm_head made{{}, {}, kept[h]};
    for (std::size_t c : kept[h]) {
      auto const mass = [&](std::size_t t) { return weight.empty() ? 1.0 : weight[h][t]; };
      double divisor = mass(c), held = mass(c);
      auto key = k[h][c], value = v[h][c];
      for (double& x : key) x *= divisor;
      for (double& x : value) x *= divisor;
      for (std::size_t j = 0; j < sources[h].size(); ++j) {
        auto const& x = sources[h][j];
        if (x.target != c || !folds(h, j)) continue;
        double const one = mass(x.token), u = x.cosine;
        double const part = kind == lookm_kind::weighted     ? u
                            : kind == lookm_kind::normalized ? std::max((u + 1) / 2, 1e-6)
                                                             : 1;
        divisor += one * (kind == lookm_kind::normalized ? part : 1);
        held += one;
        auto const add = [&](std::vector<double>& to, matrix const& from) {
          for (std::size_t d = 0; d < to.size(); ++d)
            to[d] += one * (kind == lookm_kind::pivotal ? (from[x.token][d] + from[c][d]) / 2
                                                        : part * from[x.token][d]);
        };
        add(key, k[h]);
        add(value, v[h]);
      }
      for (double& x : key) x /= divisor;
      for (double& x : value) x /= divisor;
      made.k.push_back(key);
      made.v.push_back(value);
      made.mass.push_back(held);
    }
    out.push_back(made);
  }
  return out;
}

}  // namespace reference
