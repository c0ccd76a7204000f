// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/ops/attention_mass.hpp>
#include <kvslim/ops/softmax_tile.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// Mean probability of every token of the prefix: mass [tokens] at the start of a row's scratch.
template <class Text>
KVSLIM_DETAIL_KERNEL void window_mass_kernel(softmax_tile<Text> tile, ops::mass_options options,
                                             float* scratch) {
  __shared__ tile_statistics stats;
  index_t const items = tile.text.extents().rows() * tile.stretches_at_most, window = tile.count;
  for (index_t item = blockIdx.x; item < items; item += gridDim.x) {
    index_t const r = item / tile.stretches_at_most, at = item % tile.stretches_at_most,
                  prefix = tile.tokens(r) - window, begin = at * tile.stretch,
                  end = min(begin + tile.stretch, prefix);
    for (index_t base = begin; base < end; base += tile_threads) {
      index_t const t = base + threadIdx.x;
      float sum = 0.0f;
      for (index_t i0 = 0; i0 < window; i0 += tile_queries) {
        float x[tile_queries];
        stats.load(tile, r, i0);
        tile.logits(r, t, i0, x);
        unrolled<tile_queries>([&](int i) {
          if (x[i] > -INFINITY)
            sum += ops::exp_nonpositive(x[i] - stats.most[i]) * stats.inverse[i] *
                   ops::query_weight(options, prefix, i0 + i);
        });
        __syncthreads();
      }
      if (t < prefix) scratch[r * tile.row_floats + t] = sum / static_cast<float>(window);
    }
  }
}

/// Pools the mass of query head g along the text and adds it to the scores of its KV head.
template <class Text>
struct window_pool_body {
  Text text;
  ops::mass_options options;
  score_view out;
  float const* scratch;
  index_t row_floats, window, g, group;

  __device__ void operator()(index_t at) const {
    auto const& e = text.extents();
    index_t const r = at / e.tokens, t = at % e.tokens,
                  prefix = text.tokens(r / e.kv_heads, r % e.kv_heads) - window,
                  half = options.kernel / 2;
    float& score = out.row(r)[t];
    if (g == 0) score = 0.0f;
    if (t >= prefix) return;
    float const* const mass = scratch + r * row_floats;
    float const pooled = ops::pooled_at(options.kind, mass, t, max(0, t - half),
                                        min(prefix - 1, t + half), options.kernel);
    float const add = options.heads == reduce::mean ? pooled / static_cast<float>(group) : pooled;
    score = reduce_step(options.heads, score, add);
  }
};

/// Takes the reduced scores for mass, to be pooled.
struct window_take_body {
  score_view scores;
  float* scratch;
  index_t tokens, row_floats;

  __device__ void operator()(index_t at) const {
    scratch[at / tokens * row_floats + at % tokens] = scores.row(at / tokens)[at % tokens];
  }
};

/// Tokens of one stretch: so many that the statistics of all of them fit behind the mass in
/// ops::mass_floats.
[[nodiscard]] constexpr index_t window_stretch(index_t window) noexcept {
  return tile_threads * div_up(window, 64);
}

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

/// Four kernels for each query head of a group.
template <>
struct implementation<ops::attention_mass_op, cuda> {
  template <class Text, class Queries>
  static status run(cuda exec, Text const& text, Queries const& queries, ops::mass_options options,
                    score_view out, float* scratch) {
    static_assert(std::same_as<typename Queries::space, cuda_space>,
                  "kvslim: a CUDA executor was given queries in host memory");
    auto const& e = text.extents();
    index_t const floats = ops::mass_floats(e, queries.tokens),
                  stretch = detail::window_stretch(queries.tokens),
                  // queries may stand behind all tokens (probed_text)
        stretches = detail::div_up(e.tokens + queries.tokens, stretch),
                  group = queries.heads / e.kv_heads;
    for (index_t g = 0; g < group; ++g) {
      detail::softmax_tile<Text> const tile{text,
                                            queries,
                                            g,
                                            1,
                                            0,
                                            queries.tokens,
                                            detail::logit_scale(options.logit, e.head_dim),
                                            options.logit.soft_cap,
                                            scratch + e.tokens,
                                            floats,
                                            stretch,
                                            stretches};
      if (auto const s = detail::launch_softmax(exec, tile); !s) return s;
      if (auto const s =
              detail::launch(exec, {detail::blocks_for(e.rows() * stretches), detail::tile_threads},
                             detail::window_mass_kernel<Text>, tile, options, scratch);
          !s)
        return s;
      ops::mass_options each = options;
      if (options.reduce_first) each.kernel = 1;
      detail::window_pool_body<Text> const pool{text,   each,           out, scratch,
                                                floats, queries.tokens, g,   group};
      if (auto const s = detail::launch_for_each(exec, e.rows() * e.tokens, pool); !s) return s;
    }
    if (!options.reduce_first) return {};
    detail::window_take_body const take{out, scratch, e.tokens, floats};
    if (auto const s = detail::launch_for_each(exec, e.rows() * e.tokens, take); !s) return s;
    options.heads = reduce::sum;  // of one
    detail::window_pool_body<Text> const pool{text,   options,        out, scratch,
                                              floats, queries.tokens, 0,   1};
    return detail::launch_for_each(exec, e.rows() * e.tokens, pool);
  }
};

KVSLIM_END_NAMESPACE
