// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "h2o.hpp"

namespace reference {

/// Scissorhands of one KV head by the queries [query head][token] of its group: tokens held after
/// the prompt and after each later token. A buffer of `full` tokens gives up `drop` of them, those
/// that most of the last `history` queries since they came paid less than an even share, never one
/// of the `recent` newest; of equal ones the later go. `seen` queries of the prompt count.
inline std::vector<indices> scissorhands_run(std::vector<matrix> const& q, matrix const& k,
                                             std::size_t prompt, std::size_t full, std::size_t drop,
                                             std::size_t recent, std::size_t history,
                                             std::size_t seen) {
  std::vector<indices> states;
  std::vector<std::vector<bool>> low(k.size(), std::vector<bool>(k.size(), false));
  indices held;
  for (std::size_t t = 0; t < k.size(); ++t) {
    held.push_back(static_cast<std::int64_t>(t));
    auto const keys = pick(k, held);
    std::vector<std::vector<double>> paid;
    for (auto const& head : q) paid.push_back(weights(head[t], keys, keys.size()));
    auto const mean = reduce_heads(paid, reduce::mean);
    for (std::size_t i = 0; i < held.size() && t + seen >= prompt; ++i)
      low[t][static_cast<std::size_t>(held[i])] = mean[i] * static_cast<double>(held.size()) < 1;
    if (t + 1 < prompt) continue;
    if (held.size() >= full) {
      std::vector<double> score;
      for (auto j : held) {
        double count = 0;
        for (std::size_t query = t + 1 > history ? t + 1 - history : 0; query <= t; ++query)
          count += low[query][static_cast<std::size_t>(j)] ? 1 : 0;
        score.push_back(-count);
      }
      held = pick(held, h2o_keep(score, full - drop - recent, recent));
    }
    states.push_back(held);
  }
  return states;
}

}  // namespace reference
