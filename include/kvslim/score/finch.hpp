// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// FINCH keeps the tokens that the question, the prompt's last tokens, attends to, and closes the
// gaps between them. "FINCH: Prompt-guided Key-Value Cache Compression for Large Language Models",
// TACL 2024, section 3. Authors' code: giulio98/context-compression e20715f; NVIDIA/kvpress 0.5.5,
// finch_press.py.
//
// As a pipeline: `finch{{.window = question}}, top_k{{.budget = n}}, rerotate{rope}`.
//
// Fidelity: kvpress weighs a query by the number of earlier tokens that it sees, as the paper's
// normalization does; the authors' code computes that and then uses the plain sum
// (`normalized = false`, the same order as snapkv without pooling).
// Fidelity: the authors select one set for all heads of a layer: `shared` over them.
// Fidelity: the prompt is taken at once; in parts it is compress(), then append() and recompress().

#include <kvslim/ops/attention_mass.hpp>
#include <kvslim/ops/finite.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Scores tokens by the attention of the question's queries.
/// Requires: evidence window_queries with `window` tokens (invalid_shape); window in [1, 65536]
/// (invalid_option). A row no longer than the window keeps its newest tokens. Cost: see
/// ops::attention_mass. Source: TACL 2024.
struct finch {
  static constexpr scorer_traits<no_column, needs_window_queries> traits{.bulk = true};

  struct options {
    index_t window = 32;     ///< tokens of the question, always kept; no default in the sources
    bool normalized = true;  ///< weigh queries by the tokens that they see (paper, kvpress)
  };
  options opt = {};

  [[nodiscard]] constexpr index_t protected_recent() const noexcept { return opt.window; }
  [[nodiscard]] constexpr index_t scratch_floats(extents const& e) const noexcept {
    return ops::mass_floats(e, opt.window);
  }
  [[nodiscard]] constexpr status check(extents const&) const noexcept {
    if (opt.window < 1 || opt.window > (index_t{1} << 16))
      return detail::fail(errc::invalid_option, "kvslim: finch needs a window in [1, 65536]");
    return {};
  }
  template <class Text, class Evidence>
  [[nodiscard]] status check(Text const& text, Evidence const& evidence) const noexcept {
    auto const& q = evidence.template get<needs_window_queries>().queries;
    if (q.data != nullptr && q.tokens != opt.window)
      return detail::fail(errc::invalid_shape,
                          "kvslim: finch needs as many window queries as its window");
    return ops::check_queries(q, text.extents());
  }

  template <class Exec, class Text, class Evidence>
  [[nodiscard]] status score(Exec const& exec, Text const& text, Evidence const& evidence,
                             score_view out, float* scratch) const {
    return ops::attention_mass(exec, text, evidence.template get<needs_window_queries>().queries,
                               {.by_visible = opt.normalized}, out, scratch);
  }
};
static_assert(scorer<finch>);

KVSLIM_END_NAMESPACE
