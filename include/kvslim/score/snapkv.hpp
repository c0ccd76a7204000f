// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// SnapKV keeps the tokens that the last `window` queries attend to, pooled along the text so that
// neighbours of an important token stay too. "SnapKV: LLM Knows What You are Looking for Before
// Generation", arXiv:2404.14469, section 4 and listing 1. Authors' code: FasterDecoding/SnapKV
// e216ddc, snapkv_utils.py; GQA form: NVIDIA/kvpress, snapkv_press.py.
//
// SAGE-KV (arXiv:2503.08879) goes by the last query alone, which is a setting of this,
// `snapkv{{.window = 1, .pool = 1}}, top_k{{.budget = n, .sinks = 4, .recent = m}}`, as far as its
// abstract tells: no code of the authors' was found to compare with.
//
// Fidelity: the authors expand K and V to the query heads and select per query head. Rows that
//   query heads share have one kept set, so that has no meaning there: this file follows kvpress
//   and pools per query head, then reduces a KV head's query heads (mean; maximum and sum too), or
//   first reduces, as AdaKV does. Rows repeated for the query heads without a copy
//   (adapt/query_heads.hpp) give the authors' selection, and save less by as many heads.
// Fidelity: the authors sum over the window, kvpress averages; the kept set is the same.
// Fidelity: probabilities stay in float; the references round them to the model's type.
// Fidelity: the window is kept by index, not by writing max + 1 into its scores (which vanishes in
// 16-bit types).

#include <kvslim/ops/attention_mass.hpp>
#include <kvslim/ops/finite.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Scores tokens by the attention of the newest queries.
/// Requires: evidence window_queries with `window` tokens (invalid_shape); odd pool, window >= 1,
/// a finite scale and soft cap, not negative (invalid_option). A row no longer than the window
/// keeps its newest tokens. Cost: see ops::attention_mass; synchronisation none. Source:
/// arXiv:2404.14469.
struct snapkv {
  static constexpr scorer_traits<no_column, needs_window_queries> traits{.bulk = true};

  struct options {
    index_t window = 32;  ///< newest queries that vote, always kept (authors' default 32)
    index_t pool = 5;     ///< pooling kernel, odd (authors' default 5)
    pooling kind = pooling::average;  ///< authors' default
    reduce heads = reduce::mean;      ///< kvpress
    bool reduce_first = false;        ///< reduce before pooling, as AdaKV and PyramidKV do
    logit_rule logit = {};  ///< of the model: own scale, soft cap (default 1 / sqrt(head_dim), off)
  };
  options opt = {};

  [[nodiscard]] constexpr index_t protected_recent() const noexcept { return opt.window; }
  [[nodiscard]] constexpr index_t scratch_floats(extents const& e) const noexcept {
    return ops::mass_floats(e, opt.window);
  }

  [[nodiscard]] constexpr status check(extents const&) const noexcept {
    constexpr index_t most = index_t{1} << 16;
    if (opt.window < 1 || opt.window > most || opt.pool < 1 || opt.pool > most || opt.pool % 2 == 0)
      return detail::fail(errc::invalid_option,
                          "kvslim: snapkv needs a window and an odd pool in [1, 65536]");
    if (!(opt.logit.scale >= 0.0f && opt.logit.scale <= 3.0e38f && opt.logit.soft_cap >= 0.0f &&
          opt.logit.soft_cap <= 3.0e38f))
      return detail::fail(errc::invalid_option,
                          "kvslim: snapkv's scale and soft cap must be finite and not negative");
    return {};
  }
  template <class Text, class Evidence>
  [[nodiscard]] status check(Text const& text, Evidence const& evidence) const noexcept {
    auto const& q = evidence.template get<needs_window_queries>().queries;
    if (q.data != nullptr && q.tokens != opt.window)
      return detail::fail(errc::invalid_shape,
                          "kvslim: snapkv needs as many window queries as its window");
    return ops::check_queries(q, text.extents());
  }

  template <class Exec, class Text, class Evidence>
  [[nodiscard]] status score(Exec const& exec, Text const& text, Evidence const& evidence,
                             score_view out, float* scratch) const {
    return ops::attention_mass(exec, text, evidence.template get<needs_window_queries>().queries,
                               {.kind = opt.kind,
                                .kernel = opt.pool,
                                .heads = opt.heads,
                                .reduce_first = opt.reduce_first,
                                .logit = opt.logit},
                               out, scratch);
  }
};
static_assert(scorer<snapkv>);

KVSLIM_END_NAMESPACE
