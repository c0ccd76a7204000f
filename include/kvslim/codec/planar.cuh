// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Planar units by a warp: lanes own stored words when they encode, a token's key or a channel's
// values when they read.

#include <kvslim/codec/planar.hpp>
#include <kvslim/core/codec.cuh>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Words of a unit's bit plane, and the codes' bit planes of a unit.
template <int Bits>
inline constexpr int plane_words = static_cast<int>(ops::unit_bytes<Bits>) / 4;
template <int Bits>
inline constexpr int planes = 8 / Bits;

[[nodiscard]] __device__ inline int lane() { return static_cast<int>(threadIdx.x) % warp_threads; }

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

/// Places first, first + step and so on of a table of `columns` columns; next() divides nothing.
struct table_walk {
  int row, column, columns, rows_on, columns_on;

  __device__ table_walk(int first, int step, int of)
      : row(first / of),
        column(first % of),
        columns(of),
        rows_on(step / of),
        columns_on(step % of) {}
  __device__ void next() {
    row += rows_on;
    column += columns_on;
    if (column < columns) return;
    column -= columns;
    ++row;
  }
};

/// The range of what `Lanes` lanes beside each other have.
template <int Lanes>
[[nodiscard]] __device__ inline ops::range joined_range(ops::range r) {
  for (int step = 1; step < Lanes; step *= 2) {
    float const low = __shfl_xor_sync(0xffffffffu, r.low, step),
                high = __shfl_xor_sync(0xffffffffu, r.high, step);
    ops::widen_ranges<1>(&low, &r.low, &r.high);
    ops::widen_ranges<1>(&high, &r.low, &r.high);
  }
  return r;
}

/// bit_parts::each for functions of the device.
template <class Parts, int I = 0, class F>
__device__ void each_part(F const& f) {
  constexpr auto p = Parts::part_of(I);
  f(std::integral_constant<int, p.bits>{}, p.before, p.shift);
  if constexpr (I + 1 < Parts::count) each_part<Parts, I + 1>(f);
}

/// Stores a unit of a run's keys: code(token) gives the four codes of one token, a byte each. Words
/// `first`, `first` + `step` and so on of every part.
template <int Bits, class Code>
__device__ void store_key_words(bit_parts<true, Bits> const& run, std::uint8_t* codes, index_t unit,
                                int first, int step, Code const& code) {
  each_part<bit_parts<true, Bits>>([&](auto part, index_t before, int shift) {
    constexpr int bits = decltype(part)::value;
    std::uint8_t* const to = codes + before * run.units() + unit * ops::unit_bytes<bits>;
    for (int i = first; i < plane_words<bits>; i += step) {
      std::uint32_t word = 0;
      for (int plane = 0; plane < planes<bits>; ++plane)
        word |=
            (code(plane * plane_words<bits> + i) >> shift & ops::code_mask<bits>) << (plane * bits);
      ops::store_word(to + 4 * i, word);
    }
  });
}

/// a * b + c, rounded once: for what knows its error. Also where compilers flush subnormals.
[[nodiscard]] __device__ inline float fused(float a, float b, float c) {
#if defined(__CUDACC__)
  float sum;
  asm("fma.rn.f32 %0, %1, %2, %3;" : "=f"(sum) : "f"(a), "f"(b), "f"(c));
  return sum;
#else
  return fmaf(a, b, c);
#endif
}

/// The codes of one group's values, as encode_affine() has them, by one division: every quotient is
/// a product with the reciprocal, corrected by what it leaves, which is what a division rounds to
/// (Markstein, IBM J. Res. Dev. 34, 1990) where nothing comes near the ends of a float's range.
template <affine_parameter Param>
class affine_coder {
 public:
  __device__ explicit affine_coder(affine<Param> const& a)
      : low_(widen(a.low)), scale_(widen(a.scale)) {
    if constexpr (!near) {
      factor_ = scale_ < 0x1p-60f ? 0x1p64f : scale_ > 0x1p60f ? 0x1p-64f : 1.0f;
      scale_ = product(scale_, factor_);
    }
    inverse_ = scale_ == 0.0f ? 0.0f : divide(1.0f, scale_);
  }
  [[nodiscard]] __device__ std::uint32_t code(float x, int bits, rounding mode) const {
    float const most = highest_code(bits);
    if (mode != rounding::authors) return round_code(quotient(x - low_), most);
    return round_code(round_f16(quotient(round_f16(round_f16(x) - low_))), most);
  }

 private:
  static constexpr bool near = std::same_as<Param, f16>;  // every scale is

  [[nodiscard]] __device__ float quotient(float y) const {
    if constexpr (!near) y = product(y, factor_);
    float const guess = product(y, inverse_);
    if (!(fabsf(guess) < 1024.0f)) return guess;  // beyond all codes, or NaN
    return fused(fused(-guess, scale_, y), inverse_, guess);
  }

  float low_, scale_, inverse_, factor_ = 1.0f;
};

/// What store_key_words asks for: four channels of one token, encoded.
template <class Coders>
[[nodiscard]] __device__ std::uint32_t quad_codes(float const* x, Coders const& coders, int bits,
                                                  rounding mode) {
  std::uint32_t word = 0;
  for (int c = 0; c < 4; ++c) word |= coders(c).code(x[c], bits, mode) << (8 * c);
  return word;
}

/// Calls use(d, code) for every channel of one token of a run of 32 (its place in the run).
template <int Bits, class Use>
__device__ void each_key_code(std::uint8_t const* codes, int token, int dim, Use const& use) {
  for (int quad = 0; quad < dim / 4; ++quad) {
    std::uint32_t word;
    if constexpr (ops::planar_bits<Bits>)
      word = ops::unit_word<Bits>(codes + quad * static_cast<int>(ops::unit_bytes<Bits>), token);
    else
      word = key_run<Bits>(dim).word(codes, quad, token);
    for (int c = 0; c < 4; ++c) use(quad * 4 + c, byte_of(word, c));
  }
}

}  // namespace detail

KVSLIM_END_NAMESPACE
