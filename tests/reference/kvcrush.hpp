// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

namespace reference {

using bits = std::vector<bool>;

/// The code of every page: for each of its tokens and then each head, whether the token is in the
/// better half (rounded down) of the head's scores. A page of one token has a bit per head; one
/// head, whose scores are those of all heads summed, makes the authors' codes.
inline std::vector<bits> kvcrush_codes(std::vector<std::vector<double>> const& score,
                                       std::size_t page) {
  std::size_t const tokens = score[0].size(), heads = score.size();
  std::vector<bits> codes(tokens / page, bits(page * heads, false));
  for (std::size_t h = 0; h < heads; ++h)
    for (auto i : best(score[h], tokens / 2)) {
      auto const t = static_cast<std::size_t>(i);
      if (t / page < codes.size()) codes[t / page][t % page * heads + h] = true;
    }
  return codes;
}

enum class anchor { zeros, ones, mean, inverse_mean, alternating };

/// What codes are compared with. A bit of the mean is set where more than half of the codes have
/// it, of its inverse where fewer have.
inline bits kvcrush_anchor(std::vector<bits> const& codes, anchor which) {
  bits result(codes[0].size(), which == anchor::ones);
  for (std::size_t b = 0; b < result.size(); ++b) {
    std::size_t set = 0;
    for (auto const& code : codes) set += code[b] ? 1u : 0u;
    if (which == anchor::mean) result[b] = 2 * set > codes.size();
    if (which == anchor::inverse_mean) result[b] = 2 * set < codes.size();
    if (which == anchor::alternating) result[b] = b % 2 == 1;
  }
  return result;
}

/// How representatives lie among the candidates, which are ordered by distance from the anchor:
/// every n / count-th from the first on, as the authors do, or evenly from the first to the last.
enum class spacing { stride, ends };

/// Representatives of the candidates, ascending; equal distances in the candidates' order.
inline indices kvcrush_representatives(std::vector<bits> const& codes, bits const& from,
                                       indices candidates, std::size_t count, spacing how) {
  std::size_t const n = candidates.size();
  if (how == spacing::stride) count = std::min(count, n);
  if (n == 0 || count == 0) return {};
  auto const distance = [&](std::int64_t i) {
    int result = 0;
    for (std::size_t b = 0; b < from.size(); ++b)
      result += codes[static_cast<std::size_t>(i)][b] != from[b] ? 1 : 0;
    return result;
  };
  std::stable_sort(candidates.begin(), candidates.end(),
                   [&](auto a, auto b) { return distance(a) < distance(b); });
  indices result;
  for (std::size_t i = 0; i < count; ++i)
    result.push_back(candidates[how == spacing::stride ? i * (n / count)
                                : count == 1           ? 0
                                                       : i * (n - 1) / (count - 1)]);
  std::sort(result.begin(), result.end());
  return result;
}

/// Kept tokens per KV head, from the scores [head][token] of the whole prompt: the first, the last,
/// and `budget` between them, of which int(budget * ratio) are representatives. The port to vLLM
/// looks only at what the first head already keeps, so that other heads can keep a token twice;
/// otherwise every head chooses among what it lacks.
inline std::vector<indices> kvcrush(std::vector<std::vector<double>> const& score,
                                    std::size_t first, std::size_t last, std::size_t budget,
                                    double ratio, std::size_t page, anchor which,
                                    spacing how = spacing::ends, bool as_first_head = false) {
  std::size_t const tokens = score[0].size(), pages = (tokens - first - last) / page;
  auto const crushed = static_cast<std::size_t>(static_cast<double>(budget) * ratio);
  std::vector<std::vector<double>> middle, by_page;
  for (auto const& head : score) {
    middle.emplace_back(head.begin() + static_cast<std::ptrdiff_t>(first),
                        head.end() - static_cast<std::ptrdiff_t>(last));
    by_page.emplace_back(pages, 0.0);
    for (std::size_t t = 0; t < pages * page; ++t) by_page.back()[t / page] += middle.back()[t];
  }
  auto const codes = kvcrush_codes(middle, page);
  auto const from = kvcrush_anchor(codes, which);
  std::vector<indices> kept;
  for (std::size_t h = 0; h < score.size(); ++h) {
    auto chosen = best(by_page[h], (budget - crushed) / page);
    auto const taken = as_first_head ? best(by_page[0], (budget - crushed) / page) : chosen;
    indices candidates;
    for (std::size_t p = 0; p < pages; ++p)
      if (!std::binary_search(taken.begin(), taken.end(), static_cast<std::int64_t>(p)))
        candidates.push_back(static_cast<std::int64_t>(p));
    // A budget below a page still gets one.
    std::size_t const count = ratio > 0 ? std::max<std::size_t>(crushed / page, 1) : 0;
    for (auto p : kvcrush_representatives(codes, from, candidates, count, how)) chosen.push_back(p);
    indices all;
    for (std::size_t t = 0; t < first; ++t) all.push_back(static_cast<std::int64_t>(t));
    for (auto p : chosen)
      for (std::size_t t = 0; t < page; ++t)
        all.push_back(static_cast<std::int64_t>(first + static_cast<std::size_t>(p) * page + t));
    for (std::size_t t = tokens - last; t < tokens; ++t)
      all.push_back(static_cast<std::int64_t>(t));
    std::sort(all.begin(), all.end());
    kept.push_back(all);
  }
  return kept;
}

}  // namespace reference
