// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// CAKE's scores: tokens that the last queries attend to, more where the queries disagree, pooled
// along the text. "CAKE: Cascading and Adaptive KV Cache Eviction with Layer Preferences",
// arXiv:2503.12491, section 4. Authors' code: antgroup/cakekv c4675ce, cake/model/modify_llama.py.
// The budgets that belong to them are `cake` (select/cake.hpp).
//
// Fidelity: probabilities and their moments stay in float, the authors round them to the model's
// type, where the variance of small probabilities may vanish.
// Fidelity: scores of the prompt only. While decoding the authors score with the newest query's
// attention alone, pooled likewise, without the variance.

#include <kvslim/ops/finite.hpp>
#include <kvslim/ops/window_moments.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Mean attention of the newest queries plus `gamma` times its variance; states the entropy and the
/// variance of each row for a quota.
/// Requires: evidence window_queries with `window` tokens (invalid_shape); odd pool, window >= 2,
/// a finite gamma (invalid_option). Cost: as snapkv's, and a logarithm per query and token.
/// Source: arXiv:2503.12491.
struct cake_scores {
  static constexpr scorer_traits<no_column, needs_window_queries> traits{.bulk = true,
                                                                         .states = true};

  struct options {
    index_t window = 32;   ///< newest queries that vote, always kept (authors' default)
    index_t pool = 5;      ///< average pooling, odd (authors)
    float gamma = 200.0f;  ///< weight of the variance (authors' default)
  };
  options opt = {};

  [[nodiscard]] constexpr index_t protected_recent() const noexcept { return opt.window; }
  [[nodiscard]] constexpr index_t scratch_floats(extents const& e) const noexcept {
    return ops::window_moments_floats(e, opt.window);
  }
  [[nodiscard]] constexpr status check(extents const&) const noexcept {
    constexpr index_t most = index_t{1} << 16;
    if (opt.window < 2 || opt.window > most || opt.pool < 1 || opt.pool > most ||
        opt.pool % 2 == 0 || !(opt.gamma >= -1e30f && opt.gamma <= 1e30f))
      return detail::fail(errc::invalid_option,
                          "kvslim: cake_scores needs a window in [2, 65536], an odd pool below, "
                          "and a finite gamma");
    return {};
  }
  template <class Text, class Evidence>
  [[nodiscard]] status check(Text const& text, Evidence const& evidence) const noexcept {
    auto const& q = evidence.template get<needs_window_queries>().queries;
    if (q.data != nullptr && q.tokens != opt.window)
      return detail::fail(errc::invalid_shape,
                          "kvslim: cake_scores needs as many window queries as its window");
    return ops::check_queries(q, text.extents());
  }
  template <class Exec, class Text, class Evidence>
  [[nodiscard]] status score(Exec const& exec, Text const& text, Evidence const& evidence,
                             score_view out, float* scratch) const {
    return ops::window_moments(exec, text, evidence.template get<needs_window_queries>().queries,
                               {opt.pool, opt.gamma}, out, scratch);
  }
};
static_assert(scorer<cake_scores>);

KVSLIM_END_NAMESPACE
