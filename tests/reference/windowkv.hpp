// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

namespace reference {

/// Tokens of the prefix that WindowKV means each layer to keep: an arithmetic sequence over groups.
inline std::vector<std::int64_t> windowkv_budgets(std::int64_t layers, std::int64_t shared,
                                                  std::int64_t capacity, std::int64_t beta) {
  std::int64_t const groups = layers / shared, last = capacity * shared / beta,
                     first = 2 * capacity - last;
  std::vector<std::int64_t> budget;
  for (std::int64_t l = 0; l < layers; ++l) {
    std::int64_t const at = l / shared;
    if (groups == 1)
      budget.push_back(capacity);
    else
      budget.push_back(at + 1 == groups ? last : first - at * ((first - last) / (groups - 1)));
  }
  return budget;
}

/// Indices that a layer keeps: whole windows of its prefix by their mean score, then the suffix.
inline indices windowkv_keep(std::vector<double> const& prefix, std::int64_t budget,
                             std::int64_t size, std::int64_t suffix) {
  auto const n = static_cast<std::int64_t>(prefix.size());
  std::vector<double> mean;
  for (std::int64_t begin = 0; begin < n; begin += size) {
    double sum = 0;
    std::int64_t const end = std::min(begin + size, n);
    for (std::int64_t t = begin; t < end; ++t) sum += prefix[static_cast<std::size_t>(t)];
    mean.push_back(sum / static_cast<double>(end - begin));
  }
  std::int64_t const gone = n > budget ? (n - budget + size - 1) / size : 0;
  auto const windows = static_cast<std::int64_t>(mean.size());
  indices kept;
  for (auto w : best(mean, static_cast<std::size_t>(std::max<std::int64_t>(0, windows - gone))))
    for (std::int64_t t = w * size; t < std::min((w + 1) * size, n); ++t) kept.push_back(t);
  for (std::int64_t t = 0; t < suffix; ++t) kept.push_back(n + t);
  return kept;
}

}  // namespace reference
