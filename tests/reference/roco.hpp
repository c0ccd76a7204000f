// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "h2o.hpp"

namespace reference {

/// RoCo of one KV head while decoding: the `prompt` first tokens stay; of the later ones, once
/// there are more than `budget`, one goes after each step: the lowest mean among the `open` whose
/// attention varies least, the `last` newest and the `sinks` first not looked at. Tokens held after
/// each step.
inline std::vector<indices> roco_run(std::vector<matrix> const& q, matrix const& k,
                                     std::size_t prompt, std::size_t budget, std::size_t open,
                                     std::size_t sinks, std::size_t last) {
  std::vector<indices> history;
  std::vector<std::vector<double>> paid(k.size());  // to each token, by query
  indices held;
  for (std::size_t t = 0; t < k.size(); ++t) {
    held.push_back(static_cast<std::int64_t>(t));
    auto const keys = pick(k, held);
    std::vector<std::vector<double>> heads;
    for (auto const& head : q) heads.push_back(weights(head[t], keys, keys.size()));
    auto const mass = reduce_heads(heads, reduce::mean);
    for (std::size_t i = 0; i < held.size(); ++i)
      paid[static_cast<std::size_t>(held[i])].push_back(mass[i]);
    if (t < prompt) continue;
    if (held.size() > prompt + budget) {
      std::vector<double> certain, mean;
      indices may;
      for (std::size_t i = prompt + sinks; i + last < held.size(); ++i) {
        auto const& x = paid[static_cast<std::size_t>(held[i])];
        double m = 0, variance = 0;
        for (double y : x) m += y / static_cast<double>(x.size());
        for (double y : x) variance += (y - m) * (y - m) / static_cast<double>(x.size());
        may.push_back(static_cast<std::int64_t>(i));
        mean.push_back(m);
        certain.push_back(-variance);
      }
      double lowest = std::numeric_limits<double>::infinity();
      std::int64_t victim = -1;
      for (auto i : best(certain, open))
        if (mean[static_cast<std::size_t>(i)] < lowest) {
          lowest = mean[static_cast<std::size_t>(i)];
          victim = may[static_cast<std::size_t>(i)];
        }
      if (victim >= 0) held.erase(held.begin() + victim);
    }
    history.push_back(held);
  }
  return history;
}

}  // namespace reference
