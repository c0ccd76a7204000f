// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// LagKV keeps the tokens whose channels spread most when measured by the range of the tokens that
// follow: neither attention nor queries are needed. "LagKV: Lag-Relative Information of the KV
// Cache Tells Which Tokens Are Important", arXiv:2504.04704, section 3. Authors' code:
// AI-Lab-China-Merchants-Bank/LagKV 2a9d19e, lag_kv.py; NVIDIA/kvpress 0.5.5, lagkv_press.py.
//
// Fidelity: the authors keep as many of every partition as of any other, kvpress as many as a
// budget over the whole row, out of ranks within partitions. Here scores are kvpress's; where the
// budget is the sinks, c of every scored partition and the unscored end, the kept set is the
// authors' too.
// Fidelity: kvpress leaves open which of equal ranks stay, the earlier here.
// Fidelity: tokens that are not scored (sinks, the last whole partition and what is behind it) all
// score 1, as kvpress's: a budget below their number keeps the earlier, unless top_k's `.recent`
// protects the newest.
// Fidelity: a channel that does not vary over the next partition divides by zero in both codes and
// turns the partition into NaN; here it is left out.
// Fidelity: the authors never score again what a partition kept, recompress() does.

#include <kvslim/ops/lag_scores.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Scores a token by the spread of its channels relative to the partition behind its own.
/// Requires: sinks >= 0, lag in [1, 65536], value_weight finite and >= 0 (invalid_option). A row
/// below sinks + 2 * lag keeps its sinks and its newest tokens. Cost: see ops::lag_scores.
/// Source: arXiv:2504.04704.
struct lagkv {
  static constexpr scorer_traits<> traits{.bulk = true};

  struct options {
    index_t sinks = 4;          ///< first tokens, not scored (kvpress; authors' code 16)
    index_t lag = 128;          ///< tokens of a partition (kvpress; paper 128 to 1024)
    float value_weight = 1.0f;  ///< of V's score relative to K's (authors' default)
    bool ranked = true;         ///< false: compare across partitions (kvpress's cross_scoring)
  };
  options opt = {};

  [[nodiscard]] constexpr index_t protected_recent() const noexcept { return 0; }
  [[nodiscard]] constexpr index_t scratch_floats(extents const& e) const noexcept {
    return ops::lag_score_floats(e);
  }
  [[nodiscard]] constexpr status check(extents const&) const noexcept {
    if (opt.sinks < 0 || opt.sinks > extents::most_tokens || opt.lag < 1 ||
        opt.lag > (index_t{1} << 16) || !(opt.value_weight >= 0.0f) ||
        opt.value_weight > ops::largest_float)
      return detail::fail(
          errc::invalid_option,
          "kvslim: lagkv needs sinks >= 0, a lag in [1, 65536] and a finite value_weight >= 0");
    return {};
  }
  template <class Text, class Evidence>
  [[nodiscard]] status check(Text const&, Evidence const&) const noexcept {
    return {};
  }

  template <class Exec, class Text, class Evidence>
  [[nodiscard]] status score(Exec const& exec, Text const& text, Evidence const&, score_view out,
                             float* scratch) const {
    return ops::lag_scores(exec, text, {opt.sinks, opt.lag, opt.value_weight, opt.ranked}, out,
                           scratch);
  }
};
static_assert(scorer<lagkv>);

KVSLIM_END_NAMESPACE
