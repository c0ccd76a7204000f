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

/// What store_key_words asks for: four channels of one token, encoded.
template <class Parameters>
[[nodiscard]] __device__ std::uint32_t quad_codes(float const* x, Parameters const& parameters,
                                                  int bits, rounding mode) {
  std::uint32_t word = 0;
  for (int c = 0; c < 4; ++c) word |= encode_affine(x[c], parameters(c), bits, mode) << (8 * c);
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
