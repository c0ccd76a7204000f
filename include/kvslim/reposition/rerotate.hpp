// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Moves kept keys to the positions 0, 1, 2, ... of the compacted cache. NVIDIA/kvpress,
// key_rerotation_press.py; for StreamingLLM's positions see arXiv:2309.17453, section 3.2.
//
// Fidelity: angles in double and products in float, where kvpress rounds cos and sin to the model's
// type. Fidelity: kvpress takes the old position to be the cache index; here it is the view's
// position.

#include <kvslim/core/concepts.hpp>
#include <kvslim/core/fingerprint.hpp>
#include <kvslim/ops/rope.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Rotates every kept key by (new position - old position). The next query's position is then the
/// number of kept tokens. Requires: an even number of rotated channels, at most head_dim
/// (invalid_option). Cost: 3 flop per rotated channel.
struct rerotate {
  static constexpr position_traits traits{};
  rope opt = {};

  [[nodiscard]] status check(extents const& e) const noexcept {
    if (!opt.fits(e.head_dim))
      return detail::fail(errc::invalid_option,
                          "kvslim: rerotate needs even rope.dims, at most head_dim");
    return {};
  }
  /// Of what rotated the stored keys: readers must agree on it. Tables of frequencies are the
  /// caller's to fingerprint.
  [[nodiscard]] KVSLIM_HD constexpr std::uint64_t fingerprint() const noexcept {
    std::uint64_t hash = detail::mix(1, detail::bit_cast<std::uint32_t>(opt.base));
    hash = detail::mix(hash, static_cast<std::uint64_t>(opt.dims));
    return detail::mix(hash, opt.interleaved ? 1 : 0);
  }
  KVSLIM_HD void move(float* key, index_t head_dim, std::int32_t from,
                      std::int32_t to) const noexcept {
    ops::rotate(opt, head_dim, static_cast<std::int64_t>(to) - from, key);
  }
};
static_assert(repositioner<rerotate>);

KVSLIM_END_NAMESPACE
