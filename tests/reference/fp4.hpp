// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// 4-bit and 8-bit floats one value at a time, in double, from their description.

#include <algorithm>
#include <cmath>
#include <vector>

namespace reference {

/// The finite values >= 0 of a small float, ascending: the value of code i is at i.
inline std::vector<double> small_floats(int fractions, int bias, int codes) {
  std::vector<double> out;
  int const part = 1 << fractions;
  for (int i = 0; i < codes; ++i)
    out.push_back(i < part ? std::ldexp(i, 1 - bias - fractions)
                           : std::ldexp(part + i % part, i / part - bias - fractions));
  return out;
}
inline std::vector<double> e2m1_values() { return small_floats(1, 1, 8); }
inline std::vector<double> e4m3_values() { return small_floats(3, 7, 127); }
inline std::vector<double> e5m2_values() { return small_floats(2, 15, 124); }

/// The nearest of them; at a tie the one with an even code, or the lower one.
inline int nearest_code(std::vector<double> const& values, double x, bool even) {
  int best = 0;
  for (int i = 1; i < static_cast<int>(values.size()); ++i) {
    double const now = std::abs(x - values[static_cast<std::size_t>(i)]),
                 then = std::abs(x - values[static_cast<std::size_t>(best)]);
    if (now < then || (now == then && even && i % 2 == 0)) best = i;
  }
  return best;
}

/// One block: the scale byte, and a code of four bits for each value.
struct fp4_codes {
  int scale;
  std::vector<int> codes;
  std::vector<double> values;
};
/// `nv`: 16 values with an e4m3 scale, times `all`; otherwise 32 with a power of two.
inline fp4_codes fp4(float const* x, int n, bool nv, bool even, double all) {
  fp4_codes out{};
  double most = 0;
  for (int i = 0; i < n; ++i) most = std::max(most, std::abs(static_cast<double>(x[i])));
  double step = 0;
  if (nv) {
    auto const scales = e4m3_values();
    double const wanted = most / all / 6;
    out.scale = nearest_code(scales, wanted, even);
    if (!even) {  // ties upwards; nothing between 240 and 448, nor between 7 * 2^-9 and 2^-6
      auto const up = static_cast<std::size_t>(std::min(out.scale + 1, 126));
      if (scales[up] - wanted <= std::abs(wanted - scales[up - 1]))
        out.scale = static_cast<int>(up);
      if (scales[static_cast<std::size_t>(out.scale)] >= 256) out.scale = 126;
      if (wanted < 0.015625) out.scale = std::min(out.scale, 7);
    }
    step = scales[static_cast<std::size_t>(out.scale)] * all;
  } else if (most > 0) {
    out.scale = std::ilogb(most) - 2 + 127;
    step = std::exp2(out.scale - 127);
  }
  auto const values = e2m1_values();
  for (int i = 0; i < n; ++i) {
    double const size = std::abs(static_cast<double>(x[i]));
    int code = step > 0 ? nearest_code(values, size / step, even) : 0;
    double const v = values[static_cast<std::size_t>(code)] * step;
    out.values.push_back(x[i] < 0 ? -v : v);
    if (std::signbit(x[i]) && step > 0 && (even || code > 0)) code += 8;
    out.codes.push_back(code);
  }
  return out;
}

/// What x becomes as a float of 8 bits.
inline double fp8(float x, std::vector<double> const& values) {
  double const v = values[static_cast<std::size_t>(nearest_code(values, std::abs(x), true))];
  return x < 0 ? -v : v;
}

}  // namespace reference
