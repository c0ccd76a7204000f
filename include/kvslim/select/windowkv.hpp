// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// WindowKV gives groups of layers budgets along an arithmetic sequence and keeps whole windows of
// neighbouring tokens, the same in all layers of a group. "WindowKV: Task-Adaptive Group-Wise KV
// Cache Window Selection for Efficient LLM Inference", arXiv:2503.17922. Authors' code:
// optim996/WindowKV 7513467, models/compress_utils.py, WindowKVCluster.
//
// Fidelity: the whole method is
// `pipeline{shared{snapkv{{.window = W, .pool = 1}}, {g, kv_heads}, reduce::mean, true},
// windowkv{...}, chunkkv{{.size = w}}}`: the first layer of a group decides for all g, by the mean
// over heads and over a window. That is the authors' strategy `average`; their `max`, the mean of
// each head's best tokens in a window, is not offered.
// Fidelity: the authors round the step of the sequence down and the windows that go up; where the
// last, shorter window goes, a layer keeps more than its budget, as theirs.
// Fidelity: a layer that keeps all or only the newest leaves its group without a decision in the
// authors' code, which then uses that of another prompt; here each layer has its own.
// Fidelity: one group has no sequence (the authors divide by zero): it gets the mean.

#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Budgets of layers in whole windows, for chunkkv of the same size. The sequences of a view are
/// layers, one request after the other.
/// Requires: budget, size >= 1, layers a multiple of group_layers, group_layers <= beta
/// (invalid_option), layers and kv_heads that divide the view's (invalid_shape). What the scorer
/// protects is `recent` at most. Cost: arithmetic. Source: arXiv:2503.17922.
struct windowkv {
  static constexpr quota_traits traits{};

  struct options {
    index_t budget = 0;        ///< tokens per head on average, without the newest
    index_t layers = 1;        ///< of the model
    index_t kv_heads = 1;      ///< of a layer
    index_t group_layers = 8;  ///< layers that keep the same (authors' scripts)
    index_t size = 16;         ///< tokens of a window (authors' scripts 8 to 32)
    index_t beta = 14;         ///< the last group's part (authors' scripts)
    index_t recent = 32;       ///< newest tokens, kept beside the budget (authors' suffix)
  };
  options opt = {};

  [[nodiscard]] constexpr status check(extents const&) const noexcept {
    auto const among = [](index_t x, index_t most) { return x >= 1 && x <= most; };
    constexpr index_t tokens = extents::most_tokens;
    if (!among(opt.budget, tokens) || !among(opt.layers, most_layers) ||
        !among(opt.kv_heads, extents::most_rows) || !among(opt.group_layers, opt.layers) ||
        opt.layers % opt.group_layers != 0 || !among(opt.size, tokens) ||
        !among(opt.beta, tokens) || opt.group_layers > opt.beta || opt.recent < 0 ||
        opt.recent > tokens)
      return detail::fail(errc::invalid_option,
                          "kvslim: windowkv needs a budget and a size >= 1, up to 1024 layers that "
                          "are a multiple of group_layers, group_layers <= beta, and recent >= 0");
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr row_group group() const noexcept {
    return {opt.layers, opt.kv_heads};
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t most(extents const& e) const noexcept {
    return detail::min(e.tokens, 2 * opt.budget + opt.size + opt.recent);
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t total(extents const&) const noexcept {
    index_t sum = 0;
    for (index_t l = 0; l < opt.layers; ++l) sum += layer_budget(l) + opt.size + opt.recent;
    return opt.kv_heads * sum;
  }
  KVSLIM_HD constexpr void allocate(slice<row_facts const> facts, slice<quota> out) const noexcept {
    for (index_t i = 0; i < out.size; ++i) {
      row_facts const& f = facts[i];
      index_t const recent = detail::max(opt.recent, f.recent),
                    prefix = detail::max(0, f.tokens - recent),
                    budget = layer_budget(i / opt.kv_heads);
      index_t const windows = detail::div_up(prefix, opt.size),
                    gone = detail::div_up(detail::max(0, prefix - budget), opt.size);
      index_t const count = recent + detail::max(0, windows - gone) * opt.size;
      out[i] = {.count = prefix <= budget ? f.tokens : count, .recent = recent};
    }
  }

 private:
  static constexpr index_t most_layers = 1024;

  /// Of the prefix, along the sequence of groups.
  [[nodiscard]] KVSLIM_HD constexpr index_t layer_budget(index_t layer) const noexcept {
    index_t const groups = opt.layers / opt.group_layers, at = layer / opt.group_layers;
    if (groups == 1) return opt.budget;
    index_t const last = opt.budget * opt.group_layers / opt.beta, first = 2 * opt.budget - last;
    return at == groups - 1 ? last : first - at * ((first - last) / (groups - 1));
  }
};
static_assert(quota_policy<windowkv>);

KVSLIM_END_NAMESPACE
