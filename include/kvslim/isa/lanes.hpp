// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/elements.hpp>

#include <cstring>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

// As many floats as a vector register of the consumer's flags holds, for sums that must stay in
// registers whatever a compiler thinks of the loops around them. The two kinds have names of their
// own, because a .cu file and a .cpp file may meet in one program.
#if defined(__CUDACC__) || !defined(__GNUC__)
struct single_lane {
  static constexpr index_t width = 1;
  float x;
};
using lanes = single_lane;
#else
struct vector_lanes {
#if defined(__AVX512F__)
  static constexpr index_t width = 16;
#elif defined(__AVX__)
  static constexpr index_t width = 8;
#else
  static constexpr index_t width = 4;
#endif
  using vector [[gnu::vector_size(4 * width)]] = float;
  vector x;
};
using lanes = vector_lanes;
#endif

/// Sums of N values for each of several heads.
template <index_t Heads, index_t N, class Lanes = lanes>
struct lane_sums {
  static constexpr index_t parts = N / Lanes::width;
  local<Lanes, Heads, parts> sums = {};

  /// Adds weight(h) * x to head h's, for N values x.
  template <class Weight>
  KVSLIM_HD void add(float const* x, Weight const& weight) noexcept {
    local<Lanes, parts> v;
    std::memcpy(&v, x, sizeof v);
    for (index_t h = 0; h < Heads; ++h) {
      float const w = weight(h);
      for (index_t j = 0; j < parts; ++j) sums[h][j].x += w * v[j].x;
    }
  }
  KVSLIM_HD void add(lane_sums const& other) noexcept {
    for (index_t h = 0; h < Heads; ++h)
      for (index_t j = 0; j < parts; ++j) sums[h][j].x += other.sums[h][j].x;
  }
  /// N sums of each head.
  KVSLIM_HD void store(local<float, Heads, N>& to) const noexcept {
    std::memcpy(&to, &sums, sizeof sums);
  }
};

}  // namespace detail

KVSLIM_END_NAMESPACE
