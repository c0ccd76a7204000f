// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Blocks of 32 tokens in quarters, which warps code side by side without a word in common.

#include <kvslim/codec/planar.cuh>
#include <kvslim/codec/rotated_rows.cuh>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Eight tokens of a block of 32, those of a site among them: every fourth (`Apart` 4: keys whose
/// codes fill words) or one behind the other (1: values whose codes do).
template <int Apart>
struct token_share {
  static constexpr int shares = 4, tokens = 8;
  int which, first;  ///< of the shares; the site's first token
  int begin, end;    ///< of the share's tokens, those that are the site's

  __device__ token_share(int first_token, int n, int share)
      : which(share), first(first_token), begin(reached(first)), end(reached(first + n)) {}

  [[nodiscard]] __device__ bool has(int k) const { return k >= begin && k < end; }
  /// Token k's place in the block, and its row of the site's.
  [[nodiscard]] __device__ int place(int k) const { return from() + Apart * k; }
  template <class T>
  [[nodiscard]] __device__ T* row(T* rows, int dim, int k) const {
    return rows + (place(k) - first) * dim;
  }
  /// Rotates the site's rows of the share, by a warp. Synchronises after itself.
  __device__ void rotate(float* rows, int dim, std::uint64_t seed) const {
    rotate_by_warp(row(rows, dim, begin), dim, seed, false, end - begin, Apart * dim);
  }

 private:
  [[nodiscard]] __device__ int from() const { return Apart == 1 ? which * tokens : which; }
  /// How many tokens of the share lie before a place of the block.
  [[nodiscard]] __device__ int reached(int at) const {
    int const n = (at - from() + Apart - 1) / Apart;
    return n < 0 ? 0 : n > tokens ? tokens : n;
  }
};
template <bool Keys>
using code_share = token_share<Keys ? 4 : 1>;

/// Calls use(i) for the shares of a warp: one each if there are as many warps.
template <class Share, class Team, class Use>
__device__ void each_share(Use const& use) {
  if constexpr (Team::warps == Share::shares)
    use(Team::warp());
  else
    for (int i = Team::warp(); i < Share::shares; i += Team::warps) use(i);
}

/// Calls use(x) for every channel of a row in order. Each lane may have a row of its own, `count`
/// 0 for none; it begins `late` (below 8) channels late, so that rows in shared memory meet no bank
/// twice.
template <class Use>
__device__ void each_in_order(float const* row, int count, int late, Use const& use) {
  constexpr int together = 4;
  for (int d = -late; d < count; d += together) {
    float x[together];
    unrolled<together>([&](int i) { x[i] = d + i >= 0 && d + i < count ? row[d + i] : 0.0f; });
    unrolled<together>([&](int i) {
      if (d + i >= 0 && d + i < count) use(x[i]);
    });
  }
}

/// Writes the written bits of a word.
__device__ inline void store_bits(std::uint8_t* to, std::uint32_t word, std::uint32_t written) {
  if (written != ~0u) word |= ops::load_word(to) & ~written;
  ops::store_word(to, word);
}

/// Stores the codes of a share's tokens, by a warp: code(x, y) is that of a value x, where y is
/// what lane k of the warp holds about token k. Every lane calls, rows are visible to all of them.
template <int Bits, class About, class Code>
__device__ void store_share(bit_parts<true, Bits> const& run, std::uint8_t* codes,
                            code_share<true> const& share, float const* rows, About const& about,
                            Code const& code) {
  int const dim = static_cast<int>(run.dim), quads = dim / 4;
  bool const aligned = reinterpret_cast<std::uintptr_t>(rows) % 16 == 0;
  each_part<bit_parts<true, Bits>>([&](auto part, index_t before, int shift) {
    constexpr int bits = decltype(part)::value;
    constexpr int unit_size = static_cast<int>(ops::unit_bytes<bits>);
    constexpr std::uint32_t mask = (1u << bits) - 1u;
    auto* const units = codes + before * run.units();
    table_walk to(lane(), warp_threads, quads);  // words of the share in a unit, units
    for (int base = 0; base < quads * bits; base += warp_threads, to.next()) {
      bool const mine = to.row < bits;
      std::uint32_t word = 0, written = 0;
      for (int plane = 0; plane < planes<bits>; ++plane) {
        int const k = plane * bits + to.row % bits;
        auto const y = about(k);
        if (!mine || !share.has(k)) continue;
        float const* const at = share.row(rows, dim, k) + 4 * to.column;
        float4 x;
        if (aligned)
          x = *static_cast<float4 const*>(static_cast<void const*>(at));
        else
          x = {at[0], at[1], at[2], at[3]};
        float const four[] = {x.x, x.y, x.z, x.w};
        unrolled<4>(
            [&](int c) { word |= (code(four[c], y) >> shift & mask) << (8 * c + plane * bits); });
        written |= ops::code_mask<bits> << (plane * bits);
      }
      if (mine)
        store_bits(
            units + to.column * unit_size + 4 * (to.row * code_share<true>::shares + share.which),
            word, written);
    }
  });
}
template <int Bits, class About, class Code>
__device__ void store_share(bit_parts<false, Bits> const& run, std::uint8_t* codes,
                            code_share<false> const& share, float const* rows, About const& about,
                            Code const& code) {
  int const dim = static_cast<int>(run.dim), across = (dim + 31) / 32;
  each_part<bit_parts<false, Bits>>([&](auto part, index_t before, int shift) {
    constexpr int bits = decltype(part)::value, each = plane_words<bits>;
    constexpr int unit_size = static_cast<int>(ops::unit_bytes<bits>);
    constexpr std::uint32_t mask = (1u << bits) - 1u;
    auto* const units = codes + (before * run.units() + 2 * share.which * across * unit_size);
    for (int base = 0; base < 2 * across * each; base += warp_threads) {
      int const unit = (base + lane()) / each, i = (base + lane()) % each;
      bool const mine = unit < 2 * across, second = unit >= across;
      std::uint32_t word = 0, written = 0;
      unrolled<4>([&](int t) {
        int const k = second ? 4 + t : t;
        auto const y = about(k);
        if (!mine || !share.has(k)) return;
        float const* const x = share.row(rows, dim, k);
        for (int plane = 0; plane < planes<bits>; ++plane) {
          int const d = (second ? unit - across : unit) * 32 + plane * each + i;
          if (d < dim) word |= (code(x[d], y) >> shift & mask) << (8 * t + plane * bits);
        }
        written |= 255u << (8 * t);
      });
      if (mine) store_bits(units + unit * unit_size + 4 * i, word, written);
    }
  });
}

}  // namespace detail

KVSLIM_END_NAMESPACE
