// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/outlier_key.hpp>
#include <kvslim/core/codec.cuh>

KVSLIM_BEGIN_NAMESPACE

/// A lane four channels; a thread a channel where ranges are the prompt's.
template <int Bits, element Tail, affine_parameter Param>
struct warp_codec<outlier_key<Bits, Tail, Param>>
    : detail::plain_warp_codec<outlier_key<Bits, Tail, Param>> {
  using codec = outlier_key<Bits, Tail, Param>;

  template <class Read>
  static __device__ void fit(codec const& c, Read const& read, index_t tokens, site const& at,
                             std::byte* state, float* scratch) {
    if (!c.whole_prompt) return;
    index_t const dim = at.dim, me = threadIdx.x, threads = blockDim.x, block = c.codes.residual;
    float *const kept = scratch, *const least = kept + block * dim, *const most = least + dim;
    detail::outlier_lists<std::byte> const aside{
        static_cast<std::byte*>(static_cast<void*>(most + dim)), dim, c.each(), block};
    read.by_block(0, tokens, [&](float const* rows, index_t first, index_t n) {
      for (index_t d = me; d < dim; d += threads)
        for (index_t i = 0; i < n; ++i) {
          index_t const t = (first + i) % block;
          kept[t * dim + d] = rows[i * dim + d];
          if (t + 1 == block) widen_range(aside, kept, d, dim, first + i < block, least, most);
        }
    });
    auto const stored = detail::parameters_at<Param>(state, dim);
    constexpr float unknown = detail::channel_ranges::unknown;
    for (index_t d = me; d < dim; d += threads) {
      ops::range const r =
          tokens == 0 ? ops::range{-unknown, unknown} : ops::range{least[d], most[d]};
      stored.set(d, detail::fit_affine<Param>(r, Bits, c.codes.rounding));
    }
  }
  static __device__ void encode(codec const& c, float* rows, site const& at, std::byte* block) {
    constexpr index_t quad = detail::unit_quad;
    auto const aside = c.lists_of(block, at.dim);
    for (index_t d = quad * (threadIdx.x % detail::warp_threads); d < at.dim;
         d += quad * detail::warp_threads)
      c.encode_quad(rows, d, at, aside, block);
  }

 private:
  /// What channel d of a whole block adds to its range, outliers aside.
  static __device__ void widen_range(detail::outlier_lists<std::byte> const& aside, float* kept,
                                     index_t d, index_t dim, bool is_first, float* least,
                                     float* most) {
    auto const channel = [&](index_t t) { return kept[t * dim + d]; };
    aside.choose(d, channel);
    float const mean = detail::mean_of(aside.length, channel);
    for (index_t i = 0; i < 2 * aside.each; ++i) kept[aside.place(d, i) * dim + d] = mean;
    ops::range r{is_first ? channel(0) : least[d], is_first ? channel(0) : most[d]};
    for (index_t t = 0; t < aside.length; ++t)
      ops::widen_ranges<1>(kept + t * dim + d, &r.low, &r.high);
    least[d] = r.low;
    most[d] = r.high;
  }
};

KVSLIM_END_NAMESPACE
