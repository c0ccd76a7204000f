// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/ops/probe_scores.hpp>
#include <kvslim/ops/softmax_tile.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

template <class Text>
struct unprobed_body {
  Text text;
  ops::probe_options options;
  score_view out;

  __device__ void operator()(index_t at) const {
    auto const& e = text.extents();
    index_t const r = at / e.tokens, t = at % e.tokens;
    out.row(r)[t] = ops::unprobed(options, t, text.tokens(r / e.kv_heads, r % e.kv_heads));
  }
};

/// What the tile's queries pay to every token of the context, added to the start of a row's
/// scratch.
template <class Text>
KVSLIM_DETAIL_KERNEL void probe_kernel(softmax_tile<ops::probed_text<Text>> tile, ops::paid how,
                                       float* scratch) {
  __shared__ tile_statistics stats;
  auto const& e = tile.text.extents();
  index_t const items = e.rows() * tile.stretches_at_most;
  for (index_t item = blockIdx.x; item < items; item += gridDim.x) {
    index_t const r = item / tile.stretches_at_most, at = item % tile.stretches_at_most,
                  n = tile.text.context(r / e.kv_heads, r % e.kv_heads), begin = at * tile.stretch,
                  end = min(begin + tile.stretch, n);
    for (index_t base = begin; base < end; base += tile_threads) {
      index_t const t = base + threadIdx.x;
      float* const to = scratch + r * tile.row_floats + t;
      float sum = tile.first == 0 || t >= n ? 0.0f : *to;
      for (index_t i0 = 0; i0 < tile.count; i0 += tile_queries) {
        float x[tile_queries];
        stats.load(tile, r, i0);
        tile.logits(r, t, i0, x);
        unrolled<tile_queries>([&](int i) {
          if (x[i] > -INFINITY)
            sum = ops::pay(how, sum, ops::exp_nonpositive(x[i] - stats.most[i]) * stats.inverse[i]);
        });
        __syncthreads();
      }
      if (t < n) *to = sum;
    }
  }
}

/// One token of the context gets what a query head paid.
template <class Text>
struct add_head_body {
  ops::probed_text<Text> seen;
  ops::probe_options options;
  score_view out;
  float const* scratch;
  index_t row_floats, longest, group;

  __device__ void operator()(index_t at) const {
    auto const& e = seen.extents();
    index_t const r = at / longest, t = at % longest, s = r / e.kv_heads, h = r % e.kv_heads;
    if (t < seen.head(s, h) || t >= seen.context(s, h)) return;
    index_t const rank = seen.rank(s, h, t);
    float& to = out.row(r)[rank];
    if (rank >= options.sinks)
      to = ops::add_head(options.heads, to, scratch[r * row_floats + t], group);
  }
};

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

/// Three kernels for every stretch, query head and 64 queries, and one for every head.
template <>
struct implementation<ops::probe_scores_op, cuda> {
  template <class Text, class Space>
  static status run(cuda exec, Text const& text, probes<Space> const& x,
                    ops::probe_options const& options, score_view out, float* scratch) {
    static_assert(std::same_as<Space, cuda_space>,
                  "kvslim: a CUDA executor was given probes in host memory");
    auto const& e = text.extents();
    detail::unprobed_body<Text> const body{text, options, out};
    if (auto const s = detail::launch_for_each(exec, e.rows() * e.tokens, body); !s) return s;
    return ops::each_stretch(x, e, [&](probe_stretch const& part) {
      return look(exec, text, x, part, options, out, scratch);
    });
  }

 private:
  template <class Text>
  static status look(cuda exec, Text const& text, probes<cuda_space> const& x,
                     probe_stretch const& part, ops::probe_options const& options, score_view out,
                     float* scratch) {
    auto const& e = text.extents();
    index_t const group = x.queries.heads / e.kv_heads, floats = ops::probe_score_floats(e);
    index_t const count = detail::max(0, detail::min(part.tokens, e.tokens - part.first_token)),
                  longest = detail::min(options.sinks, part.first_token) + count,
                  stretch =
                      detail::round_up(detail::div_up(longest + part.queries, ops::probe_sums),
                                       detail::tile_threads),
                  stretches = detail::div_up(longest + part.queries, stretch);
    if (count == 0 || part.queries == 0) return {};
    auto const keys =
        x.keys.data == nullptr ? rows<cuda_space>{} : x.keys.part(part.first_query, part.queries);
    ops::probed_text<Text> const seen{
        text, keys, part.queries, options.sinks, part.first_token, part.tokens};
    auto const queries = x.queries.part(part.first_query, part.queries);
    float const scale = 1.0f / std::sqrt(static_cast<float>(e.head_dim));
    for (index_t g = 0; g < group; ++g) {
      for (index_t b = 0; b < part.queries; b += ops::probes_together) {
        detail::softmax_tile<ops::probed_text<Text>> const tile{
            seen,   queries, g,
            1,      b,       detail::min(ops::probes_together, part.queries - b),
            scale,  0.0f,    scratch + e.tokens,
            floats, stretch, stretches};
        if (auto const s = detail::launch_softmax(exec, tile); !s) return s;
        if (auto const s = detail::launch(
                exec, {detail::blocks_for(e.rows() * stretches), detail::tile_threads},
                detail::probe_kernel<Text>, tile, options.queries, scratch);
            !s)
          return s;
      }
      detail::add_head_body<Text> const add{seen, options, out, scratch, floats, longest, group};
      if (auto const s = detail::launch_for_each(exec, e.rows() * longest, add); !s) return s;
    }
    return {};
  }
};

KVSLIM_END_NAMESPACE
