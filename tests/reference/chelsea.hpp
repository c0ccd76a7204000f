// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "reference.hpp"

namespace reference {

struct chelsea_rows {
  matrix k, v;
  std::vector<double> mass;
  std::vector<std::size_t> kept;
};

/// One round of Chelsea over one head: tokens weigh `mass`.
inline chelsea_rows chelsea(matrix const& k, matrix const& v, std::vector<double> const& mass,
                            std::size_t chunk, double part, std::size_t sinks, std::size_t recent) {
  std::size_t const n = k.size();
  std::vector<std::vector<std::size_t>> members(n);
  for (std::size_t t = 0; t < n; ++t) members[t] = {t};
  for (std::size_t first = 0; first < n; first += chunk) {
    std::size_t const begin = std::max(first, sinks),
                      end = std::min(first + chunk, n > recent ? n - recent : 0);
    struct pair {
      double cosine;
      std::size_t a, b;
    };
    std::vector<pair> pairs;
    std::size_t looking = 0;
    for (std::size_t a = begin; a < end; a += 2) {
      ++looking;
      pair best{-2, a, a};
      for (std::size_t b = begin + 1; b < end; b += 2) {
        double const size = std::sqrt(dot(k[a], k[a]) * dot(k[b], k[b]));
        double const cosine = size > 0 ? dot(k[a], k[b]) / size : 0;
        if (cosine > best.cosine) best = {cosine, a, b};
      }
      if (best.b != a) pairs.push_back(best);
    }
    std::stable_sort(pairs.begin(), pairs.end(),
                     [](pair const& x, pair const& y) { return x.cosine > y.cosine; });
    auto const most = static_cast<std::size_t>(part * static_cast<double>(looking) + 1e-9);
    if (pairs.size() > most) pairs.resize(most);
    for (auto const& x : pairs) {
      members[x.b].push_back(x.a);
      members[x.a].clear();
    }
  }
  chelsea_rows out;
  for (std::size_t t = 0; t < n; ++t) {
    if (members[t].empty()) continue;
    std::vector<double> key(k[t].size()), value(v[t].size());
    double sum = 0;
    for (std::size_t m : members[t]) sum += mass[m];
    for (std::size_t m : members[t]) {
      for (std::size_t d = 0; d < key.size(); ++d) key[d] += mass[m] / sum * k[m][d];
      for (std::size_t d = 0; d < value.size(); ++d) value[d] += mass[m] / sum * v[m][d];
    }
    out.k.push_back(key);
    out.v.push_back(value);
    out.mass.push_back(sum);
    out.kept.push_back(t);
  }
  return out;
}

}  // namespace reference
