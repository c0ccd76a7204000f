// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/config.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Mixes one word into a fingerprint (splitmix64's finaliser).
[[nodiscard]] KVSLIM_HD constexpr std::uint64_t mix(std::uint64_t hash,
                                                    std::uint64_t word) noexcept {
  std::uint64_t x = hash + 0x9e3779b97f4a7c15u + word;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace detail

KVSLIM_END_NAMESPACE
