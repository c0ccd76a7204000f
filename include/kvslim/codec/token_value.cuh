// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/planar.cuh>
#include <kvslim/codec/token_value.hpp>

KVSLIM_BEGIN_NAMESPACE

template <int Bits, element Tail, affine_parameter Param>
struct warp_codec<token_value<Bits, Tail, Param>> {
  using codec = token_value<Bits, Tail, Param>;

  static __device__ void encode(codec const& c, float const* rows, site const& at,
                                std::byte* block) {
    int const lane = detail::lane(), dim = static_cast<int>(at.dim),
              first = static_cast<int>(at.first), tokens = static_cast<int>(at.n);
    int const width = static_cast<int>(c.width(dim)), groups = dim / width;
    int const units = static_cast<int>(detail::div_up(dim, detail::unit_channels));
    auto const stride = c.sizes(dim, 0).block_bytes;
    auto const parameters = [&](int t) {
      return c.parameters(block + t / 4 * stride, dim).from(t % 4 * groups);
    };
    for (int i = lane; i < tokens * groups; i += detail::warp_threads) {
      int const t = i / groups, g = i % groups;
      auto const range = detail::lane_range(rows + t * dim + g * width, width);
      parameters(first + t).set(g, detail::fit_affine<Param>(range, Bits, c.rounding));
    }
    __syncwarp();
    int const blocks = static_cast<int>(detail::div_up(first + tokens, 4));
    detail::each_part<detail::bit_parts<false, Bits>>([&](auto part, index_t before, int shift) {
      constexpr int bits = decltype(part)::value, each = detail::plane_words<bits>;
      auto* const codes = detail::codes_of(block) + before * units;
      for (int i = lane; i < blocks * units * each; i += detail::warp_threads) {
        int const b = i / (units * each), unit = i / each % units, w = i % each;
        std::uint32_t word = 0, written = 0;
        for (int t = first > b * 4 ? first : b * 4; t < first + tokens && t < b * 4 + 4; ++t) {
          auto const stored = parameters(t);
          written |= 255u << (8 * (t % 4));
          for (int plane = 0; plane < detail::planes<bits>; ++plane) {
            int const d = unit * 32 + plane * each + w;
            if (d < dim)
              word |= (detail::encode_affine(rows[(t - first) * dim + d], stored[d / width], Bits,
                                             c.rounding) >>
                           shift &
                       ((1u << bits) - 1u))
                      << (8 * (t % 4) + plane * bits);
          }
        }
        auto* const to = codes + b * stride + unit * ops::unit_bytes<bits> + 4 * w;
        ops::store_word(to, (ops::load_word(to) & ~written) | word);
      }
    });
  }
  template <class Use>
  static __device__ void each_token(codec const& c, std::byte const* block, site const& at,
                                    index_t d, Use const& use) {
    int const width = static_cast<int>(c.width(at.dim)), groups = static_cast<int>(at.dim) / width,
              g = static_cast<int>(d) / width;
    int const end = static_cast<int>(at.first + at.n);
    auto const stride = c.sizes(at.dim, 0).block_bytes;
    for (int t = static_cast<int>(at.first); t < end;) {
      std::byte const* const here = block + t / 4 * stride;
      auto const stored = c.parameters(here, at.dim).from(g);
      std::uint32_t const word = c.coded(at.dim).word(
          detail::codes_of(here), d / detail::unit_channels, d % detail::unit_channels);
      for (int i = t % 4; i < 4 && t < end; ++i, ++t)
        use(t - static_cast<int>(at.first),
            detail::byte_of(word, i) * to_float(stored.scale[i * groups]) +
                to_float(stored.low[i * groups]));
    }
  }
};

KVSLIM_END_NAMESPACE
