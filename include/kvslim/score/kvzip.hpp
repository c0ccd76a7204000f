// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// KVzip keeps what the model looks at when it is made to repeat the text: no question is needed, so
// the compressed cache serves any. "KVzip: Query-Agnostic KV Cache Compression with Context
// Reconstruction", arXiv:2505.23416, section 3. Authors' code: snu-mllab/KVzip 5d84729,
// attention/score.py; NVIDIA/kvpress 0.5.5, kvzip_press.py.
//
// The engine runs the second pass: for every 2000 tokens or so a request to repeat them and they
// themselves again, and hands over its queries and keys, with a stretch for each.
//
// Fidelity: `squared` adds up squares over queries and heads instead of taking the maximum; no
// paper.
// Fidelity: tokens of no stretch score 0 and go first, as in kvpress. The authors keep the whole
// system prompt: they call all of it sinks.
// Fidelity: the authors keep what exceeds a threshold over all layers, at most the asked share;
// kvpress as many as asked for: one_budget, or top_k for equal heads.
// Fidelity: probabilities stay in float; both references round them to the model's type. KVzip+ of
// kvpress, which weighs by projected values, is not here.

#include <kvslim/ops/probe_scores.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Scores tokens by the largest attention that a pass repeating the text pays to them.
/// Requires: evidence probes (invalid_shape); sinks >= 0 (invalid_option). Cost: see
/// ops::probe_scores. Source: arXiv:2505.23416.
struct kvzip {
  static constexpr scorer_traits<no_column, needs_probes> traits{.bulk = true};

  struct options {
    index_t sinks = 4;     ///< first tokens, seen by every query and always kept (kvpress)
    bool squared = false;  ///< sum of squares over queries and heads, not the maximum
  };
  options opt = {};

  [[nodiscard]] constexpr index_t protected_recent() const noexcept { return 0; }
  [[nodiscard]] constexpr index_t scratch_floats(extents const& e) const noexcept {
    return ops::probe_score_floats(e);
  }
  [[nodiscard]] constexpr status check(extents const&) const noexcept {
    if (opt.sinks < 0) return detail::fail(errc::invalid_option, "kvslim: kvzip needs sinks >= 0");
    return {};
  }
  template <class Text, class Evidence>
  [[nodiscard]] status check(Text const& text, Evidence const& evidence) const noexcept {
    return ops::check_probes(evidence.template get<needs_probes>(), text.extents());
  }

  template <class Exec, class Text, class Evidence>
  [[nodiscard]] status score(Exec const& exec, Text const& text, Evidence const& evidence,
                             score_view out, float* scratch) const {
    ops::probe_options const how{opt.sinks, opt.squared ? ops::paid::squares : ops::paid::maximum,
                                 opt.squared ? reduce::sum : reduce::maximum};
    return ops::probe_scores(exec, text, evidence.template get<needs_probes>(), how, out, scratch);
  }
};
static_assert(scorer<kvzip>);

KVSLIM_END_NAMESPACE
