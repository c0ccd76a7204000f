// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// The integer codecs by a warp: lanes own stored words when they encode, a token's key or a
// channel's values when they read.

#include <kvslim/codec/affine.hpp>
#include <kvslim/core/codec.cuh>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Range of `count` values by one lane, which starts where its neighbours do not: rows in shared
/// memory then meet no bank twice.
[[nodiscard]] __device__ inline ops::range lane_range(float const* x, int count) {
  int i = static_cast<int>(threadIdx.x) % count;
  ops::range r{x[i], x[i]};
  for (int n = 1; n < count; ++n) {
    i = i + 1 == count ? 0 : i + 1;
    ops::widen_ranges<1>(x + i, &r.low, &r.high);
  }
  return r;
}

/// Stores the words of a key unit: codes(token) gives the four codes of one token, a byte each.
template <int Bits, class Code>
__device__ void store_key_words(std::uint8_t* unit, Code const& codes) {
  constexpr int each = static_cast<int>(ops::unit_bytes<Bits>) / 4;
  for (int i = 0; i < each; ++i) {
    std::uint32_t word = 0;
    for (int plane = 0; plane < 8 / Bits; ++plane)
      word |= codes(plane * each + i) << (plane * Bits);
    ops::store_word(unit + 4 * i, word);
  }
}

/// What store_key_words asks for: four channels of one token, encoded.
template <class Parameters>
[[nodiscard]] __device__ std::uint32_t quad_codes(float const* x, Parameters const& parameters,
                                                  int bits, rounding mode) {
  std::uint32_t word = 0;
  for (int c = 0; c < 4; ++c)
    word |= ops::encode_affine(x[c], parameters(c), bits, mode) << (8 * c);
  return word;
}

/// Calls use(d, code) for every channel of one token of a run of 32 (its place in the run).
template <int Bits, class Use>
__device__ void each_key_code(std::uint8_t const* units, int token, int dim, Use const& use) {
  for (int quad = 0; quad < dim / 4; ++quad) {
    std::uint32_t const word =
        ops::unit_word<Bits>(units + quad * static_cast<int>(ops::unit_bytes<Bits>), token);
    for (int c = 0; c < 4; ++c) use(quad * 4 + c, static_cast<float>((word >> (8 * c)) & 255u));
  }
}

}  // namespace detail

template <int Bits, element Tail>
struct warp_codec<channel_key<Bits, Tail>> {
  using codec = channel_key<Bits, Tail>;

  static __device__ void encode(codec const& c, float const* rows, block_run const& run,
                                std::byte* block) {
    index_t const dim = run.dim;
    auto* const codes = reinterpret_cast<std::uint8_t*>(block);
    auto* const scale = reinterpret_cast<f16*>(block + c.code_bytes(dim));
    for (index_t quad = threadIdx.x % detail::warp_threads; quad < dim / 4;
         quad += detail::warp_threads) {
      float const* const x = rows + quad * 4;
      float least[4], most[4];
      ops::affine fitted[4];
      for (int i = 0; i < 4; ++i) least[i] = most[i] = x[i];
      for (index_t t = 1; t < c.group; ++t) ops::widen_ranges<4>(x + t * dim, least, most);
      for (int i = 0; i < 4; ++i) {
        fitted[i] = ops::fit_affine({least[i], most[i]}, Bits, c.rounding);
        scale[quad * 4 + i] = fitted[i].scale;
        scale[dim + quad * 4 + i] = fitted[i].low;
      }
      for (index_t t = 0; t < c.group; t += 32)
        detail::store_key_words<Bits>(
            codes + detail::key_unit<Bits>(t, quad * 4, dim), [&](index_t token) {
              return detail::quad_codes(
                  x + (t + token) * dim, [&](int i) { return fitted[i]; }, Bits, c.rounding);
            });
    }
  }
  template <class Use>
  static __device__ void each_channel(codec const& c, std::byte const* block, block_run const& run,
                                      Use const& use) {
    int const dim = static_cast<int>(run.dim);
    auto const* const scale = reinterpret_cast<f16 const*>(block + c.code_bytes(dim));
    auto const* const units =
        reinterpret_cast<std::uint8_t const*>(block) + detail::key_unit<Bits>(run.first, 0, dim);
    detail::each_key_code<Bits>(
        units, static_cast<int>(run.first % 32), dim,
        [&](int d, float code) { use(d, code * to_float(scale[d]) + to_float(scale[dim + d])); });
  }
};

template <int Bits, element Tail>
struct warp_codec<token_key<Bits, Tail>> {
  using codec = token_key<Bits, Tail>;

