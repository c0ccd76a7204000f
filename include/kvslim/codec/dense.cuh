// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/dense.hpp>
#include <kvslim/core/codec.cuh>

KVSLIM_BEGIN_NAMESPACE

/// Threads encode elements in the order in which they are stored.
template <element T>
struct warp_codec<dense_key<T>> {
  using codec = dense_key<T>;
  static constexpr int warps = detail::most_team_warps;

  template <class Team = detail::one_warp>
  static __device__ void encode(codec const&, float const* rows, site const& at, std::byte* block) {
    for (index_t begin = 0; begin < at.n;) {
      index_t const t0 = (at.first + begin) % codec::tile,
                    n = detail::min(at.n - begin, codec::tile - t0);
      auto* const out =
          detail::array_at<T>(block) + (at.first + begin) / codec::tile * codec::tile * at.dim;
      for (index_t j = Team::thread(); j < at.dim * codec::tile; j += Team::threads) {
        index_t const d = j / codec::tile, i = j % codec::tile;
        if (i < n) out[d * codec::tile + t0 + i] = from_float<T>(rows[(begin + i) * at.dim + d]);
      }
      begin += n;
    }
  }
  template <class Use>
  static __device__ void each_channel(codec const&, std::byte const* block, site const& at,
                                      Use const& use) {
    auto const* const in = detail::array_at<T>(block) + at.first;
    for (int d = 0; d < static_cast<int>(at.dim); ++d) use(d, to_float(in[d * codec::tile]));
  }
};

template <element T>
struct warp_codec<dense_value<T>> {
  using codec = dense_value<T>;
  static constexpr int warps = detail::most_team_warps;

  template <class Team = detail::one_warp>
  static __device__ void encode(codec const&, float const* rows, site const& at, std::byte* block) {
    auto* const out = detail::array_at<T>(block) + at.first * at.dim;
    for (index_t j = Team::thread(); j < at.n * at.dim; j += Team::threads)
      out[j] = from_float<T>(rows[j]);
  }
  template <class Use>
  static __device__ void each_token(codec const&, std::byte const* block, site const& at, index_t d,
                                    Use const& use) {
    auto const* const in = detail::array_at<T>(block) + at.first * at.dim + d;
    int const dim = static_cast<int>(at.dim);
    for (int i = 0; i < static_cast<int>(at.n); ++i) use(i, to_float(in[i * dim]));
  }
};

KVSLIM_END_NAMESPACE
