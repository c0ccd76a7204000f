// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "rotated.hpp"

namespace reference {

/// What the codec stores of rotated rows: levels of each token, its scale (0 to 31), and what it
/// decodes to.
struct centred_row {
  std::vector<double> levels, values;
  int scale = 0;
  double error = 0;
};

/// One centred row at a given scale.
inline centred_row at_scale(std::vector<double> const& x, double top, int scale, int bits) {
  centred_row out;
  out.scale = scale;
  double const step = top * std::exp2(-scale / 4.0) * std::exp2(1 - bits),
               most = (std::exp2(bits) - 1) / 2;
  for (double const v : x) {
    double const level = std::clamp(std::floor(v / step) + 0.5, -most, most);
    out.levels.push_back(level);
    out.values.push_back(level * step);
    out.error += (v - level * step) * (v - level * step);
  }
  return out;
}

/// The best of eight scales from the smallest that clips nothing downwards.
inline centred_row centred(std::vector<double> const& x, double top, int bits) {
  double most = 0;
  for (double const v : x) most = std::max(most, std::abs(v));
  int first = 0;
  while (first < 31 && top * std::exp2(-(first + 1) / 4.0) >= most) ++first;
  centred_row best = at_scale(x, top, first, bits);
  for (int s = first + 1; s < std::min(first + 8, 32); ++s)
    if (auto const next = at_scale(x, top, s, bits); next.error < best.error) best = next;
  return best;
}

}  // namespace reference
