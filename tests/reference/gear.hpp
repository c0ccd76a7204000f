// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// GEAR in double, from the paper: a matrix [token][channel] is filled where outliers were, coded in
// groups, and what is missed is projected on few directions.

#include "ggml.hpp"
#include "reference.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>

namespace reference {

struct gear_options {
  int bits;
  std::size_t token_group, channel_group;  // values that share parameters: one of them is 1
  double outliers;                         // share of a line
  bool lines_are_channels;                 // K: a channel's tokens; V: a token's channels
};

/// What outliers and codes decode to. A line of the matrix is all that is given.
inline matrix gear_coded(matrix const& x, gear_options const& o) {
  std::size_t const tokens = x.size(), dim = x[0].size();
  matrix filled = x, out = x;
  std::size_t const lines = o.lines_are_channels ? dim : tokens,
                    length = o.lines_are_channels ? tokens : dim;
  std::vector<std::pair<std::size_t, std::size_t>> kept;
  for (std::size_t line = 0; line < lines && o.outliers > 0; ++line) {
    auto const at = [&](std::size_t i) {
      return o.lines_are_channels ? std::pair{i, line} : std::pair{line, i};
    };
    auto const value = [&](std::size_t i) { return x[at(i).first][at(i).second]; };
    std::vector<std::size_t> order(length);
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return value(a) < value(b); });
    double mean = 0;
    for (std::size_t i = 0; i < length; ++i) mean += value(i) / static_cast<double>(length);
    auto const each = std::max<std::size_t>(
        1, static_cast<std::size_t>(static_cast<double>(length) * o.outliers / 2));
    for (std::size_t i = 0; i < each; ++i)
      for (std::size_t const place : {order[i], order[length - 1 - i]}) {
        filled[at(place).first][at(place).second] = mean;
        kept.push_back(at(place));
      }
  }
  double const levels = (1 << o.bits) - 1;
  for (std::size_t t = 0; t < tokens; t += o.token_group)
    for (std::size_t d = 0; d < dim; d += o.channel_group) {
      double low = filled[t][d], high = low;
      for (std::size_t i = t; i < t + o.token_group; ++i)
        for (std::size_t j = d; j < d + o.channel_group; ++j) {
          low = std::min(low, filled[i][j]);
          high = std::max(high, filled[i][j]);
        }
      double const step = (high - low) / levels;
      for (std::size_t i = t; i < t + o.token_group; ++i)
        for (std::size_t j = d; j < d + o.channel_group; ++j)
          out[i][j] = step > 0 ? std::nearbyint((filled[i][j] - low) / step) * step + low : low;
    }
  for (auto const& [t, d] : kept) out[t][d] = half_value(half_bits(x[t][d]));
  return out;
}

/// Keys over KCVT: one range a channel over all tokens, outliers by blocks of `block` tokens.
inline matrix gear_kcvt_keys(matrix const& x, int bits, double outliers, std::size_t block) {
  std::size_t const dim = x[0].size();
  matrix filled = x, out = x;
  for (std::size_t d = 0; d < dim; ++d) {
    std::vector<bool> kept(x.size());
    for (std::size_t from = 0; from < x.size(); from += block) {
      std::vector<std::size_t> order(block);
      std::iota(order.begin(), order.end(), from);
      double mean = 0;
      for (std::size_t t : order) mean += x[t][d] / static_cast<double>(block);
      std::stable_sort(order.begin(), order.end(),
                       [&](std::size_t a, std::size_t b) { return x[a][d] < x[b][d]; });
      auto const each = std::max<std::size_t>(
          1, static_cast<std::size_t>(static_cast<double>(block) * outliers / 2));
      for (std::size_t i = 0; i < each; ++i)
        for (std::size_t const t : {order[i], order[block - 1 - i]}) {
          filled[t][d] = mean;
          kept[t] = true;
        }
    }
    double low = filled[0][d], high = low;
    for (auto const& row : filled) {
      low = std::min(low, row[d]);
      high = std::max(high, row[d]);
    }
    double const step = (high - low) / ((1 << bits) - 1);
    for (std::size_t t = 0; t < x.size(); ++t)
      out[t][d] = kept[t] ? half_value(half_bits(x[t][d]))
                          : std::nearbyint((filled[t][d] - low) / step) * step + low;
  }
  return out;
}

/// Directions [rank][channel] in which rows vary most: power iteration from start(i, channel).
template <class Start>
matrix gear_directions(matrix const& rows, std::size_t rank, int rounds, Start const& start) {
  std::size_t const dim = rows[0].size();
  matrix w(rank, std::vector<double>(dim));
  for (std::size_t i = 0; i < rank; ++i)
    for (std::size_t d = 0; d < dim; ++d) w[i][d] = start(i, d);
  auto const orthonormal = [&] {
    for (std::size_t i = 0; i < rank; ++i) {
      for (std::size_t j = 0; j < i; ++j) {
        double const along = std::inner_product(w[i].begin(), w[i].end(), w[j].begin(), 0.0);
        for (std::size_t d = 0; d < dim; ++d) w[i][d] -= along * w[j][d];
      }
      double const length =
          std::sqrt(std::inner_product(w[i].begin(), w[i].end(), w[i].begin(), 0.0));
      for (double& x : w[i]) x = length > 0 ? x / length : 0;
    }
  };
  orthonormal();
  for (int round = 0; round < rounds; ++round) {
    matrix sum(rank, std::vector<double>(dim));
    for (auto const& row : rows)
      for (std::size_t i = 0; i < rank; ++i) {
        double const along = std::inner_product(row.begin(), row.end(), w[i].begin(), 0.0);
        for (std::size_t d = 0; d < dim; ++d) sum[i][d] += along * row[d];
      }
    w = sum;
    orthonormal();
  }
  return w;
}

/// rows projected on directions.
inline matrix projected(matrix const& rows, matrix const& directions) {
  matrix out = rows;
  for (std::size_t t = 0; t < rows.size(); ++t) {
    std::fill(out[t].begin(), out[t].end(), 0.0);
    for (auto const& w : directions) {
      double const along = std::inner_product(rows[t].begin(), rows[t].end(), w.begin(), 0.0);
      for (std::size_t d = 0; d < w.size(); ++d) out[t][d] += along * w[d];
    }
  }
  return out;
}

/// Uniform in [0, 1): splitmix64's finaliser of i + 1, then c + 1.
inline double gear_start(std::size_t i, std::size_t c) {
  std::uint64_t x = i + 1 + 0x9e3779b97f4a7c15u + c + 1;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return static_cast<double>((x ^ (x >> 31)) >> 40) * 0x1p-24;
}

}  // namespace reference
