// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// The one total order of selection as an integer, and the largest of many of them.

#include <kvslim/isa/score_kernels.hpp>

#include <algorithm>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// Larger key means earlier in the order; keys with different indices are distinct. -0 and +0 are
/// equal scores. `index` below 2^32.
[[nodiscard]] KVSLIM_HD inline std::uint64_t order_key(float score, index_t index) noexcept {
  auto bits = detail::bit_cast<std::uint32_t>(score + 0.0f);
  bool const nan = (bits & 0x7fffffffu) > 0x7f800000u;
  bits = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  auto const high = static_cast<std::uint64_t>(nan ? 0u : bits);
  return (high << 32) | (0xffffffffu - static_cast<std::uint32_t>(index));
}

[[nodiscard]] KVSLIM_HD inline index_t key_index(std::uint64_t key) noexcept {
  return static_cast<index_t>(0xffffffffu - static_cast<std::uint32_t>(key));
}

/// order_key of n scores that belong to indices from `first` on.
inline void order_keys(float const* scores, index_t first, index_t n,
                       std::uint64_t* keys) noexcept {
  index_t i = 0;
  static_cast<void>(detail::with_score_kernels(
      [&](auto kernels) { i = decltype(kernels)::order_keys(scores, first, n, keys); }));
  for (; i < n; ++i) keys[i] = order_key(scores[i], first + i);
}

/// The keep-th largest of `count` keys, 1 <= keep <= count; keys stay where they are. Digits from
/// the highest bit that differs on, eleven bits at a time, until few keys are left. Cost: three
/// passes, two more where over 3072 keys share the digit that decides; 56 KiB of stack.
[[nodiscard]] KVSLIM_DETAIL_APART inline std::uint64_t nth_key(std::uint64_t const* keys,
                                                               index_t count,
                                                               index_t keep) noexcept {
  constexpr int digit = 11;
  constexpr std::size_t digits = 1u << digit, room = 3072;
  std::uint64_t left[room + 1];  // gathering writes one more than it counts
  auto const best_left = [&](index_t n) {
    std::nth_element(left, left + keep - 1, left + n,
                     [](std::uint64_t a, std::uint64_t b) { return a > b; });
    return left[keep - 1];
  };
  if (count <= static_cast<index_t>(room)) {
    std::copy(keys, keys + count, left);
    return best_left(count);
  }
  std::uint64_t mask = 0, settled = 0;  // leading bits that are settled, and what they are
  for (;;) {
    std::uint64_t any = 0, all = ~any;
    index_t i = 0;
    static_cast<void>(detail::with_score_kernels([&](auto kernels) {
      i = decltype(kernels)::key_bits(keys, count, mask, settled, all, any);
    }));
    for (; i < count; ++i) {
      std::uint64_t const other = (keys[i] & mask) == settled ? 0 : ~std::uint64_t{0};
      all &= keys[i] | other;
      any |= keys[i] & ~other;
    }
    if (all == any) return all;
    // Bits above the highest that differs are common.
    int const wide = 64 - __builtin_clzll(all ^ any), shift = std::max(0, wide - digit);
    std::uint64_t const digit_mask = (std::uint64_t{1} << (wide - shift)) - 1;
    // Four tables take turns, because equal digits wait for each other; what is out lies behind.
    std::uint32_t counts[4][digits + 4] = {};
    auto const digit_of = [&](index_t at) {
      return static_cast<std::size_t>(keys[at] >> shift & digit_mask);
    };
    i = 0;
    for (; mask == 0 && i + 4 <= count; i += 4) {
      ++counts[0][digit_of(i)];
      ++counts[1][digit_of(i + 1)];
      ++counts[2][digit_of(i + 2)];
      ++counts[3][digit_of(i + 3)];
    }
    for (; i < count; ++i)
      ++counts[i & 3][(keys[i] & mask) == settled ? digit_of(i)
                                                  : digits + static_cast<std::size_t>(i >> 2 & 3)];
    std::uint64_t d = digit_mask;
    index_t here = 0;
    for (;; --d) {
      here = static_cast<index_t>(counts[0][d] + counts[1][d] + counts[2][d] + counts[3][d]);
      if (here >= keep) break;
      keep -= here;
    }
    settled = (all & ~(digit_mask << shift)) | d << shift;
    mask = ~((std::uint64_t{1} << shift) - 1);
    settled &= mask;
    if (here > static_cast<index_t>(room)) continue;
    index_t found = 0;
    i = 0;
    static_cast<void>(detail::with_score_kernels([&](auto kernels) {
      i = decltype(kernels)::gather_keys(keys, count, mask, settled, left, found);
    }));
    for (; i < count; ++i)
      if ((keys[i] & mask) == settled) left[found++] = keys[i];
    return best_left(found);
  }
}

/// out[i] = 1 where keys[i] >= least, 0 elsewhere.
inline void reach_keys(std::uint64_t const* keys, index_t n, std::uint64_t least,
                       std::uint8_t* out) noexcept {
  index_t i = 0;
  static_cast<void>(detail::with_score_kernels(
      [&](auto kernels) { i = decltype(kernels)::reach_keys(keys, n, least, out); }));
  for (; i < n; ++i) out[i] = keys[i] >= least ? 1 : 0;
}

/// Moves the `keep` largest of `count` keys to the front, in no order. Cost: linear, as nth_key.
inline void top_keys(std::uint64_t* keys, index_t count, index_t keep) noexcept {
  if (keep <= 0 || keep >= count) return;
  if (count < 2048) {  // histograms do not pay
    std::nth_element(keys, keys + keep, keys + count,
                     [](std::uint64_t a, std::uint64_t b) { return a > b; });
    return;
  }
  std::uint64_t const least = nth_key(keys, count, keep);
  index_t at = 0;
  for (index_t i = 0; at < keep; ++i) {  // no branch on the keys
    std::uint64_t const key = keys[i];
    keys[i] = keys[at];
    keys[at] = key;
    at += key >= least ? 1 : 0;
  }
}

}  // namespace ops

KVSLIM_END_NAMESPACE
