// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

namespace reference {

/// FINCH's scores of the tokens before the question, whose queries are [query head][query].
inline std::vector<double> finch(std::vector<matrix> const& question, matrix const& k,
                                 bool normalized) {
  std::size_t const window = question[0].size(), prefix = k.size() - window;
  std::vector<double> score(prefix, 0.0);
  for (auto const& head : question)
    for (std::size_t w = 0; w < window; ++w) {
      auto const p = weights(head[w], k, prefix + w + 1);
      for (std::size_t t = 0; t < prefix; ++t)
        score[t] += p[t] * (normalized ? static_cast<double>(prefix + w) : 1.0) /
                    static_cast<double>(window * question.size());
    }
  return score;
}

}  // namespace reference
