// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// CaM hands the value of an evicted token on to the kept tokens after it, by chance, the likelier
// the more attention it has had beside them; its key goes. "CaM: Cache Merging for
// Memory-efficient LLMs Inference", ICML 2024, section 4. Authors' code: zyxxmu/cam fc80e64,
// generate_task/streaming_llm/kv_cache_cam.py (slicev), which evicts one token a step.
//
// Fidelity: of several evicted at once each goes to the next kept ones, as in kvpress (CAMPress).
// Where fewer than `window` follow, they share it all; the authors always divide by the window.
// Fidelity: the scores are the pipeline's: h2o has the authors' sum of attention. Their other code
// (cam_hf) compares with the last row alone, frees nothing, and hands on a token that it still
// holds: not offered.
// Fidelity: the authors draw from torch's generator; here a draw depends on the seed, the row and
// the position. `draws = false` hands on the expected part instead.

#include <kvslim/ops/following.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Requires: window >= 1 (invalid_option). Scores that are negative or NaN hand on nothing. Values
/// grow by what they are given: what no longer fits the storage type is refused (non_finite). Cost:
/// `window` additions of a row for each evicted token; memory 16 bytes per token.
struct cam {
  static constexpr merger_traits traits{.assigns = true};

  struct options {
    index_t window = 32;     ///< kept tokens that share an evicted value (cam_hf; slicev 16)
    bool draws = true;       ///< all or nothing (authors); false: the expected part
    std::uint64_t seed = 0;  ///< of the draws
  };
  options opt = {};

  [[nodiscard]] constexpr status check() const noexcept {
    if (opt.window < 1 || opt.window > extents::most_tokens)
      return detail::fail(errc::invalid_option, "kvslim: cam's window is at least 1");
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr bool mass_bias() const noexcept { return false; }
  [[nodiscard]] KVSLIM_HD constexpr bool grows() const noexcept { return true; }
  [[nodiscard]] KVSLIM_HD constexpr bool folds_keys() const noexcept { return false; }
  [[nodiscard]] KVSLIM_HD constexpr index_t span() const noexcept { return opt.window; }
  [[nodiscard]] constexpr index_t scratch_floats(extents const&) const noexcept { return 0; }
  template <class Exec, class Text>
  status assign(Exec const& exec, Text const& text, score_view scores, fate const* fates,
                folding const& out, float*) const {
    return ops::following_kept(exec, text, scores, fates, {opt.window, opt.draws, opt.seed}, out);
  }
  [[nodiscard]] KVSLIM_HD constexpr fold_share share(float strength) const noexcept {
    return {.key = 0.0f, .value = strength, .count = 0.0f, .mass = 0.0f};
  }
};
static_assert(merger<cam>);

KVSLIM_END_NAMESPACE
