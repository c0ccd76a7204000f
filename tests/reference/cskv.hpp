// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// CSKV in double, from the paper: the projections that an SVD of the weights starts with, plain or
// of weights scaled by what flows through them, and a layer's rows made from hidden states.

#include "palu.hpp"

namespace reference {

/// shrink [hidden][number], grow [number][channel]: W^T ~ shrink grow.
struct cskv_projections {
  matrix shrink, grow;
};
/// weights [channel][hidden]. `flow`: mean magnitude of each hidden channel, for the scaled start;
/// empty for the plain one.
inline cskv_projections cskv(matrix const& weights, std::size_t rank,
                             std::vector<double> const& flow = {}) {
  auto scaled = transposed(weights);  // [hidden][channel]
  std::vector<double> scale(scaled.size(), 1.0);
  for (std::size_t i = 0; i < flow.size(); ++i) scale[i] = std::sqrt(flow[i] + 1e-6);
  for (std::size_t i = 0; i < scaled.size(); ++i)
    for (double& x : scaled[i]) x *= scale[i];
  auto const found = svd(scaled);
  cskv_projections out;
  out.shrink.assign(scaled.size(), {});
  for (std::size_t j = 0; j < rank; ++j) {
    double const root = std::sqrt(found.values[j]);
    out.grow.push_back(found.vectors[j]);
    for (double& x : out.grow.back()) x *= root;
    for (std::size_t i = 0; i < scaled.size(); ++i) {
      double const u =
          std::inner_product(scaled[i].begin(), scaled[i].end(), found.vectors[j].begin(), 0.0) /
          found.values[j];
      out.shrink[i].push_back(u * root / scale[i]);
    }
  }
  return out;
}

/// A layer's rows [token][channel] from hidden states: the newest `window` exact.
inline matrix cskv_rows(cskv_projections const& p, matrix const& weights, matrix const& hidden,
                        std::size_t window) {
  auto out = product(product(hidden, p.shrink), p.grow);
  auto const exact = product(hidden, transposed(weights));
  for (std::size_t t = hidden.size() - std::min(window, hidden.size()); t < hidden.size(); ++t)
    out[t] = exact[t];
  return out;
}

/// Latents [token][number] as they come back from codes: K's per number over 32 tokens, V's per
/// token over `group` numbers. Tokens beyond whole runs of 32 are not changed.
inline matrix cskv_coded(matrix x, int bits, bool keys, std::size_t group) {
  std::size_t const tokens = x.size(), numbers = x[0].size();
  auto const code = [&](std::size_t t0, std::size_t t1, std::size_t j0, std::size_t j1) {
    double low = x[t0][j0], high = low;
    for (std::size_t t = t0; t < t1; ++t)
      for (std::size_t j = j0; j < j1; ++j) {
        low = std::min(low, x[t][j]);
        high = std::max(high, x[t][j]);
      }
    double const step = (high - low) / ((1 << bits) - 1);
    for (std::size_t t = t0; t < t1 && step > 0; ++t)
      for (std::size_t j = j0; j < j1; ++j)
        x[t][j] = std::nearbyint((x[t][j] - low) / step) * step + low;
  };
  for (std::size_t t = 0; keys && t + 32 <= tokens; t += 32)
    for (std::size_t j = 0; j < numbers; ++j) code(t, t + 32, j, j + 1);
  for (std::size_t t = 0; !keys && t < tokens; ++t)
    for (std::size_t j = 0; j < numbers; j += group) code(t, t + 1, j, j + group);
  return x;
}

}  // namespace reference
