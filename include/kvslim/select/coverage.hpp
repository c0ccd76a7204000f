// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// As few tokens as together hold a given part of a row's score: much where attention is spread out,
// little where it is not. ZipVL chooses so how many tokens each layer keeps: "ZipVL: Efficient
// Large Vision-Language Models with Dynamic Token Sparsification and KV Cache Compression",
// arXiv:2410.08584. The authors published no code.
//
// Fidelity: ZipVL counts by the attention that probes pay and then chooses by that divided by the
// queries which could see a token; here one score does both, so that what is kept does hold the
// part. For a layer's heads together: `shared{snapkv{}, {.kv_heads = 8}}`, all of which then keep
// the same; bare, every head counts for itself.
// Fidelity: ZipVL keeps the others in fewer bits, or drops them in a later version; here they go.
// Fidelity: sums are exact, in 2^-32 of a row's largest score, so that every backend keeps the
// same.

#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Rows end with the token that completes `part` of the sum of their positive scores, what is
/// protected included. A row without positive scores keeps what is protected.
/// Requires: 0 < part <= 1, budget, sinks and recent >= 0 (invalid_option). Cost: a sort of each
/// row on the CPU, 64 passes over its scores on CUDA; without a budget storage for all tokens.
/// Source: arXiv:2410.08584.
struct coverage {
  static constexpr quota_traits traits{};

  struct options {
    float part = 0.975f;  ///< of the score (ZipVL's default for images and video)
    index_t budget = 0;   ///< at most so many tokens per row; 0: all
    index_t sinks = 0;    ///< first tokens, always kept
    index_t recent = 0;   ///< newest tokens, always kept
  };
  options opt = {};

  [[nodiscard]] constexpr status check(extents const&) const noexcept {
    if (!(opt.part > 0.0f && opt.part <= 1.0f) || opt.budget < 0 ||
        opt.budget > extents::most_tokens || opt.sinks < 0 || opt.recent < 0)
      return detail::fail(errc::invalid_option,
                          "kvslim: coverage needs a part in (0, 1], and budget, sinks and recent "
                          ">= 0");
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr row_group group() const noexcept { return {}; }
  [[nodiscard]] KVSLIM_HD constexpr index_t most(extents const& e) const noexcept {
    return opt.budget > 0 ? opt.budget : e.tokens;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t total(extents const& e) const noexcept {
    return most(e);
  }
  KVSLIM_HD constexpr void allocate(slice<row_facts const> facts, slice<quota> out) const noexcept {
    for (index_t i = 0; i < out.size; ++i)
      out[i] = {.count = opt.budget > 0 ? opt.budget : facts[i].tokens,
                .sinks = opt.sinks,
                .recent = detail::max(opt.recent, facts[i].recent),
                .cover = opt.part};
  }
};
static_assert(quota_policy<coverage>);

KVSLIM_END_NAMESPACE
