// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// SnapKV keeps the tokens that the last `window` queries attend to, pooled along the text so that
// neighbours of an important token stay too. "SnapKV: LLM Knows What You are Looking for Before
// Generation", arXiv:2404.14469, section 4 and listing 1. Authors' code: FasterDecoding/SnapKV
// e216ddc, snapkv_utils.py; GQA form: NVIDIA/kvpress, snapkv_press.py.
//
// Fidelity: the authors expand K and V to the query heads and select per query head, which saves
// nothing under GQA; this
//   file follows kvpress and reduces the query heads of a KV head (mean by default) after pooling.
// Fidelity: the authors sum over the window, kvpress averages; the kept set is the same.
// Fidelity: probabilities stay in float; the references round them to the model's type.
// Fidelity: the window is kept by index, not by writing max + 1 into its scores (which vanishes in
// 16-bit types).

#include <kvslim/ops/window_scores.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Scores tokens by the attention of the newest queries.
/// Requires: evidence window_queries with `window` tokens; every sequence longer than `window`
/// (invalid_shape); odd pool, window >= 1 (invalid_option). Cost: see ops::window_scores;
/// synchronisation none. Source: arXiv:2404.14469.
struct snapkv {
  using stage = scorer_tag;
  using needs = needs_list<needs_window_queries>;

  struct options {
    index_t window = 32;  ///< newest queries that vote, always kept (authors' default 32)
    index_t pool = 5;     ///< pooling kernel, odd (authors' default 5)
    pooling kind = pooling::average;              ///< authors' default
    head_reduction heads = head_reduction::mean;  ///< kvpress
  };
  options opt = {};

  [[nodiscard]] constexpr index_t protected_recent() const noexcept { return opt.window; }
  [[nodiscard]] constexpr index_t scratch_floats(extents const& e) const noexcept {
    return ops::window_scratch_floats(e, opt.window);
  }

  template <class Cache, class Evidence>
  [[nodiscard]] status check(Cache const& cache, Evidence const& evidence) const noexcept {
    auto const& q = detail::find_window(evidence).queries;
    auto const& e = cache.extent;
    if (opt.window < 1 || opt.pool < 1 || opt.pool % 2 == 0)
      return detail::fail(errc::invalid_option, "kvslim: snapkv needs window >= 1 and an odd pool");
    if (q.data == nullptr)
      return detail::fail(errc::invalid_pointer,
                          "kvslim: snapkv's window queries are a null pointer");
    if (q.sequences != e.sequences || q.head_dim != e.head_dim || q.tokens != opt.window ||
        q.heads < 1 || q.heads % e.kv_heads != 0)
      return detail::fail(
          errc::invalid_shape,
          "kvslim: snapkv's window queries must be [sequences, n * kv_heads, window, head_dim]");
    if constexpr (std::same_as<typename Cache::space, host_space>) {
      for (index_t s = 0; s < e.sequences; ++s)
        if (cache.length(s) <= opt.window)
          return detail::fail(errc::invalid_shape,
                              "kvslim: snapkv's window must be shorter than every sequence");
      for (index_t s = 0; s < q.sequences; ++s)
        for (index_t h = 0; h < q.heads; ++h)
          for (index_t w = 0; w < q.tokens; ++w)
            if (!ops::within(q.row(s, h, w), q.layout.channel, q.head_dim, 3.0e38f))
              return detail::fail(errc::non_finite,
                                  "kvslim: snapkv's window queries hold NaN or infinity");
    }
    return {};
  }

  template <class Exec, class Cache, class Evidence>
  [[nodiscard]] status score(Exec const& exec, Cache const& cache, Evidence const& evidence,
                             score_view out, float* scratch) const {
    return ops::window_scores(exec, cache, detail::find_window(evidence).queries,
                              {opt.kind, opt.pool, opt.heads}, out, scratch);
  }
};
static_assert(scorer<snapkv>);

KVSLIM_END_NAMESPACE
