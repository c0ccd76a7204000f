// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Selection under one total order: higher score first, ties to the lower index, NaN last. The
/// order is an integer, so the CPU and CUDA select identical sets.

#include <algorithm>
#include <kvslim/core/config.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// Larger key means earlier in the order; keys of one row are distinct. -0 and +0 are equal scores.
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

/// Moves the `keep` largest of `count` keys to the front, in no order. Cost: linear on average, no
/// memory.
inline void top_keys(std::uint64_t* keys, index_t count, index_t keep) noexcept {
  if (keep > 0 && keep < count)
    std::nth_element(keys, keys + keep, keys + count,
                     [](std::uint64_t a, std::uint64_t b) { return a > b; });
}

}  // namespace ops

KVSLIM_END_NAMESPACE
