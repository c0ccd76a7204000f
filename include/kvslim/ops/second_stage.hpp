// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/ops/finite.hpp>
#include <kvslim/ops/select.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// Where the first stage is worked out: [rows, tokens], [rows], [rows, tokens].
struct stage_memory {
  std::uint64_t* keys = nullptr;
  quota* quotas = nullptr;
  fate* fates = nullptr;
};

struct stage_options {
  quota first = {};  ///< what each row's first stage takes, by the scores as they are
  float epsilon = 0.0f;
};

/// A token's score: those of the first stage come before all others.
[[nodiscard]] KVSLIM_HD inline float staged_score(stage_options const& o, fate f, float score,
                                                  float weight) noexcept {
  return f == fate::evicted ? (score + o.epsilon) * weight : largest_float;
}

struct second_stage_op {};

/// Marks the best tokens of every row with largest_float and weighs the scores of the others:
/// (score + epsilon) * weight. In place. Cost: a selection, one pass over the scores.
template <class Exec, class Text>
status second_stage(Exec const& exec, Text const& text, stage_options const& options,
                    score_view weights, stage_memory const& memory, score_view scores) {
  return implementation<second_stage_op, Exec>::run(exec, text, options, weights, memory, scores);
}

/// What protects and fills the first stage, on either backend, once the quotas are there.
template <class Exec, class Text>
[[nodiscard]] status take_first_stage(Exec const& exec, Text const& text,
                                      stage_memory const& memory, score_view scores) {
  slice<quota const> const quotas{memory.quotas, text.extents().rows()};
  if (auto const s = protect(exec, text, quotas, memory.fates); !s) return s;
  return keep_best(exec, text, scores, quotas, memory.keys, memory.fates);
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::second_stage_op, Exec> {
  template <class Text>
  static status run(Exec const& exec, Text const& text, ops::stage_options const& options,
                    score_view weights, ops::stage_memory const& memory, score_view scores) {
    auto const e = text.extents();
    exec.for_each(e.rows(), [=](index_t r) { memory.quotas[r] = options.first; });
    if (auto const s = ops::take_first_stage(exec, text, memory, scores); !s) return s;
    exec.for_each(e.rows(), [=](index_t r) {
      float* const mine = scores.row(r);
      for (index_t t = 0; t < text.tokens(r / e.kv_heads, r % e.kv_heads); ++t)
        mine[t] =
            ops::staged_score(options, memory.fates[r * e.tokens + t], mine[t], weights.row(r)[t]);
    });
    return {};
  }
};

KVSLIM_END_NAMESPACE