  static __device__ void encode(codec const& c, float const* rows, block_run const& run,
                                std::byte* block) {
    int const lane = static_cast<int>(threadIdx.x) % detail::warp_threads;
    index_t const dim = run.dim;
    auto* const codes = reinterpret_cast<std::uint8_t*>(block);
    auto* const scale = reinterpret_cast<f16*>(block + c.code_bytes(dim));
    if (lane < run.n) {
      auto const a = ops::fit_affine(detail::lane_range(rows + lane * dim, static_cast<int>(dim)),
                                     Bits, rounding::precise);
      scale[run.first + lane] = a.scale;
      scale[32 + run.first + lane] = a.low;
    }
    __syncwarp();
    for (index_t quad = lane; quad < dim / 4; quad += detail::warp_threads) {
      auto const token = [&](index_t t) {
        return detail::quad_codes(
            rows + t * dim + quad * 4,
            [&](int) {
              return ops::affine{scale[run.first + t], scale[32 + run.first + t]};
            },
            Bits, rounding::precise);
      };
      if (run.n == 32) {
        detail::store_key_words<Bits>(codes + detail::key_unit<Bits>(0, quad * 4, dim), token);
      } else {
        for (index_t t = 0; t < run.n; ++t)
          for (index_t i = 0; i < 4; ++i)
            detail::put_key<Bits>(codes, run.first + t, quad * 4 + i, dim,
                                  (token(t) >> (8 * i)) & 255u);
      }
    }
  }
  template <class Use>
  static __device__ void each_channel(codec const& c, std::byte const* block, block_run const& run,
                                      Use const& use) {
    int const dim = static_cast<int>(run.dim);
    auto const* const scale = reinterpret_cast<f16 const*>(block + c.code_bytes(dim));
    float const step = to_float(scale[run.first]), low = to_float(scale[32 + run.first]);
    detail::each_key_code<Bits>(reinterpret_cast<std::uint8_t const*>(block),
                                static_cast<int>(run.first), dim,
                                [&](int d, float code) { use(d, code * step + low); });
  }
};

template <int Bits, element Tail>
struct warp_codec<token_value<Bits, Tail>> {
  using codec = token_value<Bits, Tail>;

  static __device__ void encode(codec const& c, float const* rows, block_run const& run,
                                std::byte* block) {
    constexpr int each = static_cast<int>(ops::unit_bytes<Bits>) / 4;
    int const lane = static_cast<int>(threadIdx.x) % detail::warp_threads,
              dim = static_cast<int>(run.dim), first = static_cast<int>(run.first);
    int const width = static_cast<int>(c.width(dim)), groups = dim / width,
              tokens = static_cast<int>(run.n);
    int const units = static_cast<int>(detail::div_up(dim, 32));
    auto const parameters = [&](int t) {
      return reinterpret_cast<f16*>(block + t / 4 * c.block_bytes(dim) + c.code_bytes(dim)) +
             t % 4 * groups;
    };
    for (int i = lane; i < tokens * groups; i += detail::warp_threads) {
      int const t = i / groups, g = i % groups;
      auto const a =
          ops::fit_affine(detail::lane_range(rows + t * dim + g * width, width), Bits, c.rounding);
      f16* const at = parameters(first + t) + g;
      at[0] = a.scale;
      at[4 * groups] = a.low;
    }
    __syncwarp();
    int const blocks = static_cast<int>(detail::div_up(first + tokens, 4));
    for (int i = lane; i < blocks * units * each; i += detail::warp_threads) {
      int const b = i / (units * each), unit = i / each % units, w = i % each;
      std::uint32_t word = 0, written = 0;
      for (int t = first > b * 4 ? first : b * 4; t < first + tokens && t < b * 4 + 4; ++t) {
        f16 const* const at = parameters(t);
        written |= 255u << (8 * (t % 4));
        for (int plane = 0; plane < 8 / Bits; ++plane) {
          int const d = unit * 32 + plane * each + w;
          if (d < dim)
            word |=
                ops::encode_affine(rows[(t - first) * dim + d],
                                   {at[d / width], at[4 * groups + d / width]}, Bits, c.rounding)
                << (8 * (t % 4) + plane * Bits);
        }
      }
      auto* const to = reinterpret_cast<std::uint8_t*>(block) + b * c.block_bytes(dim) +
                       unit * ops::unit_bytes<Bits> + 4 * w;
      ops::store_word(to, (ops::load_word(to) & ~written) | word);
    }
  }
  template <class Use>
  static __device__ void each_token(codec const& c, std::byte const* block, block_run const& run,
                                    index_t d, Use const& use) {
    int const width = static_cast<int>(c.width(run.dim)),
              groups = static_cast<int>(run.dim) / width, g = static_cast<int>(d) / width;
    int const end = static_cast<int>(run.first + run.n);
    for (int t = static_cast<int>(run.first); t < end;) {
      std::byte const* const at = block + t / 4 * c.block_bytes(run.dim);
      auto const* const scale = reinterpret_cast<f16 const*>(at + c.code_bytes(run.dim)) + g;
      std::uint32_t const word = ops::unit_word<Bits>(
          reinterpret_cast<std::uint8_t const*>(at) + d / 32 * ops::unit_bytes<Bits>, d % 32);
      for (int i = t % 4; i < 4 && t < end; ++i, ++t)
        use(t - static_cast<int>(run.first),
            static_cast<float>((word >> (8 * i)) & 255u) * to_float(scale[i * groups]) +
                to_float(scale[(4 + i) * groups]));
    }
  }
};

KVSLIM_END_NAMESPACE
