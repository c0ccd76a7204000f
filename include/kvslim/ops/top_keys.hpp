// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// The one total order of selection as an integer, and the largest of many of them.

#include <kvslim/isa/score_kernels.hpp>

#include <algorithm>
#include <cmath>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

inline constexpr index_t few_keys = 1024;  ///< searched where they are all that is left
inline constexpr index_t keys_ahead = 8;   ///< written behind what was gathered, and overwritten

struct larger_first {
  bool operator()(std::uint64_t a, std::uint64_t b) const noexcept { return a > b; }
};

/// Keys from `low` to `high`, both of them included.
struct key_range {
  std::uint64_t low = 0, high = ~std::uint64_t{0};
};

/// Appends the keys within a range to `out`, which has room for keys_ahead more and may be `keys`;
/// returns how many lie above the range, unless there are Few in it.
template <bool Few = false>
inline index_t gather_keys(std::uint64_t const* keys, index_t count, key_range within,
                           std::uint64_t* out, index_t& found) noexcept {
  index_t i = 0, above = 0;
  static_cast<void>(with_score_kernels([&](auto kernels) {
    i = decltype(kernels)::template gather_keys<Few>(keys, count, within.low, within.high, out,
                                                     found, above);
  }));
  for (; i < count; ++i) {  // no branch on the keys
    std::uint64_t const key = keys[i];
    out[found] = key;
    found += static_cast<int>(key >= within.low) & static_cast<int>(key <= within.high);
    above += key > within.high ? 1 : 0;
  }
  return above;
}

/// The keep-th largest of a few keys, which are lost. Cost: linear; std::nth_element's where pivots
/// lead nowhere.
[[nodiscard]] inline std::uint64_t take_nth(std::uint64_t* keys, index_t count,
                                            index_t keep) noexcept {
  constexpr std::uint64_t largest = ~std::uint64_t{0};
  constexpr index_t pivots = 16, rounds = 16;
  for (index_t round = 0; count > 4 * pivots && round < rounds; ++round) {
    std::uint64_t some[pivots], none[keys_ahead];
    for (index_t i = 0; i < pivots; ++i) some[i] = keys[i * count / pivots];
    std::sort(some, some + pivots, larger_first{});
    std::uint64_t const pivot = some[(keep - 1) * pivots / count];
    index_t left = 0;
    index_t const above =
        pivot == largest ? 0
                         : gather_keys(keys, count, {largest, pivot}, none, left);  // finds none
    if (keep <= above) {
      gather_keys(keys, count, {pivot + 1, largest}, keys, left);
    } else {
      if (pivot > 0) gather_keys(keys, count, {0, pivot - 1}, keys, left);
      if (keep <= count - left) return pivot;
      keep -= count - left;
    }
    count = left;
  }
  std::nth_element(keys, keys + keep - 1, keys + count, larger_first{});
  return keys[keep - 1];
}

/// Where the keep-th largest of more than few_keys most likely lies, by a sample of them.
[[nodiscard]] KVSLIM_DETAIL_APART inline key_range likely_range(std::uint64_t const* keys,
                                                                index_t count,
                                                                index_t keep) noexcept {
  constexpr index_t sample = 512;
  std::uint64_t some[sample];
  auto const nth = [&](index_t place) {
    for (index_t i = 0; i < sample; ++i) some[i] = keys[i * count / sample];
    return take_nth(some, sample, place);
  };
  index_t const rank = keep * sample / count;
  // Three standard deviations of its rank among the sample, and some more.
  auto const doubt = static_cast<index_t>(
      4.0 + 3.0 * std::sqrt(static_cast<double>(rank * (sample - rank)) / sample));
  key_range likely;
  if (rank + doubt <= sample) likely.low = nth(rank + doubt);
  if (rank > doubt) likely.high = nth(rank - doubt);
  return likely;
}

/// Keys of a range, and how many keys there are above it.
struct counted_range {
  key_range range;
  index_t count, above;
};

/// The part of a range, one of up to 2^Bits alike, that has the keep-th largest of all keys; or
/// what lies above or below the range, where that has it.
template <int Bits>
[[nodiscard]] KVSLIM_DETAIL_APART inline counted_range part_with_nth(std::uint64_t const* keys,
                                                                     index_t count, index_t keep,
                                                                     key_range range) noexcept {
  constexpr std::size_t parts = 1u << Bits;
  constexpr index_t piece = 256;
  int const wide = 64 - __builtin_clzll((range.high - range.low) | 1);
  int const shift = std::max(0, wide - Bits);
  std::uint32_t counts[parts] = {};
  std::uint64_t within[piece + keys_ahead];
  index_t above = 0, inside = 0;
  for (index_t i = 0; i < count; i += piece) {
    index_t found = 0;
    above += gather_keys(keys + i, std::min(piece, count - i), range, within, found);
    for (index_t j = 0; j < found; ++j) ++counts[(within[j] - range.low) >> shift];
    inside += found;
  }
  if (keep <= above) return {{range.high + 1, ~std::uint64_t{0}}, above, 0};
  if (keep > above + inside) return {{0, range.low - 1}, count - above - inside, above + inside};
  for (std::size_t part = parts - 1;; --part) {
    index_t const here = static_cast<index_t>(counts[part]);
    if (keep > above + here) {
      above += here;
      continue;
    }
    std::uint64_t const low = range.low + (std::uint64_t{part} << shift),
                        rest = (std::uint64_t{1} << shift) - 1;
    return {{low, range.high - low < rest ? range.high : low + rest}, here, above};
  }
}

}  // namespace detail

namespace ops {

/// The upper half of order_key. Never 1, which is free for what takes no part.
[[nodiscard]] KVSLIM_HD inline std::uint32_t order_word(float score) noexcept {
  auto const bits = detail::bit_cast<std::uint32_t>(score + 0.0f);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0u;
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
[[nodiscard]] KVSLIM_HD inline std::uint64_t order_key(std::uint32_t word, index_t index) noexcept {
  return static_cast<std::uint64_t>(word) << 32 | (0xffffffffu - static_cast<std::uint32_t>(index));
}

/// Larger key means earlier in the order; keys with different indices are distinct. -0 and +0 are
/// equal scores. `index` below 2^32.
[[nodiscard]] KVSLIM_HD inline std::uint64_t order_key(float score, index_t index) noexcept {
  return order_key(order_word(score), index);
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

/// The keep-th largest of `count` keys, 1 <= keep <= count; keys stay where they are. A sample says
/// about where it lies, keys there are counted by parts until one has few. Cost: two passes, one
/// or two more where the sample misled or keys crowd into one part; 9 KiB of stack.
[[nodiscard]] inline std::uint64_t nth_key(std::uint64_t const* keys, index_t count,
                                           index_t keep) noexcept {
  detail::counted_range among{{}, count, 0};
  if (count > detail::few_keys) among.range = detail::likely_range(keys, count, keep);
  while (among.count > detail::few_keys) {
    if (among.range.low == among.range.high) return among.range.low;
    among = detail::part_with_nth<10>(keys, count, keep, among.range);
  }
  std::uint64_t left[detail::few_keys + detail::keys_ahead];
  index_t found = 0;
  detail::gather_keys<true>(keys, count, among.range, left, found);
  return detail::take_nth(left, found, keep - among.above);
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
    std::nth_element(keys, keys + keep, keys + count, detail::larger_first{});
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
