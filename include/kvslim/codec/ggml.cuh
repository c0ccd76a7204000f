// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/ggml.hpp>
#include <kvslim/core/codec.cuh>

KVSLIM_BEGIN_NAMESPACE

/// A warp a block of 32 channels, a lane a channel.
template <ggml_block Type, element Tail>
struct warp_codec<ggml_rows<Type, Tail>> : detail::plain_warp_codec<ggml_rows<Type, Tail>> {
  using codec = ggml_rows<Type, Tail>;
  using format = detail::ggml_format<Type>;
  static constexpr int warps = detail::most_team_warps;

  template <class Team = detail::one_warp>
  static __device__ void encode(codec const&, float const* rows, site const& at, std::byte* block) {
    int const lane = Team::lane(), blocks = static_cast<int>(at.n * at.dim / format::channels);
    for (int b = Team::warp(); b < blocks; b += Team::warps) {
      float const* const in = rows + b * format::channels;
      std::byte* const out = block + b * format::bytes;
      float const x = in[lane];
      ops::range const range{
          detail::over_warp(x, [](float one, float other) { return other < one ? other : one; }),
          detail::over_warp(x, [](float one, float other) { return other > one ? other : one; })};
      auto const scale = format::fit(range, in);
      int const code = format::code(format::limited(x, scale.minimum, format::inverse(scale.step)));
      if (lane == 0) {
        auto* const parameters = detail::array_at<f16>(out);
        parameters[0] = detail::narrow<f16>(scale.step);
        if constexpr (format::has_minimum) parameters[1] = detail::narrow<f16>(scale.minimum);
      }
      auto* const codes = detail::ggml_codes(out, format::codes_at);
      if constexpr (format::bits == 8) {
        codes[lane] = static_cast<std::uint8_t>(code);
      } else {
        int const other = __shfl_xor_sync(0xffffffffu, code, 16);
        if (lane < 16) codes[lane] = static_cast<std::uint8_t>((code & 15) | (other & 15) << 4);
      }
      if constexpr (format::bits == 5) {
        std::uint32_t const high = __ballot_sync(0xffffffffu, code >> 4 & 1);
        if (lane == 0) std::memcpy(out + format::high_at, &high, sizeof high);
      }
    }
  }
};

KVSLIM_END_NAMESPACE
