// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/ops/attention_mass.hpp>
#include <kvslim/ops/key_products.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// Tokens whose mass a block has in shared memory, of one head or of several: `span` of each, of
/// which pooled scores lack neighbours at either end.
struct mass_cut {
  index_t heads, span, own;  // own: tokens whose scores a block writes
  index_t first_head, group;
};

/// Mass of tokens [from, stop) from one query head after the other, in shared memory, by threads
/// that are a token each.
template <class Text>
__device__ void mass_of_tokens(softmax_tile<Text> const& tile, mass_cut const& cut,
                               ops::mass_options const& options, index_t r, index_t from,
                               index_t stop, index_t prefix, float* mass) {
  __shared__ tile_statistics stats;
  index_t const window = tile.queries.tokens;
  for (index_t base = from; base < stop; base += tile_threads) {
    index_t const t = base + threadIdx.x;
    for (index_t g = 0; g < cut.heads; ++g) {
      softmax_tile<Text> one = tile;
      one.first_head += g;
      one.heads = 1;
      one.count = window;
      float sum = 0.0f;
      for (index_t i0 = 0; i0 < window; i0 += tile_queries) {
        float x[tile_queries];
        stats.load(tile, r, i0 * cut.heads + g, cut.heads);
        one.logits(r, t, i0, x);
        unrolled<tile_queries>([&](int i) {
          if (x[i] > -INFINITY)
            sum += ops::exp_nonpositive(x[i] - stats.most[i]) * stats.inverse[i] *
                   ops::query_weight(options, prefix, i0 + i);
        });
        __syncthreads();
      }
      mass[g * cut.span + t - from] = sum / static_cast<float>(window);
    }
  }
}
/// The same by matrix units: warps are 32 tokens each.
template <class Text>
__device__ void mass_of_tokens(softmax_tile<Text> const& tile, query_columns const& columns,
                               mass_cut const& cut, ops::mass_options const& options, index_t r,
                               index_t from, index_t stop, index_t prefix, float* mass) {
  auto const& e = tile.text.extents();
  index_t const s = r / e.kv_heads, h = r % e.kv_heads, words_of = div_up(e.head_dim, 32) * 128;
  int const lane = static_cast<int>(threadIdx.x) % warp_threads,
            window = static_cast<int>(columns.queries.tokens), count = static_cast<int>(tile.count);
  float const* const factors = columns.factors(r);
  float const* const stats = tile.stats_of(r, 0);
  int const tokens = static_cast<int>(stop - from);
  for (int at = static_cast<int>(threadIdx.x) - lane; at < tokens; at += tile_threads) {
    key_tile<Text> keys(tile.text, s, h, from + at, stop);
    tile_logits const logits(tile.text, s, h, from + at, stop);
    uint4 const* words = columns.words(r);
    int to = at;
    float sum[8] = {};  // of one head
    int w0 = 0;
    for (int i = 0; i < count; i += 16) {
      float c[4][4];
      keys.multiply(words, c);
      words += words_of;
      unrolled<2>([&](int half) {
        if (i + 8 * half >= count) return;
        if (int const w = w0 + lane / 4; w < window) {
          int const column = i + 8 * half + lane / 4;
          float const most = stats[2 * column],
                      weight = stats[2 * column + 1] * ops::query_weight(options, prefix, w);
          float x[8];
          logits.make(c, half, factors[column], tile.soft_cap, x);
          unrolled<8>([&](int v) {
            if (x[v] > -INFINITY) sum[v] += ops::exp_nonpositive(x[v] - most) * weight;
          });
        }
        w0 += 8;
        if (w0 < window) return;
        int const v = sum_over_queries(sum);
        mass[to + logits.token(v)] = sum[0] / static_cast<float>(window);
        unrolled<8>([&](int n) { sum[n] = 0.0f; });
        to += static_cast<int>(cut.span);
        w0 = 0;
      });
    }
  }
}

