// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/fp8_rows.hpp>
#include <kvslim/core/codec.cuh>

KVSLIM_BEGIN_NAMESPACE

/// A warp a token and group, a lane a channel.
template <bool Keys, element T, element Tail>
struct warp_codec<fp8_rows<Keys, T, Tail>> : detail::plain_warp_codec<fp8_rows<Keys, T, Tail>> {
  using codec = fp8_rows<Keys, T, Tail>;
  static constexpr int warps = detail::most_team_warps;

  template <class Team = detail::one_warp>
  static __device__ void encode(codec const& c, float const* rows, site const& at,
                                std::byte* block) {
    int const lane = Team::lane(), width = static_cast<int>(c.width(at.dim)),
              groups = static_cast<int>(at.dim) / width;
    for (int part = Team::warp(); part < static_cast<int>(at.n) * groups; part += Team::warps) {
      int const i = part / groups, g = part % groups;
      float const* const x = rows + part * width;
      float high = 0.0f;
      for (int d = lane; d < width; d += detail::warp_threads) {
        float const size = fabsf(x[d]);
        high = size > high ? size : high;
      }
      high = detail::over_warp(high, [](float one, float other) { return fmaxf(one, other); });
      float const s = c.scale_for(high);
      if (lane == 0 && c.scale == 0.0f) codec::put_scale(block, at, i, g, s);
      for (int d = lane; d < width; d += detail::warp_threads)
        c.put(block, at, i, g * width + d, x[d], s);
    }
  }
};

KVSLIM_END_NAMESPACE
