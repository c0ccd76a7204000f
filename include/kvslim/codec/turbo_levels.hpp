// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// The levels that coordinates of random directions are coded by (codec/turbo_rows.hpp).

#include <kvslim/core/config.hpp>

#include <cstdint>

KVSLIM_BEGIN_NAMESPACE

/// What the levels are best for: coordinates of a direction in so many channels, or their limit.
enum class turbo_levels : std::uint8_t { exact, gaussian };

namespace detail {

/// The upper half of the Lloyd-Max levels of 2^bits for coordinates of unit variance, ascending:
/// of the normal distribution, and by powers of 1 / dim what is added for directions in dim
/// channels (within 2e-6 of the solution from 16 channels on).
struct turbo_level {
  double normal, first, second, third;
};
inline constexpr index_t most_turbo_levels = 16;

[[nodiscard]] KVSLIM_HD constexpr turbo_level turbo_level_of(int bits, int i) noexcept {
  constexpr turbo_level all[15] = {
      {0.79788456, 0.19947103, 0.0249487, -0.031732},
      {0.45278003, -0.04134446, -0.0619386, 0.011216},
      {1.51041761, -0.66914296, 0.0488598, 0.160905},
      {0.24509418, -0.08552707, -0.0188601, 0.056833},
      {0.75600528, -0.34259183, 0.0213227, 0.161282},
      {1.34390928, -0.93919843, 0.4427151, 0.127648},
      {2.15194570, -2.64112603, 2.6124211, -1.166112},
      {0.12839503, -0.06685289, 0.0062820, 0.050800},
      {0.38804830, -0.21371261, 0.0355338, 0.144792},
      {0.65675912, -0.40290456, 0.1213238, 0.209057},
      {0.94234046, -0.67373124, 0.3271759, 0.194863},
      {1.25623120, -1.08903650, 0.7753884, -0.018790},
      {1.61804639, -1.76763453, 1.7405936, -0.761238},
      {2.06901723, -2.98660931, 3.9737442, -3.090385},
      {2.73258957, -5.67823613, 10.4385181, -11.867173},
  };
  return all[(1 << (bits - 1)) - 1 + i];
}
/// Levels[2^bits] of a coordinate of a direction times `scale`.
template <int Bits>
KVSLIM_HD inline void fill_turbo_levels(index_t dim, turbo_levels kind, float scale,
                                        float* levels) noexcept {
  constexpr int half = 1 << (Bits - 1);
  double const x = kind == turbo_levels::exact ? 1.0 / static_cast<double>(dim) : 0.0;
  for (int i = 0; i < half; ++i) {
    turbo_level const level = turbo_level_of(Bits, i);
    auto const y = static_cast<float>(level.normal +
                                      x * (level.first + x * (level.second + x * level.third))) *
                   scale;
    levels[half + i] = y;
    levels[half - 1 - i] = -y;
  }
}
/// Up to where a coordinate has the level below the i-th.
[[nodiscard]] KVSLIM_HD inline float between_turbo_levels(float const* levels, int i) noexcept {
  return 0.5f * (levels[i - 1] + levels[i]);
}

}  // namespace detail

KVSLIM_END_NAMESPACE
