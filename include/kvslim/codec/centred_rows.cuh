// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/centred_rows.hpp>
#include <kvslim/codec/token_share.cuh>

KVSLIM_BEGIN_NAMESPACE

template <bool Keys, int Bits, element Tail>
struct warp_codec<centred_rows<Keys, Bits, Tail>> {
  using codec = centred_rows<Keys, Bits, Tail>;
  static constexpr int warp = detail::warp_threads, warps = detail::most_team_warps;

  static __device__ int lane() { return static_cast<int>(threadIdx.x) % warp; }
  /// A thread a channel for the mean, a warp a token for the largest magnitude.
  template <class Read>
  static __device__ void fit(codec const& c, Read const& read, index_t tokens, site const& at,
                             std::byte* state, float* scratch) {
    index_t const dim = at.dim, me = threadIdx.x, threads = blockDim.x;
    int& largest = *static_cast<int*>(static_cast<void*>(scratch + dim));  // bits: ordered alike
    for (index_t d = me; d < dim; d += threads) scratch[d] = 0.0f;
    read.by_block(0, tokens, [&](float const* rows, index_t first, index_t n) {
      for (index_t d = me; d < dim; d += threads) {
        float mean = scratch[d];
        for (index_t i = 0; i < n; ++i) mean = codec::mean_with(mean, rows[i * dim + d], first + i);
        scratch[d] = mean;
      }
    });
    if (me == 0) largest = 0;
    __syncthreads();
    if (me < warp) detail::rotate_by_warp(scratch, dim, c.seed, false);
    __syncthreads();
    for (index_t d = me; d < dim; d += threads)
      codec::means(state)[d] = from_float<f16>(scratch[d]);
    __syncthreads();
    float most = 0.0f;
    read.by_block(0, tokens, [&](float* rows, index_t, index_t n) {
      for (index_t i = me / warp; i < n; i += threads / warp) {
        detail::rotate_by_warp(rows + i * dim, dim, c.seed, false);
        float const high = centre(rows + i * dim, dim, codec::means(state));
        most = high > most ? high : most;
      }
    });
    atomicMax(&largest, __float_as_int(most));
    __syncthreads();
    if (me == 0)
      *detail::array_at<float>(state) = tokens == 0 ? c.reference : __int_as_float(largest) * 1.5f;
  }
  /// Warps have tokens whose scales fill bytes, then tokens whose codes fill words.
  template <class Team = detail::one_warp>
  static __device__ void encode(codec const& c, float* rows, site const& at, std::byte* block) {
    int const first = static_cast<int>(at.first), n = static_cast<int>(at.n),
              dim = static_cast<int>(at.dim);
    float const top = codec::top_of(at);
    detail::each_share<scale_share, Team>([&](int i) {
      choose_scales(c, rows, scale_share(first, n, i), dim, top, codec::means(at.state), block);
    });
    Team::synchronize();
    detail::each_share<code_share, Team>(
        [&](int i) { encode_share(rows, code_share(first, n, i), dim, top, block); });
  }
  template <class Use>
  static __device__ void each_channel(codec const& c, std::byte const* block, site const& at,
                                      Use const& use) {
    float const step = c.step(block, at);
    for (index_t d = 0; d < at.dim; ++d) use(d, c.coordinate(block, at, d, step));
  }
  /// Tokens lie in one block.
  template <class Use>
  static __device__ void each_token(codec const& c, std::byte const* block, site const& at,
                                    index_t d, Use const& use) {
    site one = at;
    one.n = 1;
    for (index_t i = 0; i < at.n; ++i, ++one.first) use(i, c.coordinate(block, one, d));
  }
  static __device__ void prepare(codec const& c, float const* q, site const& at, float* own) {
    for (index_t d = lane(); d < at.dim; d += warp) own[d] = q[d];
    __syncwarp();
    detail::rotate_by_warp(own, at.dim, c.seed, false);
  }
  static __device__ void finish(codec const& c, float* sum, site const& at, float* out) {
    detail::rotate_by_warp(sum, at.dim, c.seed, true);
    for (index_t d = lane(); d < at.dim; d += warp) out[d] += sum[d];
  }
  static __device__ void load(codec const& c, std::byte const* block, site const& at, float* out) {
    for (index_t j = lane(); j < at.dim; j += warp) out[j] = c.coordinate(block, at, j);
    __syncwarp();
    detail::rotate_by_warp(out, at.dim, c.seed, true);
  }

 private:
  static constexpr unsigned whole_warp = 0xffffffffu;

  using code_share = detail::code_share<Keys>;
  using scale_share = detail::token_share<1>;  // eight scales of 5 bits

  /// codec::centre by a warp; every lane gets the largest magnitude.
  static __device__ float centre(float* x, index_t dim, f16 const* mean) {
    float most = 0.0f;
    for (index_t d = lane(); d < dim; d += warp) {
      x[d] -= to_float(mean[d]);
      float const size = fabsf(x[d]);
      most = size > most ? size : most;
    }
    return detail::over_warp(most, [](float a, float b) { return a > b ? a : b; });
  }
  /// Rotates and centres a share and stores its scales: lanes try one of a token each.
  static __device__ KVSLIM_DETAIL_CALLED void choose_scales(codec c, float* rows, scale_share share,
                                                            int dim, float top, f16 const* mean,
                                                            std::byte* block) {
    if (share.begin >= share.end) return;
    share.rotate(rows, dim, c.seed);
    float most = 0.0f;  // of the token of this lane's number
    for (int k = share.begin; k < share.end; ++k) {
      float const high = centre(share.row(rows, dim, k), dim, mean);
      if (lane() == k) most = high;
    }
    __syncwarp();
    constexpr int tries = static_cast<int>(codec::tries), together = warp / tries;
    for (int k0 = share.begin; k0 < share.end; k0 += together) {
      int const mine = k0 + lane() / tries, k = mine < share.end ? mine : share.end - 1;
      std::uint32_t s = codec::first_scale(top, __shfl_sync(whole_warp, most, k)) +
                        static_cast<std::uint32_t>(lane() % tries);
      double error = s < codec::scales
                         ? codec::error_of(share.row(rows, dim, k), dim, codec::step_of(top, s))
                         : INFINITY;
      for (int step = 1; step < tries; step *= 2) {  // of equal errors the first scale
        double const other = __shfl_xor_sync(whole_warp, error, step);
        std::uint32_t const its = __shfl_xor_sync(whole_warp, s, step);
        if (other < error || (other == error && its < s)) {
          error = other;
          s = its;
        }
      }
      for (int j = 0; j < together; ++j) {  // scales share bytes
        std::uint32_t const best = __shfl_sync(whole_warp, s, j * tries);
        if (lane() == 0 && k0 + j < share.end)
          codec::put_scale(detail::codes_of(block) + codec::coded(dim).bytes(), share.place(k0 + j),
                           best);
      }
    }
  }
  /// Stores the codes of a share whose scales are stored.
  static __device__ KVSLIM_DETAIL_CALLED void encode_share(float const* rows, code_share share,
                                                           int dim, float top, std::byte* block) {
    if (share.begin >= share.end) return;
    float const step = share.has(lane())
                           ? codec::step_of(top, codec::get_scale(block, dim, share.place(lane())))
                           : 0.0f;
    detail::store_share(
        codec::coded(dim), detail::codes_of(block), share, rows,
        [&](int k) { return __shfl_sync(whole_warp, step, k); },
        [](float x, float by) { return codec::code_of(x, by); });
  }
};

KVSLIM_END_NAMESPACE
