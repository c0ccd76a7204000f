// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda.cuh>
#include <kvslim/ops/hidden_gate.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

inline constexpr int gate_threads = 128;
inline constexpr int gate_tile = static_cast<int>(ops::most_gate_dim);

/// Parts of the states of 128 tokens, and of one head's weights.
struct gate_tiles {
  float states[gate_tile][gate_threads + 1], weights[gate_tile][gate_tile];
};

/// Projects the states of 128 tokens from `first` on by one head's weights [dim, width], a thread's
/// token to its `out`. All threads call.
template <class Text>
__device__ void gate_project(Text const& text, rows<cuda_space> const& states,
                             rows<cuda_space> const& weights, index_t r, index_t head,
                             index_t first, gate_tiles& tiles, float* out) {
  auto const& e = text.extents();
  index_t const s = r / e.kv_heads, h = r % e.kv_heads, n = text.tokens(s, h);
  int const me = static_cast<int>(threadIdx.x);
  float x[gate_tile] = {};
  for (index_t c0 = 0; c0 < weights.head_dim; c0 += gate_tile) {
    __syncthreads();
    for (int at = me; at < gate_threads * gate_tile; at += gate_threads) {
      int const token = at / gate_tile, c = at % gate_tile;
      tiles.states[c][token] =
          first + token < n && c0 + c < weights.head_dim
              ? states.at(s, states.heads == 1 ? 0 : h, text.cell(s, h, first + token), c0 + c)
              : 0.0f;
    }
    for (int at = me; at < gate_tile * gate_tile; at += gate_threads) {
      int const d = at / gate_tile, c = at % gate_tile;
      tiles.weights[c][d] = d < weights.tokens && c0 + c < weights.head_dim
                                ? weights.at(s % weights.sequences, head, d, c0 + c)
                                : 0.0f;
    }
    __syncthreads();
    for (int c = 0; c < gate_tile; ++c) {
      float const mine = tiles.states[c][me];
      unrolled<gate_tile>([&](int d) { x[d] += tiles.weights[c][d] * mine; });
    }
  }
  unrolled<gate_tile>([&](int d) { out[d] = x[d]; });
}

/// Scores of 128 tokens of a row, one a thread.
template <class Text>
KVSLIM_DETAIL_KERNEL void hidden_gate_kernel(Text text, rows<cuda_space> states,
                                             gate_weights<cuda_space> w,
                                             ops::gate_protection protection, index_t blocks_of_row,
                                             score_view out) {
  __shared__ gate_tiles tiles;
  auto const& e = text.extents();
  index_t const dim = w.query.tokens, group = w.query.heads / e.kv_heads;
  for (index_t item = blockIdx.x; item < e.rows() * blocks_of_row; item += gridDim.x) {
    index_t const r = item / blocks_of_row, s = r / e.kv_heads, h = r % e.kv_heads,
                  n = text.tokens(s, h), first = item % blocks_of_row * gate_threads,
                  t = first + threadIdx.x;
    float score = 0.0f, key[gate_tile], query[gate_tile];
    if (first < n) {
      gate_project(text, states, w.key, r, h, first, tiles, key);
      ops::gate_normalize(w.key_gain, s, dim, key);
    }
    for (index_t g = 0; g < group && first < n; ++g) {
      index_t const head = h * group + g;
      gate_project(text, states, w.query, r, head, first, tiles, query);
      for (index_t d = 0; d < dim; ++d)
        query[d] += w.query_bias.at(s % w.query_bias.sequences, head, 0, d);
      ops::gate_normalize(w.query_gain, s, dim, query);
      score += ops::gate_share(w, s, h, g, key, query) / static_cast<float>(group);
    }
    if (t < n && protection.covers(t, n)) score = ops::largest_float;
    if (t < e.tokens) out.row(r)[t] = t < n ? score : 0.0f;
  }
}

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

template <>
struct implementation<ops::hidden_gate_op, cuda> {
  template <class Text, class Space>
  static status run(cuda exec, Text const& text, hidden_states<Space> const& states,
                    gate_weights<Space> const& weights, ops::gate_protection const& protection,
                    score_view out, float*) {
    static_assert(std::same_as<Space, cuda_space>,
                  "kvslim: a CUDA executor was given a gate in host memory");
    auto const& e = text.extents();
    index_t const blocks = detail::div_up(e.tokens, detail::gate_threads);
    return detail::launch(exec, {detail::blocks_for(e.rows() * blocks), detail::gate_threads},
                          detail::hidden_gate_kernel<Text>, text, states.states, weights,
                          protection, blocks, out);
  }
};

KVSLIM_END_NAMESPACE
