// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/shared_direction.hpp>
#include <kvslim/core/codec.cuh>

KVSLIM_BEGIN_NAMESPACE

/// A thread a token; one of them chooses what is exact.
template <class Dense, detail::form_kind Kind>
struct warp_codec<shared_direction<Dense, Kind>>
    : detail::plain_warp_codec<shared_direction<Dense, Kind>> {
  using codec = shared_direction<Dense, Kind>;
  static constexpr int warps = detail::most_team_warps;

  template <class Team = detail::one_warp>
  static __device__ void encode(codec const& c, float const* rows, site const& at,
                                std::byte* block) {
    index_t const n = c.opt.block, me = Team::thread();
    for (index_t t = me; t < n; t += Team::threads) c.put_cosine(rows, at.dim, t, block);
    Team::synchronize();
    if (me == 0) c.choose_exact(block);
    Team::synchronize();
    for (index_t t = me; t < n; t += Team::threads) c.encode_token(rows, at.dim, t, block);
  }
};

KVSLIM_END_NAMESPACE
