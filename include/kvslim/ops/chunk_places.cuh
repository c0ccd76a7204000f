// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda.cuh>
#include <kvslim/ops/chunk_places.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// One token of one row's chunk.
template <class Text>
struct chunk_places_body {
  ops::text_part<Text> part;
  index_t recent;
  score_view scores, out;

  __device__ void operator()(index_t at) const {
    auto const& e = part.extents();
    index_t const r = at / e.tokens, i = at % e.tokens;
    index_t const n = part.tokens(r / e.kv_heads, r % e.kv_heads);
    if (part.first + i >= part.text.extents().tokens) return;
    float const* const mine = scores.row(r);
    std::uint64_t const key = i < n ? ops::place_key(mine, i, n, recent) : 0;
    index_t place = 0;
    for (index_t j = 0; i < n && j < n; ++j)
      place += ops::place_key(mine, j, n, recent) > key ? 1 : 0;
    out.row(r)[part.first + i] = i < n ? ops::place_score(place, n) : 0.0f;
  }
};

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

template <>
struct implementation<ops::chunk_places_op, cuda> {
  template <class Text>
  static status run(cuda exec, ops::text_part<Text> const& part, index_t recent, score_view scores,
                    std::uint64_t*, score_view out) {
    auto const& e = part.extents();
    return detail::launch_for_each(exec, e.rows() * e.tokens,
                                   detail::chunk_places_body<Text>{part, recent, scores, out});
  }
};

KVSLIM_END_NAMESPACE
