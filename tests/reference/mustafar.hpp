// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

namespace reference {

/// A row without its `left_out` channels of smallest magnitude, of equal ones the last.
inline std::vector<double> mustafar(std::vector<double> row, std::size_t left_out) {
  std::vector<std::size_t> order(row.size());
  for (std::size_t d = 0; d < row.size(); ++d) order[d] = d;
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::abs(row[a]) > std::abs(row[b]);
  });
  for (std::size_t i = row.size() - left_out; i < row.size(); ++i) row[order[i]] = 0;
  return row;
}

}  // namespace reference
