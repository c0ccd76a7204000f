// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// One class of MiKV in double, from the paper: channels of K times a balancer, tokens in equal
// steps.

#include "zipcache.hpp"

namespace reference {

/// sqrt(max |q| / max |k|) of every channel, q over the group's heads.
inline std::vector<double> mikv_balancer(std::vector<matrix> const& queries, matrix const& keys) {
  auto const peak = [](matrix const& rows, std::size_t d) {
    double most = 0;
    for (auto const& row : rows) most = std::max(most, std::abs(row[d]));
    return most;
  };
  std::vector<double> balancer(queries.front().front().size());
  for (std::size_t d = 0; d < balancer.size(); ++d) {
    double q = 0;
    for (auto const& head : queries) q = std::max(q, peak(head, d));
    double const k = peak(keys, d);
    balancer[d] = q > 0 && k > 0 ? std::sqrt(q / k) : 1;
  }
  return balancer;
}

inline matrix mikv_values(matrix x, int bits) {
  for (auto& row : x) in_equal_steps(row, bits);
  return x;
}

inline matrix mikv_keys(matrix x, std::vector<double> const& balancer, int bits) {
  for (auto& row : x) {
    for (std::size_t d = 0; d < row.size(); ++d) row[d] *= balancer[d];
    in_equal_steps(row, bits);
    for (std::size_t d = 0; d < row.size(); ++d) row[d] /= balancer[d];
  }
  return x;
}

}  // namespace reference
