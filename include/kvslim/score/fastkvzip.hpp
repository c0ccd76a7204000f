// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Fast KVzip keeps the tokens that a small gate beside each layer, trained on KVzip's scores, lets
// through: it reads a token's hidden state alone, so that no second pass over the text is needed.
// "Fast KVzip: Efficient and Accurate LLM Inference with Gated KV Eviction", arXiv:2601.17668.
// Authors' code: Janghyun1230/FastKVzip 7d78b34, prefill/attention/gate.py, prefill/model/
// wrapper.py; NVIDIA/kvpress 0.5.5, fastkvzip_press.py.
//
// Fidelity: the gate is the authors', in float, where they compute in the model's type. Its weights
// are not part of kvslim. The offset is added once, as their inference does; their training adds it
// twice.
// Fidelity: what is protected is kvpress's: the first tokens, and of the newest 2 % of a row, at
// least one, or 4096 from 32000 tokens on. The authors protect no first tokens (they keep the
// system prompt), round 2 % down to none, and protect 4096 from their chunk of 16000 tokens on.
// Fidelity: protected tokens score the largest float, not 1, which a gate may round to.
// Fidelity: both references rank over all layers: one_budget; kvpress's `layerwise` is one_budget
// over a layer's heads.

#include <kvslim/ops/hidden_gate.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Scores a token by its layer's gate, in (0, 1).
/// Requires: evidence hidden_states and gate_weights whose shapes fit each other (invalid_shape);
/// sinks, window and long_row >= 0, recent_part in [0, 1] (invalid_option). Cost: see
/// ops::hidden_gate. Source: arXiv:2601.17668.
struct fastkvzip {
  static constexpr scorer_traits<no_column, needs_hidden_states, needs_gate_weights> traits{
      .bulk = true};

  struct options {
    index_t sinks = 4;          ///< first tokens, always kept (kvpress)
    double recent_part = 0.02;  ///< of a row: newest tokens, always kept (authors)
    index_t window = 4096;      ///< newest tokens of a long row, always kept (authors)
    index_t long_row = 32000;   ///< tokens from which a row is long (kvpress)
  };
  options opt = {};

  [[nodiscard]] constexpr index_t protected_recent() const noexcept { return 0; }
  [[nodiscard]] constexpr index_t scratch_floats(extents const& e) const noexcept {
    return ops::gate_floats(e);
  }
  [[nodiscard]] constexpr status check(extents const&) const noexcept {
    if (opt.sinks < 0 || opt.window < 0 || opt.long_row < 0 ||
        !(opt.recent_part >= 0.0 && opt.recent_part <= 1.0))
      return detail::fail(errc::invalid_option,
                          "kvslim: fastkvzip needs sinks, window and long_row >= 0 and "
                          "recent_part in [0, 1]");
    return {};
  }
  template <class Text, class Evidence>
  [[nodiscard]] status check(Text const& text, Evidence const& evidence) const noexcept {
    return ops::check_gates(evidence.template get<needs_hidden_states>(),
                            evidence.template get<needs_gate_weights>(), text.extents());
  }

  template <class Exec, class Text, class Evidence>
  [[nodiscard]] status score(Exec const& exec, Text const& text, Evidence const& evidence,
                             score_view out, float* scratch) const {
    return ops::hidden_gate(exec, text, evidence.template get<needs_hidden_states>(),
                            evidence.template get<needs_gate_weights>(),
                            {opt.sinks, opt.recent_part, opt.window, opt.long_row}, out, scratch);
  }
};
static_assert(scorer<fastkvzip>);

KVSLIM_END_NAMESPACE
