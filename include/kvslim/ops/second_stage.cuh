// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/ops/second_stage.hpp>
#include <kvslim/ops/select.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

struct first_stage_body {
  quota first;
  quota* quotas;

  __device__ void operator()(index_t r) const { quotas[r] = first; }
};

template <class Text>
struct second_stage_body {
  Text text;
  ops::stage_options options;
  score_view weights;
  fate const* fates;
  score_view scores;

  __device__ void operator()(index_t at) const {
    auto const& e = text.extents();
    index_t const r = at / e.tokens, t = at % e.tokens;
    if (t >= text.tokens(r / e.kv_heads, r % e.kv_heads)) return;
    float& x = scores.row(r)[t];
    x = ops::staged_score(options, fates[at], x, weights.row(r)[t]);
  }
};

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

template <>
struct implementation<ops::second_stage_op, cuda> {
  template <class Text>
  static status run(cuda exec, Text const& text, ops::stage_options const& options,
                    score_view weights, ops::stage_memory const& memory, score_view scores) {
    auto const& e = text.extents();
    detail::first_stage_body const fill{options.first, memory.quotas};
    if (auto const s = detail::launch_for_each(exec, e.rows(), fill); !s) return s;
    if (auto const s = ops::take_first_stage(exec, text, memory, scores); !s) return s;
    return detail::launch_for_each(
        exec, e.rows() * e.tokens,
        detail::second_stage_body<Text>{text, options, weights, memory.fates, scores});
  }
};

KVSLIM_END_NAMESPACE
