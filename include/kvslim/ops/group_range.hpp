// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Minimum and maximum of a group of values.

#include <kvslim/core/elements.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

struct range {
  float low, high;
};

/// N ranges side by side take in one more value each.
template <index_t N, class T>
KVSLIM_HD inline void widen_ranges(T const* in, float* low, float* high) noexcept {
  for (index_t i = 0; i < N; ++i) {
    float const x = to_float(in[i]);
    low[i] = x < low[i] ? x : low[i];
    high[i] = x > high[i] ? x : high[i];
  }
}

/// Minimum and maximum of x(0) .. x(count - 1); count >= 1. `by_lanes`: of zeros of either sign the
/// one that folding 32 lanes finds.
template <class X>
[[nodiscard]] KVSLIM_HD inline range range_of(index_t count, bool by_lanes, X const& x) noexcept {
  float const first = x(index_t{0});
  range r{first, first};
  index_t i = 1;
  if (by_lanes && count >= 32) {
    float low[32], high[32], in[32];
    for (index_t j = 0; j < 32; ++j) low[j] = high[j] = x(j);
    index_t const whole = count - count % 32;
    for (i = 32; i < whole; i += 32) {
      for (index_t j = 0; j < 32; ++j) in[j] = x(i + j);
      widen_ranges<32>(in, low, high);
    }
    for (index_t half = 16; half > 0; half /= 2)
      for (index_t j = 0; j < half; ++j) {
        low[j] = low[half + j] < low[j] ? low[half + j] : low[j];
        high[j] = high[half + j] > high[j] ? high[half + j] : high[j];
      }
    r = {low[0], high[0]};
  }
  for (; i < count; ++i) {
    float const last = x(i);
    widen_ranges<1>(&last, &r.low, &r.high);
  }
  return r;
}
/// Minimum and maximum of `count` values `stride` apart; count >= 1.
template <class T>
[[nodiscard]] KVSLIM_HD inline range group_range(T const* x, index_t count,
                                                 index_t stride) noexcept {
  return range_of(count, stride == 1, [&](index_t i) { return to_float(x[i * stride]); });
}

}  // namespace ops

KVSLIM_END_NAMESPACE
