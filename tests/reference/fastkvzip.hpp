// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "reference.hpp"

namespace reference {

/// The gate of one layer and KV head: weights [query head][channel][width], sinks [sink][channel].
struct gate {
  std::vector<matrix> query;
  matrix query_bias;
  std::vector<double> query_gain;
  matrix key;
  std::vector<double> key_gain;
  matrix sinks;
  std::vector<double> offset;
};

/// What one gate says of a hidden state.
inline double fastkvzip(gate const& g, std::vector<double> const& state) {
  auto const normal = [](std::vector<double> x, std::vector<double> const& gain) {
    double const n = static_cast<double>(x.size()), mean = dot(x, x) / n;
    for (std::size_t d = 0; d < x.size(); ++d) x[d] *= gain[d] / std::sqrt(mean + 1e-6);
    return x;
  };
  std::vector<double> key;
  for (auto const& row : g.key) key.push_back(dot(row, state));
  key = normal(key, g.key_gain);
  double const root = std::sqrt(static_cast<double>(key.size()));
  double mean = 0;
  for (std::size_t r = 0; r < g.query.size(); ++r) {
    std::vector<double> query;
    for (std::size_t d = 0; d < key.size(); ++d)
      query.push_back(dot(g.query[r][d], state) + g.query_bias[r][d]);
    query = normal(query, g.query_gain);
    double const own = std::exp(dot(key, query) / root + g.offset[r]);
    double all = own;
    for (auto const& sink : g.sinks) all += std::exp(dot(sink, query) / root);
    mean += own / all / static_cast<double>(g.query.size());
  }
  return mean;
}

/// Whether kvpress keeps rank t of n in any case.
inline bool fastkvzip_protects(std::size_t t, std::size_t n, std::size_t sinks) {
  std::size_t const few = std::max<std::size_t>(1, static_cast<std::size_t>(0.02 * double(n)));
  return t < sinks || t + (n < 32000 ? few : 4096) >= n;
}

}  // namespace reference
