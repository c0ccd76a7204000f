// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/dense.hpp>
#include <kvslim/core/codec.cuh>

KVSLIM_BEGIN_NAMESPACE

/// Lanes encode elements in the order in which they are stored.
template <element T>
struct warp_codec<dense_key<T>> {
  using codec = dense_key<T>;

  static __device__ void encode(codec const&, float const* rows, block_run const& run,
                                std::byte* block) {
    for (index_t begin = 0; begin < run.n;) {
      index_t const t0 = (run.first + begin) % codec::tile,
                    n = detail::min(run.n - begin, codec::tile - t0);
      auto* const out =
          reinterpret_cast<T*>(block) + (run.first + begin) / codec::tile * codec::tile * run.dim;
      for (index_t j = threadIdx.x % detail::warp_threads; j < run.dim * codec::tile;
           j += detail::warp_threads) {
        index_t const d = j / codec::tile, i = j % codec::tile;
        if (i < n) out[d * codec::tile + t0 + i] = from_float<T>(rows[(begin + i) * run.dim + d]);
      }
      begin += n;
    }
  }
  template <class Use>
  static __device__ void each_channel(codec const&, std::byte const* block, block_run const& run,
                                      Use const& use) {
    auto const* const in = reinterpret_cast<T const*>(block) + run.first;
    for (int d = 0; d < static_cast<int>(run.dim); ++d) use(d, to_float(in[d * codec::tile]));
  }
};

template <element T>
struct warp_codec<dense_value<T>> {
  using codec = dense_value<T>;

  static __device__ void encode(codec const&, float const* rows, block_run const& run,
                                std::byte* block) {
    auto* const out = reinterpret_cast<T*>(block) + run.first * run.dim;
    for (index_t j = threadIdx.x % detail::warp_threads; j < run.n * run.dim;
         j += detail::warp_threads)
      out[j] = from_float<T>(rows[j]);
  }
  template <class Use>
  static __device__ void each_token(codec const&, std::byte const* block, block_run const& run,
                                    index_t d, Use const& use) {
    auto const* const in = reinterpret_cast<T const*>(block) + run.first * run.dim + d;
    int const dim = static_cast<int>(run.dim);
    for (int i = 0; i < static_cast<int>(run.n); ++i) use(i, to_float(in[i * dim]));
  }
};

KVSLIM_END_NAMESPACE
