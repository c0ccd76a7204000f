// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

namespace reference {

/// Q-Filters' scores of the keys of one KV head.
inline std::vector<double> qfilters(matrix const& k, std::vector<double> const& filter) {
  std::vector<double> score;
  for (auto const& row : k) score.push_back(-dot(row, filter));
  return score;
}

}  // namespace reference
