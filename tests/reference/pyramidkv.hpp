// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

namespace reference {

/// Tokens that PyramidKV keeps per layer and head, window included, as the authors count in whole
/// numbers: their floored step makes the layers exceed the total, which `exact_total` holds by
/// rounding the real-valued sequence down and giving what is left to the largest fractions.
inline std::vector<std::int64_t> pyramidkv_budgets(std::int64_t layers, std::int64_t capacity,
                                                   std::int64_t window, std::int64_t beta,
                                                   std::int64_t tokens, bool exact_total = false) {
  auto const count = static_cast<std::size_t>(layers);
  std::int64_t const base = capacity - window;
  if (tokens < capacity) return indices(count, tokens);  // nothing to do
  indices budget(count, capacity);
  if (tokens < 2 * base) return budget;  // too short for a slope
  if (layers == 1) return budget;        // nothing to slope to; the authors divide by zero
  std::int64_t low = base / beta, high = 2 * base - low;
  if (high >= tokens - window) {
    high = tokens - window;
    low = 2 * base - high;
  }
  for (std::int64_t l = 0; l < layers; ++l)
    budget[static_cast<std::size_t>(l)] = high - l * ((high - low) / (layers - 1)) + window;
  if (!exact_total) return budget;
  std::vector<double> fraction(count);
  std::int64_t rest = layers * base;
  for (std::int64_t l = 0; l < layers; ++l) {
    std::int64_t const scaled = high * (layers - 1) - l * (high - low), n = layers - 1;
    budget[static_cast<std::size_t>(l)] = scaled / n + window;
    fraction[static_cast<std::size_t>(l)] = static_cast<double>(scaled % n);
    rest -= scaled / n;
  }
  for (auto l : best(fraction, static_cast<std::size_t>(rest)))
    ++budget[static_cast<std::size_t>(l)];
  return budget;
}

/// The same as kvpress counts: from the share that goes, in floating point, halves to even, and
/// evenly when the slope would not fit between the window and the prompt.
inline std::vector<std::int64_t> pyramidkv_budgets_by_ratio(std::int64_t layers, double removed,
                                                            std::int64_t window, std::int64_t beta,
                                                            std::int64_t tokens) {
  auto const n = static_cast<double>(tokens), w = static_cast<double>(window);
  double const capacity = w + n * (1.0 - removed);
  double low = (capacity - w) / static_cast<double>(beta), high = (capacity - w) * 2.0 - low;
  if (high >= n - w) {
    high = n - w;
    low = (capacity - w) * 2.0 - high;
  }
  bool const fits = n >= high && high >= low && low >= w && layers > 1;
  std::vector<std::int64_t> budget;
  for (std::int64_t l = 0; l < layers; ++l) {
    double const step = fits ? (high - low) / static_cast<double>(layers - 1) : 0.0;
    double const kept = fits ? high - static_cast<double>(l) * step : n * (1.0 - removed);
    budget.push_back(static_cast<std::int64_t>(std::nearbyint(kept)));
  }
  return budget;
}

}  // namespace reference
