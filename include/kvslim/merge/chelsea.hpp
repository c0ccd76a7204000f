// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Chelsea clusters keys within chunks of text: every second token looks for the most alike of the
// others, and the best pairs become centroids. "Efficient Long-Context LLM Inference via KV Cache
// Clustering" (later CentroidKV), arXiv:2506.11418. No authors' code is public, so there is no
// golden: the reference in tests decides.
//
// Fidelity: made from the paper's abstract and the bipartite matching that it builds on; the size
// of chunks, what is protected and how many pairs are made are options, and their defaults ours.
// Fidelity: one compression is one round, which leaves at least half; recompress() does the next.
// Fidelity: a cluster's place is that of the token joined; centroids weigh members by their mass,
// which is the number of tokens they stand for if `mass_bias` stored it.

#include <kvslim/ops/pair_in_chunks.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Needs no quota; after one, what it keeps is clustered and what it protects is left alone.
/// Requires: chunk >= 2, part in [0, 1], sinks and recent >= 0 (invalid_option). Cost: a dot
/// product for every pair of a chunk's halves; memory 16 bytes per token.
struct chelsea {
  static constexpr merger_traits traits{.assigns = true};

  struct options {
    index_t chunk = 64;      ///< tokens among which partners are looked for (ours)
    float part = 1.0f;       ///< of a chunk's half that joins; 1: half of all tokens go (ours)
    index_t sinks = 4;       ///< first tokens, left alone (ours)
    index_t recent = 32;     ///< newest tokens, left alone (ours)
    bool mass_bias = false;  ///< store the members' mass as a logit bias
  };
  options opt = {};

  [[nodiscard]] constexpr status check() const noexcept {
    constexpr index_t most = extents::most_tokens;
    if (!(opt.chunk >= 2 && opt.chunk <= most && opt.part >= 0.0f && opt.part <= 1.0f &&
          opt.sinks >= 0 && opt.sinks <= most && opt.recent >= 0 && opt.recent <= most))
      return detail::fail(
          errc::invalid_option,
          "kvslim: chelsea needs chunk >= 2, part in [0, 1], sinks and recent >= 0");
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t span() const noexcept { return 1; }
  [[nodiscard]] KVSLIM_HD constexpr bool folds_keys() const noexcept { return true; }
  [[nodiscard]] KVSLIM_HD constexpr bool grows() const noexcept { return false; }
  [[nodiscard]] KVSLIM_HD constexpr bool mass_bias() const noexcept { return opt.mass_bias; }
  [[nodiscard]] constexpr index_t scratch_floats(extents const&) const noexcept { return 0; }
  template <class Exec, class Text>
  status assign(Exec const& exec, Text const& text, score_view, fate const* fates,
                folding const& out, float*) const {
    return ops::pair_in_chunks(exec, text, fates, {opt.chunk, opt.part, opt.sinks, opt.recent},
                               out);
  }
  [[nodiscard]] KVSLIM_HD constexpr fold_share share(float) const noexcept { return {}; }
};
static_assert(merger<chelsea>);

KVSLIM_END_NAMESPACE
