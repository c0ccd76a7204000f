// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

namespace reference {

struct lazy_state {
  indices kept;                     // tokens
  std::vector<double> last, pause;  // of the kept
};

/// LazyEviction of one KV head from the step after the prompt on, by the queries [query
/// head][token] of its group: which tokens are held after each step. Every `window` steps the best
/// beside the newest `window` stay, `capacity` in all.
inline std::vector<lazy_state> lazy_run(std::vector<matrix> const& q, matrix const& k,
                                        std::size_t prompt, std::size_t capacity,
                                        std::size_t window, double threshold, double offset) {
  std::vector<lazy_state> history;
  lazy_state now;
  for (std::size_t t = 0; t < prompt; ++t) {
    now.kept.push_back(static_cast<std::int64_t>(t));
    now.last.push_back(0);
    now.pause.push_back(0);
  }
  for (std::size_t step = 1; prompt + step <= k.size(); ++step) {
    auto const time = static_cast<double>(step);
    now.kept.push_back(static_cast<std::int64_t>(prompt + step - 1));
    now.last.push_back(time - 1);
    now.pause.push_back(0);
    auto const keys = pick(k, now.kept);
    std::vector<double> paid(keys.size(), 0.0);
    for (auto const& head : q) {
      auto const p = weights(head[prompt + step - 1], keys, keys.size());
      for (std::size_t i = 0; i < p.size(); ++i) paid[i] = std::max(paid[i], p[i]);
    }
    for (std::size_t i = 0; i < paid.size(); ++i)
      if (paid[i] >= threshold) {
        now.pause[i] = std::max(now.pause[i], time - now.last[i]);
        now.last[i] = time;
      }
    if (keys.size() > capacity && step % window == 0) {
      std::vector<double> score;
      for (std::size_t i = 0; i + window < keys.size(); ++i) {
        score.push_back(2 / (1 + std::exp(offset + (time - now.last[i]) / (now.pause[i] + 1e-5))));
        if (now.pause[i] > 0) score.back() += 2 / (1 + std::exp(now.pause[i] - 1));
      }
      auto stay = best(score, capacity - window);
      for (std::size_t i = keys.size() - window; i < keys.size(); ++i)
        stay.push_back(static_cast<std::int64_t>(i));
      now = {pick(now.kept, stay), pick(now.last, stay), pick(now.pause, stay)};
    }
    history.push_back(now);
  }
  return history;
}

}  // namespace reference
