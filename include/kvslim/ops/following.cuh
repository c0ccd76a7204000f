// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda.cuh>
#include <kvslim/ops/following.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// One thread a token.
template <class Text>
struct following_kept_body {
  Text text;
  score_view scores;
  fate const* fates;
  following_rule rule;
  folding out;

  __device__ void operator()(index_t at) const {
    auto const& e = text.extents();
    index_t const r = at / e.tokens, t = at % e.tokens;
    if (t < text.tokens(r / e.kv_heads, r % e.kv_heads))
      ops::follow(text, scores, fates, rule, out, r, t);
  }
};

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

template <>
struct implementation<ops::following_kept_op, cuda> {
  template <class Text>
  static status run(cuda exec, Text const& text, score_view scores, fate const* fates,
                    following_rule const& rule, folding const& out) {
    auto const& e = text.extents();
    return detail::launch_for_each(
        exec, e.rows() * e.tokens,
        detail::following_kept_body<Text>{text, scores, fates, rule, out});
  }
};

KVSLIM_END_NAMESPACE
