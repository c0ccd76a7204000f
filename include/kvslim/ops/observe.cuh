// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/ops/softmax_tile.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// Every token learns, query after query, what the tile's queries paid to it. A query token whose
/// heads lie in two tiles leaves its mass so far at the start of the row's scratch.
template <class Scorer, class Text>
KVSLIM_DETAIL_KERNEL void observe_kernel(Scorer scorer, softmax_tile<Text> tile,
                                         column_of<Scorer>* columns, float* scratch) {
  __shared__ tile_statistics stats;
  auto const& e = tile.text.extents();
  index_t const items = e.rows() * tile.stretches_at_most, group = tile.heads;
  for (index_t item = blockIdx.x; item < items; item += gridDim.x) {
    index_t const r = item / tile.stretches_at_most, at = item % tile.stretches_at_most,
                  s = r / e.kv_heads, h = r % e.kv_heads, n = tile.tokens(r),
                  begin = at * tile.stretch, end = min(begin + tile.stretch, n);
    for (index_t base = begin; base < end; base += tile_threads) {
      index_t const t = base + threadIdx.x;
      std::int32_t const position = t < n ? tile.text.position(s, h, t) : 0;
      column_of<Scorer> column{};
      float mass = 0.0f;
      if (t < n) {
        column = tile.first == 0 ? scorer.born(place{r, position, position, t + 1})
                                 : columns[r * e.tokens + t];
        if (tile.first % group != 0) mass = scratch[r * tile.row_floats + t];
      }
      for (index_t i0 = 0; i0 < tile.count; i0 += tile_queries) {
        float x[tile_queries], paid[tile_queries];
        stats.load(tile, r, i0);
        tile.logits(r, t, i0, x);
        unrolled<tile_queries>([&](int i) {
          paid[i] = x[i] > -INFINITY ? ops::exp_nonpositive(x[i] - stats.most[i]) * stats.inverse[i]
                                     : 0.0f;
        });
        index_t const here = min(tile_queries, tile.count - i0);
        for (index_t i = 0; i < here; ++i) {
          index_t const visible = tile.visible(i0 + i, n), g = (tile.first + i0 + i) % group;
          if (t >= visible) continue;
          mass = g == 0 ? paid[i] : reduce_step(Scorer::traits.heads, mass, paid[i]);
          if (g == group - 1)
            scorer.observe(
                column, reduce_end(Scorer::traits.heads, mass, group),
                place{r, position, tile.text.position(s, h, visible - 1), visible, true});
        }
        __syncthreads();
      }
      if (t < n) {
        columns[r * e.tokens + t] = column;
        if ((tile.first + tile.count) % group != 0) scratch[r * tile.row_floats + t] = mass;
      }
    }
  }
}

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

/// Three kernels for as many queries at a time as the scratch holds statistics of; one thread per
/// token.
template <>
struct implementation<ops::observe_queries_op, cuda> {
  template <class Scorer, class Text, class Space>
  static status run(cuda exec, Scorer const& scorer, Text const& text, rows<Space> const& queries,
                    logit_rule const& logit, std::byte* columns, float* scratch) {
    static_assert(std::same_as<Space, cuda_space>,
                  "kvslim: a CUDA executor was given queries in host memory");
    using column = detail::column_of<Scorer>;
    auto const& e = text.extents();
    index_t const group = queries.heads / e.kv_heads, all = queries.tokens * group;
    index_t const stretch = detail::tile_threads * detail::min(8, detail::div_up(all, 64));
    index_t const stretches = detail::div_up(e.tokens, stretch);
    index_t const floats = ops::observe_floats(e);
    index_t together = detail::max(1, (floats - e.tokens) / (2 * stretches));
    if (together > group) together -= together % group;
    for (index_t first = 0; first < all; first += together) {
      detail::softmax_tile<Text> const tile{text,
                                            queries,
                                            0,
                                            group,
                                            first,
                                            detail::min(together, all - first),
                                            detail::logit_scale(logit, e.head_dim),
                                            logit.soft_cap,
                                            scratch + e.tokens,
                                            floats,
                                            stretch,
                                            stretches};
      if (auto const s = detail::launch_softmax(exec, tile); !s) return s;
      if (auto const s =
              detail::launch(exec, {detail::blocks_for(e.rows() * stretches), detail::tile_threads},
                             detail::observe_kernel<Scorer, Text>, scorer, tile,
                             static_cast<column*>(static_cast<void*>(columns)), scratch);
          !s)
        return s;
    }
    return {};
  }
};

KVSLIM_END_NAMESPACE
