// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "reference.hpp"

namespace reference {

/// What stays of n tokens in chunks of `size`, `part` of each and at least one; score(first, count)
/// scores a chunk alone.
template <class Score>
std::vector<std::int64_t> chunked(std::size_t n, std::size_t size, double part,
                                  Score const& score) {
  std::vector<std::int64_t> kept;
  for (std::size_t first = 0; first < n; first += size) {
    std::size_t const count = std::min(size, n - first);
    std::vector<double> const s = score(first, count);
    auto const wanted =
        std::max<std::size_t>(1, static_cast<std::size_t>(static_cast<double>(count) * part));
    for (std::size_t i = 0; i < count; ++i) {
      std::size_t before = 0;
      for (std::size_t j = 0; j < count; ++j) before += s[j] > s[i] || (s[j] == s[i] && j < i);
      if (before < wanted) kept.push_back(static_cast<std::int64_t>(first + i));
    }
  }
  return kept;
}

}  // namespace reference