/// Mass of the tokens of a stretch from one query head after the other, pooled along the text and
/// reduced over the heads of the tile. Blocks: [row, stretch of cut.own tokens]. Columns: those of
/// matrix units, or nothing.
template <class Text, class... Columns>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(tile_threads, sizeof...(Columns) == 0 ? 1 : 3)
    window_mass_kernel(softmax_tile<Text> tile, mass_cut cut, ops::mass_options options,
                       score_view out, Columns... columns) {
  KVSLIM_DETAIL_DYNAMIC_SHARED(mass);  // [heads, span]
  auto const& e = tile.text.extents();
  index_t const stretches = div_up(e.tokens, cut.own);
  auto const small = [](index_t x) { return static_cast<int>(x); };  // registers are scarce
  int const window = small(tile.queries.tokens), half = small(options.kernel / 2);
  for (index_t item = blockIdx.x; item < e.rows() * stretches; item += gridDim.x) {
    index_t const r = item / stretches;
    int const begin = small(item % stretches * cut.own),
              end = small(min(begin + cut.own, e.tokens)),
              prefix = small(max(0, tile.tokens(r) - window)), from = small(max(0, begin - half)),
              stop = small(min(end + half, prefix));
    mass_of_tokens(tile, columns..., cut, options, r, from, stop, prefix, mass);
    __syncthreads();
    for (int t = begin + small(threadIdx.x); t < end; t += tile_threads) {
      float score = cut.first_head == 0 ? 0.0f : out.row(r)[t];
      for (index_t g = 0; g < cut.heads && t < prefix; ++g) {
        float const pooled =
            ops::pooled_at(options.kind, mass + g * cut.span, t - from, max(0, t - half) - from,
                           min(prefix - 1, t + half) - from, options.kernel);
        float const add =
            options.heads == reduce::mean ? pooled / static_cast<float>(cut.group) : pooled;
        score = reduce_step(options.heads, score, add);
      }
      out.row(r)[t] = score;
    }
    __syncthreads();
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

/// Tokens of one stretch: so many that the statistics of `count` queries for all of them fit into
/// as many floats as there are tokens, and what ops::mass_floats has besides.
[[nodiscard]] constexpr index_t window_stretch(index_t count) noexcept {
  return tile_threads * div_up(count, 64);
}

/// As many heads as shared memory, and the rest of the scratch, have room for. `matrices`: columns
/// lie there beside statistics.
[[nodiscard]] inline mass_cut cut_mass(extents const& e, index_t window, index_t group,
                                       index_t kernel, bool matrices) noexcept {
  constexpr index_t room = 6 * 1024;  // floats, beside what logits() takes
  index_t const span = round_up(kernel - 1 + tile_threads, 2 * tile_threads),
                rest = ops::mass_floats(e, window) - 2 * e.tokens - window,
                padded = query_columns::padded(window),
                fit = matrices ? (rest - query_columns::more_floats) /
                                     (padded * (2 + query_columns::floats(e.head_dim)))
                               : rest / (2 * window);
  return {min(group, min(room / span, fit)), span, span - (kernel - 1), 0, group};
}

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

/// Three kernels for all query heads of a group (of as many as there is room for); two more where
/// heads are reduced before pooling. Keys of f16 and bf16 are multiplied by matrix units, and one
/// kernel more prepares the queries. Returns also: unsupported (a pooling kernel above 6017).
template <>
struct implementation<ops::attention_mass_op, cuda> {
  template <class Text, class Queries>
  static status run(cuda exec, Text const& text, Queries const& queries, ops::mass_options options,
                    score_view out, float* scratch) {
    static_assert(std::same_as<typename Queries::space, cuda_space>,
                  "kvslim: a CUDA executor was given queries in host memory");
    constexpr bool matrices = detail::matrix_key<detail::key_of_text<Text>>;
    auto const& e = text.extents();
    index_t const window = queries.tokens, group = queries.heads / e.kv_heads,
                  floats = ops::mass_floats(e, window);
    ops::mass_options each = options;
    if (options.reduce_first) each.kernel = 1;
    auto cut = detail::cut_mass(e, window, group, each.kernel, matrices);
    if (cut.heads < 1)
      return detail::fail(errc::unsupported, "kvslim: this pooling kernel exceeds shared memory");
    for (index_t step = cut.heads; cut.first_head < group; cut.first_head += step) {
      cut.heads = detail::min(step, group - cut.first_head);
      index_t const count = cut.heads * (matrices ? detail::query_columns::padded(window) : window),
                    stretch = detail::window_stretch(count),
                    // queries may stand behind all tokens (probed_text)
          stretches = detail::div_up(e.tokens + window, stretch);
      float const scale = detail::logit_scale(options.logit, e.head_dim);
      float* const stats = scratch + e.tokens;
      detail::softmax_tile<Text> const tile{text,  queries, cut.first_head, cut.heads,
                                            0,     count,   scale,          options.logit.soft_cap,
                                            stats, floats,  stretch,        stretches};
      detail::launch_shape const shape{
          detail::blocks_for(e.rows() * detail::div_up(e.tokens, cut.own)), detail::tile_threads,
          cut.heads * cut.span * static_cast<index_t>(sizeof(float))};
      if constexpr (matrices) {
        detail::query_columns const columns{queries,   e.kv_heads, cut.first_head,
                                            cut.heads, scale,      stats + stretches * count * 2,
                                            floats};
        if (auto const s = detail::launch_product_softmax(exec, tile, columns); !s) return s;
        if (auto const s =
                detail::launch(exec, shape, detail::window_mass_kernel<Text, detail::query_columns>,
                               tile, cut, each, out, columns);
            !s)
          return s;
      } else {
        if (auto const s = detail::launch_softmax(exec, tile); !s) return s;
        if (auto const s =
                detail::launch(exec, shape, detail::window_mass_kernel<Text>, tile, cut, each, out);
            !s)
          return s;
      }
    }
    if (!options.reduce_first) return {};
    detail::window_take_body const take{out, scratch, e.tokens, floats};
    if (auto const s = detail::launch_for_each(exec, e.rows() * e.tokens, take); !s) return s;
    options.heads = reduce::sum;  // of one
    detail::window_pool_body<Text> const pool{text, options, out, scratch, floats, window, 0, 1};
    return detail::launch_for_each(exec, e.rows() * e.tokens, pool);
  }
};

KVSLIM_END_NAMESPACE
