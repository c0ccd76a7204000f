// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/centred_rows.hpp>
#include <kvslim/codec/rotated_rows.cuh>

KVSLIM_BEGIN_NAMESPACE

template <bool Keys, int Bits, element Tail>
struct warp_codec<centred_rows<Keys, Bits, Tail>> {
  using codec = centred_rows<Keys, Bits, Tail>;
  static constexpr int warp = detail::warp_threads, warps = 1;

  static __device__ int lane() { return static_cast<int>(threadIdx.x) % warp; }
  /// A thread a channel for the mean, a warp a token for the largest magnitude.
  template <class Read>
  static __device__ void fit(codec const& c, Read const& read, index_t tokens, site const& at,
                             std::byte* state, float* scratch) {
    index_t const dim = at.dim, me = threadIdx.x, threads = blockDim.x;
    int& largest = *static_cast<int*>(static_cast<void*>(scratch + dim));  // bits: ordered alike
    for (index_t d = me; d < dim; d += threads) scratch[d] = 0.0f;
    read.by_block(tokens, [&](float const* rows, index_t first, index_t n) {
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
    read.by_block(tokens, [&](float* rows, index_t, index_t n) {
      for (index_t i = me / warp; i < n; i += threads / warp) {
        float const high = centre(c, rows + i * dim, dim, codec::means(state));
        most = high > most ? high : most;
      }
    });
    atomicMax(&largest, __float_as_int(most));
    __syncthreads();
    if (me == 0)
      *detail::array_at<float>(state) = tokens == 0 ? c.reference : __int_as_float(largest) * 1.5f;
  }
  /// Lanes rotate a token together, try a scale of a token each, and own units of codes.
  static __device__ void encode(codec const& c, float* rows, site const& at, std::byte* block) {
    index_t const dim = at.dim;
    int const n = static_cast<int>(at.n);
    auto* const codes = detail::codes_of(block);
    float const top = codec::top_of(at);
    float most = 0.0f;  // of the token of this lane's number
    for (int i = 0; i < n; ++i) {
      float const high = centre(c, rows + i * dim, dim, codec::means(at.state));
      if (lane() == i) most = high;
    }
    __syncwarp();
    constexpr int tries = static_cast<int>(codec::tries), together = warp / tries;
    for (int i0 = 0; i0 < n; i0 += together) {
      int const mine = i0 + lane() / tries, i = mine < n ? mine : n - 1;
      std::uint32_t s = codec::first_scale(top, __shfl_sync(whole_warp, most, i)) + lane() % tries;
      bool const is_scale = s < codec::scales;
      double error =
          is_scale ? codec::error_of(rows + i * dim, dim, codec::step_of(top, s)) : INFINITY;
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
        if (lane() == 0 && i0 + j < n)
          codec::put_scale(codes + codec::coded(dim).bytes(), at.first + i0 + j, best);
      }
    }
    __syncwarp();
    for (index_t u = lane(); u < codec::coded(dim).units(); u += warp)
      each_of_unit(u, at, top, block, [&](index_t t, index_t d, float step) {
        codec::coded(dim).put(codes, t, d, codec::code_of(rows[(t - at.first) * dim + d], step));
      });
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

  /// codec::centre by a warp; every lane gets the largest magnitude. Synchronises after itself.
  static __device__ float centre(codec const& c, float* x, index_t dim, f16 const* mean) {
    detail::rotate_by_warp(x, dim, c.seed, false);
    float most = 0.0f;
    for (index_t d = lane(); d < dim; d += warp) {
      x[d] -= to_float(mean[d]);
      float const size = fabsf(x[d]);
      most = size > most ? size : most;
    }
    __syncwarp();
    return detail::over_warp(most, [](float a, float b) { return a > b ? a : b; });
  }
  /// Calls use(token of the block, channel, its step) for what unit u holds of a site.
  template <class Use>
  static __device__ void each_of_unit(index_t u, site const& at, float top, std::byte const* block,
                                      Use const& use) {
    index_t const dim = at.dim, across = detail::div_up(dim, detail::unit_channels),
                  end = at.first + at.n;
    index_t const t0 = Keys ? 0 : u / across * detail::unit_quad,
                  t1 = Keys ? end : t0 + detail::unit_quad,
                  d0 = Keys ? u * detail::unit_quad : u % across * detail::unit_channels,
                  d1 = d0 + (Keys ? detail::unit_quad : detail::unit_channels);
    for (index_t t = detail::max(t0, at.first); t < detail::min(t1, end); ++t) {
      float const step = codec::step_of(top, codec::get_scale(block, dim, t));
      for (index_t d = d0; d < detail::min(d1, dim); ++d) use(t, d, step);
    }
  }
};

KVSLIM_END_NAMESPACE
