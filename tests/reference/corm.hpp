// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

namespace reference {

/// CORM of one KV head by the queries [query head][token] of its group: tokens held after the
/// prompt and after each later token. All stored weights are looked at again each time: a token
/// goes if it is not among the `recent` newest and each of the last `window` queries that could see
/// it paid it less than an even share, from every query head, or came before those.
inline std::vector<indices> corm_run(std::vector<matrix> const& q, matrix const& k,
                                     std::size_t prompt, std::size_t window, std::size_t recent) {
  std::vector<indices> history;
  // major[t][j]: query t paid token j its share.
  std::vector<std::vector<bool>> major;
  indices held;
  for (std::size_t t = 0; t < k.size(); ++t) {
    held.push_back(static_cast<std::int64_t>(t));
    auto const keys = pick(k, held);
    major.emplace_back(k.size(), false);
    for (auto const& head : q) {
      auto const p = weights(head[t], keys, keys.size());
      for (std::size_t i = 0; i < p.size(); ++i)
        if (p[i] * static_cast<double>(keys.size()) >= 1 - 1e-5)
          major[t][static_cast<std::size_t>(held[i])] = true;
    }
    if (t + 1 < prompt) continue;
    indices stay;
    for (auto j : held) {
      auto const token = static_cast<std::size_t>(j);
      bool keep = t - token < recent || t - token < window;  // too young for `window` verdicts
      for (std::size_t query = t + 1 > window ? t + 1 - window : 0; query <= t; ++query)
        keep = keep || (query >= token && major[query][token]);
      if (keep) stay.push_back(j);
    }
    held = stay;
    history.push_back(held);
  }
  return history;
}

}  // namespace reference
