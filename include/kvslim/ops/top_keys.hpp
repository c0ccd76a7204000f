// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// The one total order of selection as an integer, and the largest of many of them.

#include <kvslim/isa/score_kernels.hpp>

#include <algorithm>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

inline constexpr index_t few_keys = 1024;  ///< sorted where they are all that is left

/// Appends the keys whose bits under `mask` are `settled`; `out` has room for one more than those.
inline void gather_keys(std::uint64_t const* keys, index_t count, std::uint64_t mask,
                        std::uint64_t settled, std::uint64_t* out, index_t& found) noexcept {
  index_t i = 0;
  static_cast<void>(with_score_kernels([&](auto kernels) {
    i = decltype(kernels)::gather_keys(keys, count, mask, settled, out, found);
  }));
  for (; i < count; ++i)
    if ((keys[i] & mask) == settled) out[found++] = keys[i];
}

/// The keys whose bits under `mask` are `settled`; at most few_keys. The keep-th largest of them.
[[nodiscard]] KVSLIM_DETAIL_APART inline std::uint64_t nth_of_few(std::uint64_t const* keys,
                                                                  index_t count, index_t keep,
                                                                  std::uint64_t mask,
                                                                  std::uint64_t settled) noexcept {
  std::uint64_t left[few_keys + 1];
  index_t found = 0;
  gather_keys(keys, count, mask, settled, left, found);
  std::nth_element(left, left + keep - 1, left + found,
                   [](std::uint64_t a, std::uint64_t b) { return a > b; });
  return left[keep - 1];
}

/// Of the keys whose bits under `mask` are `settled`: the digit, `Bits` wide from bit `shift` on,
/// of the keep-th largest. Leaves in `keep` its place among those of that digit, in `here` their
/// count.
template <int Bits>
[[nodiscard]] KVSLIM_DETAIL_APART inline std::uint64_t nth_digit(std::uint64_t const* keys,
                                                                 index_t count, std::uint64_t mask,
                                                                 std::uint64_t settled, int shift,
                                                                 index_t& keep,
                                                                 index_t& here) noexcept {
  constexpr std::size_t digits = 1u << Bits;
  // Two tables take turns, because equal digits wait for each other.
  std::uint32_t counts[2][digits] = {};
  auto const digit_of = [&](std::uint64_t key) {
    return static_cast<std::size_t>(key >> shift & (digits - 1));
  };
  index_t i = 0;
  for (; mask == 0 && i + 2 <= count; i += 2) {
    ++counts[0][digit_of(keys[i])];
    ++counts[1][digit_of(keys[i + 1])];
  }
  if (mask == 0 && i < count) ++counts[0][digit_of(keys[i++])];
  while (i < count) {  // few of many: those of a piece are gathered first
    constexpr index_t piece = 128;
    std::uint64_t left[piece + 1];
    index_t found = 0;
    index_t const n = std::min(piece, count - i);
    gather_keys(keys + i, n, mask, settled, left, found);
    for (index_t j = 0; j < found; ++j) ++counts[j & 1][digit_of(left[j])];
    i += n;
  }
  std::size_t d = digits - 1;
  for (;; --d) {
    here = static_cast<index_t>(counts[0][d] + counts[1][d]);
    if (here >= keep) return d;
    keep -= here;
  }
}

}  // namespace detail

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
/// the highest bit that differs on, ten bits at a time, until few keys are left. Cost: three
/// passes, two more wherever over 1024 keys share the digit that decides; 10 KiB of stack.
[[nodiscard]] inline std::uint64_t nth_key(std::uint64_t const* keys, index_t count,
                                           index_t keep) noexcept {
  constexpr int digit = 10;
  std::uint64_t mask = 0, settled = 0;  // leading bits that are settled, and what they are
  for (index_t here = count; here > detail::few_keys;) {
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
    // Bits above the highest that differs are common; below, as many as a digit has.
    int const wide = 64 - __builtin_clzll(all ^ any), shift = std::max(0, wide - digit);
    std::uint64_t const d = detail::nth_digit<digit>(keys, count, mask, settled, shift, keep, here);
    std::uint64_t const digit_mask = ((std::uint64_t{1} << digit) - 1) << shift;
    mask = ~((std::uint64_t{1} << shift) - 1);
    settled = ((all & ~digit_mask) | d << shift) & mask;
  }
  return detail::nth_of_few(keys, count, keep, mask, settled);
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
