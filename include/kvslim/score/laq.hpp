// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// LAQ (Lookahead Q-Cache) drafts a few tokens on a smaller cache and keeps what their queries, and
// the prompt's last ones, attend to. "Lookahead Q-Cache: Achieving More Consistent KV Cache
// Eviction via Pseudo Query", arXiv:2505.20334. Authors' code: noforit/Lookahead_Q-Cache 74612bd,
// pyramidkv/pyramidkv_utils.py, update_kv_LAQ.
//
// The engine drafts: compress() by snapkv, a few steps, their queries; then compress() of the same
// prompt by this.
//
// Fidelity: drafted queries see the whole prompt and a prompt's query the tokens up to its own. The
// authors mask all as if they were the prompt's last tokens, so that up to `pseudo` of the newest
// keys are hidden from queries that come after them; that is not reproduced.
// Fidelity: the authors select per query head; here the query heads of a KV head are reduced, as
// for snapkv.
// Fidelity: where drafting ended early, give `pseudo` the queries that there are.

#include <kvslim/ops/attention_mass.hpp>
#include <kvslim/ops/finite.hpp>
#include <kvslim/ops/probed_text.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Scores tokens by the attention of the newest queries and of drafted ones.
/// Requires: evidence window_queries with `window` queries of the prompt's last tokens, then
/// `pseudo` drafted ones (invalid_shape); odd pool, pseudo >= 1, window >= 0 (invalid_option).
/// Cost: see ops::attention_mass. Source: arXiv:2505.20334.
struct laq {
  static constexpr scorer_traits<no_column, needs_window_queries> traits{.bulk = true};

  struct options {
    index_t window = 8;  ///< newest tokens, whose queries vote too, always kept (authors; 0: LAQ)
    index_t pseudo = 8;  ///< drafted queries (authors)
    index_t pool = 7;    ///< pooling kernel, odd (authors)
    pooling kind = pooling::maximum;  ///< authors
    reduce heads = reduce::mean;      ///< of a KV head's query heads
  };
  options opt = {};

  [[nodiscard]] constexpr index_t protected_recent() const noexcept { return opt.window; }
  [[nodiscard]] constexpr index_t scratch_floats(extents const& e) const noexcept {
    return ops::mass_floats(e, opt.window + opt.pseudo);
  }
  [[nodiscard]] constexpr status check(extents const&) const noexcept {
    constexpr index_t most = index_t{1} << 15;
    if (opt.window < 0 || opt.window > most || opt.pseudo < 1 || opt.pseudo > most ||
        opt.pool < 1 || opt.pool > most || opt.pool % 2 == 0)
      return detail::fail(
          errc::invalid_option,
          "kvslim: laq needs a window in [0, 32768], pseudo queries and an odd pool "
          "in [1, 32768]");
    return {};
  }
  template <class Text, class Evidence>
  [[nodiscard]] status check(Text const& text, Evidence const& evidence) const noexcept {
    auto const& q = evidence.template get<needs_window_queries>().queries;
    if (q.data != nullptr && q.tokens != opt.window + opt.pseudo)
      return detail::fail(errc::invalid_shape,
                          "kvslim: laq needs as many window queries as its window and pseudo "
                          "queries");
    return ops::check_queries(q, text.extents());
  }

  template <class Exec, class Text, class Evidence>
  [[nodiscard]] status score(Exec const& exec, Text const& text, Evidence const& evidence,
                             score_view out, float* scratch) const {
    ops::probed_text<Text> const seen{text, {}, opt.pseudo, 0, 0, text.extents().tokens};
    return ops::attention_mass(exec, seen, evidence.template get<needs_window_queries>().queries,
                               {.kind = opt.kind, .kernel = opt.pool, .heads = opt.heads}, out,
                               scratch);
  }
};
static_assert(scorer<laq>);

KVSLIM_END_NAMESPACE
