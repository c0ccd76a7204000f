// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/rebuilt_key.hpp>
#include <kvslim/core/codec.cuh>
#include <kvslim/ops/rope.cuh>

KVSLIM_BEGIN_NAMESPACE

/// Threads turn keys back a pair of channels each, then do what they do with the other codec.
/// Attention has a warp rebuild 32 keys, some channels at a time, and a lane rotate and multiply
/// each.
template <class Inner>
struct warp_codec<rebuilt_key<Inner>> : detail::plain_warp_codec<rebuilt_key<Inner>> {
  using codec = rebuilt_key<Inner>;
  static constexpr int warps = warp_codec<Inner>::warps;

  /// Rows as they were before RoPE.
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
    __device__ void by_block(index_t begin, index_t end, Use const& use) const {
      read.by_block(begin, end, [&](float* rows, index_t first, index_t n) {
        detail::rotate_rows_by_threads(
            rotation, at.dim, n, [&](index_t i) { return -std::int64_t{at.positions[first + i]}; },
            rows, {members, members * at.dim, at.dim}, threadIdx.x, blockDim.x);
        __syncthreads();
        use(rows, first, n);
      });
    }
  };

  template <class Read>
  static __device__ void fit(codec const& c, Read const& read, index_t tokens, site const& at,
                             std::byte* state, float* scratch) {
    warp_codec<Inner>::fit(c.inner, subspace_rows(c, read, at), tokens, at, state, scratch);
  }
  [[nodiscard]] static KVSLIM_HD constexpr detail::subspace_shape subspace(codec const& c,
                                                                           index_t dim) {
    return warp_codec<Inner>::subspace(c.inner, dim);
  }
  template <class Read>
  [[nodiscard]] static __device__ keys_before<Read> subspace_rows(codec const& c, Read const& read,
                                                                  site const& at) {
    return {c.rotation, read, at, detail::group_of(c.inner).size()};
  }
  static __device__ void put_subspace(codec const& c, index_t dim, float const* basis,
                                      std::byte* state) {
    warp_codec<Inner>::put_subspace(c.inner, dim, basis, state);
  }
  template <class Team = detail::one_warp>
  static __device__ void encode(codec const& c, float* rows, site const& at, std::byte* block) {
    detail::rotate_rows_by_threads(
        c.rotation, at.dim, at.n, [&](index_t i) { return -std::int64_t{at.positions[i]}; }, rows,
        {detail::group_of(c.inner).size(), at.dim, at.n * at.dim}, Team::thread(), Team::threads);
    Team::synchronize();
    detail::encode_by<Team, warp_codec<Inner>>(c.inner, rows, at, block);
  }

  /// Words of shared memory that score_run reads of a row.
  [[nodiscard]] static KVSLIM_HD constexpr index_t row_words(index_t dim) noexcept { return dim; }
  /// Angles of pairs per position in units of 2^-64 turns: upper halves, then lower ones. Every
  /// thread of a block calls, and the caller synchronises afterwards.
  static __device__ void prepare_row(codec const& c, index_t dim, std::uint32_t* words) {
    index_t const pairs = c.rotation.rotated(dim) / 2;
    for (index_t i = threadIdx.x; i < pairs; i += blockDim.x) {
      std::uint64_t const units =
          detail::rope_turns::units_of(c.rotation.frequency(dim, i) * detail::turns_of_radian);
      words[i] = static_cast<std::uint32_t>(units >> 32);
      words[pairs + i] = static_cast<std::uint32_t>(units);
    }
  }
  /// Adds q[dim, Heads] times the key of token at.first + lane to every lane's logits; what lanes
  /// from at.n on get is of no use. `tile` is the warp's, warp_tile::floats long.
  template <int Heads>
  static __device__ void score_run(codec const& c, std::byte const* block, site const& at,
                                   float const* q, std::uint32_t const* words, float* tile,
                                   float (&logit)[Heads]) {
    constexpr index_t apart = detail::warp_tile::apart, wide = detail::warp_tile::channels;
    index_t const dim = at.dim, turned = c.rotation.rotated(dim), pairs = turned / 2,
                  mine = detail::min(index_t{threadIdx.x % detail::warp_threads}, at.n - 1);
    auto const position = static_cast<std::uint32_t>(at.positions[mine]);  // of a hole: any
    auto const load = [&](index_t d, index_t n, index_t other, index_t m) {
      __syncwarp();
      warp_codec<Inner>::load_tile(c.inner, block, at, d, n, other, m, tile);
      __syncwarp();
    };
    auto const add = [&](index_t d, float x) {
      detail::unrolled<Heads>([&](int h) { logit[h] += q[d * Heads + h] * x; });
    };
    auto const step = c.rotation.interleaved ? 2 : 1;  // between the pairs of a tile
    for (index_t i = 0; i < pairs; i += wide / 2) {
      index_t const n = detail::min(wide / 2, pairs - i);
      auto const [a, b] = c.rotation.pair(dim, i);
      if (step == 2)
        load(a, 2 * n, 0, 0);
      else
        load(a, n, b, n);
      float const* const xs = tile + mine;
      float const* const ys = xs + (step == 2 ? 1 : n) * apart;
      for (index_t j = 0; j < n; ++j) {
        std::uint64_t const low = std::uint64_t{position} * words[pairs + i + j];
        auto const by =
            detail::sine_of(position * words[i + j] + static_cast<std::uint32_t>(low >> 32));
        float const x = xs[j * step * apart], y = ys[j * step * apart];
        add(a + j * step, x * by.c - y * by.s);
        add(b + j * step, y * by.c + x * by.s);
      }
    }
    for (index_t d = turned; d < dim; d += wide) {
      index_t const n = detail::min(wide, dim - d);
      load(d, n, 0, 0);
      for (index_t j = 0; j < n; ++j) add(d + j, tile[j * apart + mine]);
    }
  }
};

namespace detail {

template <class Inner>
inline constexpr bool scores_runs<rebuilt_key<Inner>> = true;
template <class Inner>
inline constexpr bool fits_subspace<rebuilt_key<Inner>> = fits_subspace<Inner>;

}  // namespace detail

KVSLIM_END_NAMESPACE
