// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/codebook.cuh>
#include <kvslim/codec/codebook_key.hpp>

KVSLIM_BEGIN_NAMESPACE

/// A fit has a thread to a channel, then to some bins; to encode, a lane has four channels, and one
/// chooses what is kept aside.
template <int Bits, codebook_from From, element Tail>
struct warp_codec<codebook_key<Bits, From, Tail>>
    : detail::plain_warp_codec<codebook_key<Bits, From, Tail>> {
  using codec = codebook_key<Bits, From, Tail>;

  template <class Read>
  static __device__ void fit(codec const& c, Read const& read, index_t tokens, site const& at,
                             std::byte* state, float* scratch) {
    index_t const dim = at.dim, me = threadIdx.x, threads = blockDim.x;
    if (me == 0) c.first(dim).keep(read, tokens, state, scratch);
    if constexpr (codec::from_prompt) {
      index_t const most = c.ranks(tokens);
      float *const low = scratch + dim, *const high = low + most * dim;
      detail::shared_bins const bins{high + most * dim};
      auto* const out = detail::array_at<float>(state + c.first(dim).bytes());
      float *const lower = out + 2 * codec::levels, *const upper = lower + dim;
      read.by_block(0, tokens, [&](float const* rows, index_t first, index_t n) {
        for (index_t j = 0; j < n; ++j) {
          index_t const i = detail::place_in_fit(first + j, tokens);
          for (index_t d = me; d < dim && i >= 0; d += threads) {
            codec::insert(low + d * most, most, i, rows[j * dim + d]);
            codec::insert(high + d * most, most, i, -rows[j * dim + d]);
          }
        }
      });
      for (index_t d = me; d < dim; d += threads) {
        lower[d] = tokens == 0 ? -codec::unknown : c.threshold(low + d * most, tokens);
        upper[d] = tokens == 0 ? codec::unknown : -c.threshold(high + d * most, tokens);
      }
      typename codec::record const r{out, out + codec::levels, lower, upper};
      bins.clear_by_block();
      read.by_block(0, tokens, [&](float* rows, index_t first, index_t n) {
        for (index_t j = me / detail::warp_threads; j < n; j += threads / detail::warp_threads) {
          index_t const t = first + j;
          bool const counts = t >= c.sinks && detail::place_in_fit(t, tokens) >= 0;
          float* const row = rows + j * dim;
          for (index_t d = me % detail::warp_threads; d < dim; d += detail::warp_threads)
            row[d] = counts && r.beyond(row[d], d) == 0.0f ? r.normal(row[d], d)
                                                           : detail::shared_bins::nowhere;
        }
        __syncthreads();
        bins.add_by_block(rows, n * dim);
      });
      bins.template fit_by_block<Bits>(out);
      __syncthreads();
      for (index_t j = me; j < codec::levels; j += threads) out[codec::levels + j] = out[j];
    }
  }
  static __device__ void encode(codec const& c, float* rows, site const& at, std::byte* block) {
    constexpr index_t quad = detail::unit_quad;
    index_t const dim = at.dim, lane = threadIdx.x % detail::warp_threads;
    auto const r = c.record_of(at);
    typename codec::parts const codes{dim, codec::block_tokens};
    for (index_t first = quad * lane; first < dim; first += quad * detail::warp_threads)
      for (index_t t = 0; t < codec::block_tokens; ++t)
        for (index_t d = first; d < first + quad; ++d)
          codes.put(detail::codes_of(block), t, d,
                    detail::nearest_level<Bits>(r.normal(rows[t * dim + d], d), r.find));
    if (lane == 0) c.put_aside(rows, at, r, block);
  }
  /// Of tokens of one block: a lane a token, then lanes have what lies aside in turn.
  static __device__ void load_tile(codec const& c, std::byte const* block, site const& at,
                                   index_t d, index_t n, index_t other, index_t m, float* tile) {
    constexpr index_t apart = detail::warp_tile::apart;
    index_t const dim = at.dim, lane = threadIdx.x % detail::warp_threads, t = at.first + lane;
    auto const r = c.record_of(at);
    typename codec::parts const codes{dim, codec::block_tokens};
    auto const channel = [&](index_t i) { return i < n ? d + i : other + i - n; };
    for (index_t i = 0; i < n + m && lane < at.n; ++i)
      tile[i * apart + lane] =
          r.value(codes.get(detail::codes_of(block), t, channel(i)), channel(i));
    __syncwarp();
    auto const aside = c.list_of(block, dim);
    for (index_t i = lane; i < aside.room && aside.place[i] != codec::none;
         i += detail::warp_threads) {
      index_t const column = aside.place[i] / dim - at.first, of = aside.place[i] % dim,
                    row = of >= d && of < d + n ? of - d : n + of - other;
      bool const held = (of >= d && of < d + n) || (of >= other && of < other + m);
      if (held && column >= 0 && column < at.n)
        tile[row * apart + column] = detail::widen(aside.value[i]);
    }
    __syncwarp();
    if (lane >= at.n) return;
    auto const* const exact = c.first(dim).find(at.state, at.token + lane);
    for (index_t i = 0; exact != nullptr && i < n + m; ++i)
      tile[i * apart + lane] = detail::widen(exact[channel(i)]);
  }
};

KVSLIM_END_NAMESPACE
