// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/codebook.cuh>
#include <kvslim/codec/codebook_value.hpp>

KVSLIM_BEGIN_NAMESPACE

/// A fit has a thread to a token's span and outliers, then to some bins.
template <int Bits, codebook_from From, element Tail, affine_parameter Param>
struct warp_codec<codebook_value<Bits, From, Tail, Param>>
    : detail::plain_warp_codec<codebook_value<Bits, From, Tail, Param>> {
  using codec = codebook_value<Bits, From, Tail, Param>;

  template <class Read>
  static __device__ void fit(codec const& c, Read const& read, index_t tokens, site const& at,
                             std::byte* state, float* scratch) {
    index_t const dim = at.dim, me = threadIdx.x, threads = blockDim.x;
    if (me == 0) c.first(dim).keep(read, tokens, state, scratch);
    if constexpr (codec::from_prompt) {
      detail::shared_bins const bins{scratch + dim};
      float *const half = scratch + dim + detail::level_bins::floats, *const middle =
                                                                          half + run_tokens;
      typename codec::lists const aside{codec::as_bytes(middle + run_tokens), run_tokens,
                                        c.each(dim), dim};
      bins.clear_by_block();
      read.by_block(0, tokens, [&](float* rows, index_t first, index_t n) {
        auto const counts = [&](index_t t) {
          return t >= c.sinks && detail::place_in_fit(t, tokens) >= 0;
        };
        for (index_t j = me; j < n; j += threads) {
          if (!counts(first + j)) continue;
          float const* const row = rows + j * dim;
          aside.choose(j, [&](index_t d) { return row[d]; });
          auto const s = c.span_of(row, dim, aside, j);
          half[j] = s.half;
          middle[j] = s.middle;
        }
        __syncthreads();
        for (index_t j = me / detail::warp_threads; j < n; j += threads / detail::warp_threads) {
          bool const held = counts(first + j);
          typename codec::span const s{half[j], middle[j]};
          float* const row = rows + j * dim;
          for (index_t d = me % detail::warp_threads; d < dim; d += detail::warp_threads)
            row[d] = held && aside.find(j, d) < 0 ? s.normal(row[d]) : detail::shared_bins::nowhere;
        }
        __syncthreads();
        bins.add_by_block(rows, n * dim);
      });
      auto* const out = detail::array_at<float>(state + c.first(dim).bytes());
      bins.template fit_by_block<Bits>(out);
      __syncthreads();
      for (index_t j = me; j < codec::levels; j += threads) out[codec::levels + j] = out[j];
    }
  }
};

KVSLIM_END_NAMESPACE
