// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// ShadowKV's keys in double, from the paper: U and S V^T of a layer's keys before RoPE, and a token
// rebuilt from its row of U and rotated to its position.

#include "eigen_attention.hpp"

namespace reference {

/// keys [token][head and channel] before RoPE, of heads of `dim`; token t is at position t. The
/// newest `local` are exact, and the directions those of the others.
inline matrix shadowkv(matrix const& keys, std::size_t dim, std::size_t rank, std::size_t local) {
  matrix const coded(keys.begin(), keys.end() - static_cast<std::ptrdiff_t>(local));
  auto const found = svd(coded);
  matrix out = keys;
  for (std::size_t t = 0; t < keys.size(); ++t) {
    if (t + local < keys.size()) {
      std::fill(out[t].begin(), out[t].end(), 0.0);
      for (std::size_t j = 0; j < rank; ++j) {
        auto const& v = found.vectors[j];
        double const s = found.values[j],
                     u = std::inner_product(v.begin(), v.end(), keys[t].begin(), 0.0) / s;
        for (std::size_t d = 0; d < v.size(); ++d) out[t][d] += u * (s * v[d]);
      }
    }
    for (std::size_t from = 0; from < out[t].size(); from += dim) {
      std::vector<double> head(out[t].begin() + static_cast<std::ptrdiff_t>(from),
                               out[t].begin() + static_cast<std::ptrdiff_t>(from + dim));
      rotate_row(head, static_cast<double>(t));
      std::copy(head.begin(), head.end(), out[t].begin() + static_cast<std::ptrdiff_t>(from));
    }
  }
  return out;
}

}  // namespace reference
