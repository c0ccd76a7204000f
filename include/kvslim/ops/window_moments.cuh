// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda_block.cuh>
#include <kvslim/ops/attention_mass.cuh>
#include <kvslim/ops/window_moments.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// What every token of the prefix gets of one query head: mass [tokens] at the start of a row's
/// scratch, entropy and variance [tokens] each at `facts`, added to those of earlier heads.
template <class Text>
KVSLIM_DETAIL_KERNEL void window_moments_kernel(softmax_tile<Text> tile, float gamma,
                                                float* scratch, index_t facts, bool first_head) {
  __shared__ tile_statistics stats;
  index_t const tokens = tile.text.extents().tokens,
                items = tile.text.extents().rows() * tile.stretches_at_most, window = tile.count;
  for (index_t item = blockIdx.x; item < items; item += gridDim.x) {
    index_t const r = item / tile.stretches_at_most, at = item % tile.stretches_at_most,
                  prefix = tile.tokens(r) - window, begin = at * tile.stretch,
                  end = min(begin + tile.stretch, prefix);
    for (index_t base = begin; base < end; base += tile_threads) {
      index_t const t = base + threadIdx.x;
      ops::paid_moments m;
      for (index_t i0 = 0; i0 < window; i0 += tile_queries) {
        float x[tile_queries];
        stats.load(tile, r, i0);
        tile.logits(r, t, i0, x);
        unrolled<tile_queries>([&](int i) {
          if (x[i] > -INFINITY)
            m.add(ops::exp_nonpositive(x[i] - stats.most[i]) * stats.inverse[i]);
        });
        __syncthreads();
      }
      if (t >= prefix) continue;
      float* const row = scratch + r * tile.row_floats;
      float const spread = m.variance(window);
      row[t] = m.mean(window) + gamma * spread;
      float* const entropy = row + facts + t;
      float* const variance = entropy + tokens;
      *entropy = (first_head ? 0.0f : *entropy) + static_cast<float>(m.entropy);
      *variance = (first_head ? 0.0f : *variance) + spread;
    }
  }
}

/// One block per row: its statistics are the sums over its prefix.
template <class Text>
KVSLIM_DETAIL_KERNEL void window_statistics_kernel(Text text, float const* scratch,
                                                   index_t row_floats, index_t facts,
                                                   index_t window, row_statistics* out) {
  auto const& e = text.extents();
  index_t const r = blockIdx.x, prefix = text.tokens(r / e.kv_heads, r % e.kv_heads) - window;
  float const* const mine = scratch + r * row_floats + facts;
  double entropy = 0.0, variance = 0.0;
  for (index_t t = threadIdx.x; t < prefix; t += block_threads) {
    entropy += static_cast<double>(mine[t]);
    variance += static_cast<double>(mine[e.tokens + t]);
  }
  entropy = block_sum(entropy);
  variance = block_sum(variance);
  if (threadIdx.x == 0) out[r] = {static_cast<float>(entropy), static_cast<float>(variance)};
}

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

/// Four kernels for each query head of a group, one more for statistics.
template <>
struct implementation<ops::window_moments_op, cuda> {
  template <class Text, class Queries>
  static status run(cuda exec, Text const& text, Queries const& queries,
                    ops::moment_options options, score_view out, float* scratch) {
    static_assert(std::same_as<typename Queries::space, cuda_space>,
                  "kvslim: a CUDA executor was given queries in host memory");
    auto const& e = text.extents();
    index_t const window = queries.tokens, group = queries.heads / e.kv_heads,
                  floats = ops::window_moments_floats(e, window),
                  facts = ops::mass_floats(e, window), stretch = detail::window_stretch(window),
                  stretches = detail::div_up(e.tokens, stretch);
    float const scale = 1.0f / std::sqrt(static_cast<float>(e.head_dim));
    for (index_t g = 0; g < group; ++g) {
      detail::softmax_tile<Text> const tile{
          text,   queries, g,        1, 0, window, scale, 0.0f, scratch + e.tokens,
          floats, stretch, stretches};
      if (auto const s = detail::launch_softmax(exec, tile); !s) return s;
      if (auto const s = detail::launch(
              exec, {detail::blocks_for(e.rows() * stretches), detail::tile_threads},
              detail::window_moments_kernel<Text>, tile, options.gamma, scratch, facts, g == 0);
          !s)
        return s;
      detail::window_pool_body<Text> const pool{
          text, {.kernel = options.kernel, .heads = reduce::mean}, out, scratch, floats, window, g,
          group};
      if (auto const s = detail::launch_for_each(exec, e.rows() * e.tokens, pool); !s) return s;
    }
    if (out.statistics == nullptr) return {};
    return detail::launch(
        exec, {e.rows(), detail::block_threads}, detail::window_statistics_kernel<Text>, text,
        static_cast<float const*>(scratch), floats, facts, window, out.statistics);
  }
};

KVSLIM_END_NAMESPACE
