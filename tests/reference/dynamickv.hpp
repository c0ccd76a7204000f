// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

namespace reference {

/// Tokens of the prefix that DynamicKV gives the heads of each layer, from the scores
/// [layer][head][token] of a model's prefix; `base` of them per head on average, at most `ratio`
/// times as many. All that single precision decides is computed in it.
inline std::vector<std::int64_t> dynamickv_budgets(
    std::vector<std::vector<std::vector<double>>> const& score, std::int64_t base, double ratio) {
  auto const layers = static_cast<std::int64_t>(score.size()),
             heads = static_cast<std::int64_t>(score[0].size());
  std::int64_t longest = 0;
  std::vector<double> all;
  std::vector<std::size_t> layer_of;
  for (std::size_t l = 0; l < score.size(); ++l)
    for (auto const& head : score[l]) {
      all.insert(all.end(), head.begin(), head.end());
      layer_of.insert(layer_of.end(), head.size(), l);
      longest = std::max(longest, static_cast<std::int64_t>(head.size()));
    }
  std::vector<std::int64_t> won(score.size(), 0);
  for (auto i : best(all, static_cast<std::size_t>(base * heads * layers)))
    ++won[layer_of[static_cast<std::size_t>(i)]];
  std::int64_t sum = 0;
  for (auto& w : won) sum += w /= layers;
  if (sum != heads * longest) {  // the authors' test for nothing being lost
    won.back() += base * heads - sum;
    sum = base * heads;
  }
  auto const largest =
      std::min(static_cast<std::int64_t>(ratio * static_cast<double>(base)), longest);
  std::vector<std::int64_t> length;
  for (auto w : won)
    length.push_back(static_cast<std::int64_t>(static_cast<float>(largest) *
                                               (static_cast<float>(w) / static_cast<float>(sum))));
  double const scale =
      static_cast<double>(std::accumulate(length.begin(), length.end(), std::int64_t{0})) /
      static_cast<double>(base * layers);
  for (auto& n : length) {
    auto quotient = static_cast<std::int64_t>(static_cast<double>(n) / scale) + 1;
    while (std::fma(static_cast<double>(quotient), scale, -static_cast<double>(n)) > 0) --quotient;
    n = quotient;
  }
  length.back() += base * layers - std::accumulate(length.begin(), length.end(), std::int64_t{0});
  for (auto& n : length) n = std::clamp<std::int64_t>(n, 0, longest);
  return length;
}

}  // namespace reference
