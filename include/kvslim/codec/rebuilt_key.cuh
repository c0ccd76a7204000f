// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/rebuilt_key.hpp>
#include <kvslim/core/codec.cuh>
#include <kvslim/ops/rope.cuh>

KVSLIM_BEGIN_NAMESPACE

/// Threads turn keys back a pair of channels each, then do what they do with the other codec.
template <class Inner>
struct warp_codec<rebuilt_key<Inner>> : detail::plain_warp_codec<rebuilt_key<Inner>> {
  using codec = rebuilt_key<Inner>;
  static constexpr int warps = warp_codec<Inner>::warps;

  template <class Read>
  static __device__ void fit(codec const& c, Read const& read, index_t tokens, site const& at,
                             std::byte* state, float* scratch) {
    warp_codec<Inner>::fit(
        c.inner, keys_before<Read>{c.rotation, read, at, detail::group_of(c.inner).size()}, tokens,
        at, state, scratch);
  }
  template <class Team = detail::one_warp>
  static __device__ void encode(codec const& c, float* rows, site const& at, std::byte* block) {
    detail::rotate_rows_by_threads(
        c.rotation, at.dim, at.n * detail::group_of(c.inner).size(),
        [&](index_t i) { return -std::int64_t{at.positions[i % at.n]}; }, rows, Team::thread(),
        Team::threads);
    Team::synchronize();
    detail::encode_by<Team, warp_codec<Inner>>(c.inner, rows, at, block);
  }

 private:
  template <class Read>
  struct keys_before {
    rope const& rotation;
    Read const& read;
    site const& at;
    index_t members;

    __device__ void operator()(index_t member, index_t t, float* x) const {
      read(member, t, x);
      ops::rotate(rotation, at.dim, -std::int64_t{at.positions[t]}, x);
    }
    /// Rows of a token are those of all members.
    template <class Use>
    __device__ void by_block(index_t tokens, Use const& use) const {
      read.by_block(tokens, [&](float* rows, index_t first, index_t n) {
        detail::rotate_rows_by_threads(
            rotation, at.dim, n * members,
            [&](index_t i) { return -std::int64_t{at.positions[first + i / members]}; }, rows,
            threadIdx.x, blockDim.x);
        __syncthreads();
        use(rows, first, n);
      });
    }
  };
};

KVSLIM_END_NAMESPACE
