// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// CAKE shares one budget among the layers by preference: how spread out a layer's attention is, and
// how much it shifts from query to query. "CAKE: Cascading and Adaptive KV Cache Eviction with
// Layer Preferences", arXiv:2503.12491, sections 3 and 4. Authors' code: antgroup/cakekv c4675ce,
// cake/cake_cache.py, CakeprefillKVCache, and cake/utils.py, adjust_budgets.
//
// Fidelity: the budgets are those once all layers were seen, the authors' plain form. Their
// cascading form evicts layer by layer for a lower peak; as budgets only shrink while layers join,
// it ends with the same tokens. Here that is compress() over the layers seen, then recompress().
// Fidelity: a budget above the prompt's length is cut, and what that leaves is given out once, as
// the authors do; so the layers' sum may stay below the total.
// Fidelity: preferences are float products as theirs; the shares of the total are computed in
// double, theirs in float, which may move a budget by one.
// Fidelity: layers without any preference share evenly; the authors divide by zero.
// Fidelity: preferences of a request are its own; the authors' batch shares one.

#include <kvslim/core/concepts.hpp>

#include <cmath>

KVSLIM_BEGIN_NAMESPACE

/// One budget for all layers of a request, the same for the heads of a layer. The sequences of a
/// view are layers, one request after the other. What the scorer protects (its window) counts.
/// Requires: a scorer that states statistics (cake_scores); budget, tau_entropy, tau_variance > 0,
/// slack >= 0 (invalid_option); layers and kv_heads that divide the view's (invalid_shape). Cost:
/// arithmetic. Source: arXiv:2503.12491.
struct cake {
  static constexpr quota_traits traits{.statistics = true};

  struct options {
    index_t budget = 0;         ///< tokens per head on average, the scorer's window included
    index_t layers = 1;         ///< of the model
    index_t kv_heads = 1;       ///< of a layer
    double tau_entropy = 1.0;   ///< the entropy counts by its tau-th root (authors: per model)
    double tau_variance = 1.0;  ///< likewise
    index_t slack = 32;         ///< longer prompts than budget + slack are cut (authors: window)
  };
  options opt = {};

  [[nodiscard]] constexpr status check(extents const&) const noexcept {
    auto const among = [](index_t x, index_t low, index_t high) { return x >= low && x <= high; };
    if (!among(opt.budget, 1, extents::most_tokens) || !among(opt.slack, 0, extents::most_tokens) ||
        !among(opt.layers, 1, most_layers) || !among(opt.kv_heads, 1, extents::most_rows) ||
        !(opt.tau_entropy > 0.0 && opt.tau_variance > 0.0))
      return detail::fail(errc::invalid_option,
                          "kvslim: cake needs a budget >= 1, slack >= 0, up to 1024 layers, and "
                          "both tau > 0");
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr row_group group() const noexcept {
    return {opt.layers, opt.kv_heads};
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t most(extents const& e) const noexcept {
    return detail::min(e.tokens, total(e) / opt.kv_heads);
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t total(extents const& e) const noexcept {
    return opt.layers * opt.kv_heads * detail::min(e.tokens, opt.budget + opt.slack);
  }
  KVSLIM_HD void allocate(slice<row_facts const> facts, slice<quota> out) const noexcept {
    index_t tokens = 0;  // of the prompt: its layers may have lost some already
    for (row_facts const& f : facts) tokens = detail::max(tokens, f.tokens);
    index_t const recent = facts[0].recent, base = detail::max(0, opt.budget - recent),
                  prefix = detail::max(0, tokens - recent);
    bool const whole = tokens <= opt.budget + opt.slack;
    if (!whole) share_out(facts, out, opt.layers * base, prefix);
    for (index_t i = 0; i < out.size; ++i) {
      index_t const given = out[i / opt.kv_heads * opt.kv_heads].count;
      quota& q = out[i];
      bool const first = i % opt.kv_heads == 0;
      if (whole)
        q.count = facts[i].tokens;
      else if (first)
        q.count = detail::min(opt.budget, recent) + detail::min(given, prefix);
      else
        q.count = given;  // the first head's, finished
      q.recent = facts[i].recent;
    }
  }

 private:
  static constexpr index_t most_layers = 1024;

  /// The count of a layer, which lies with its first head until all are known.
  [[nodiscard]] KVSLIM_HD index_t& of_layer(slice<quota> out, index_t layer) const noexcept {
    return out[layer * opt.kv_heads].count;
  }
  [[nodiscard]] KVSLIM_HD double preference(slice<row_facts const> facts,
                                            index_t layer) const noexcept {
    double entropy = 0.0, variance = 0.0;
    for (index_t i = layer * opt.kv_heads; i < (layer + 1) * opt.kv_heads; ++i) {
      entropy += static_cast<double>(facts[i].stated.entropy);
      variance += static_cast<double>(facts[i].stated.variance);
    }
    if (!(entropy > 0.0 && variance > 0.0)) return 0.0;
    return std::pow(entropy, 1.0 / opt.tau_entropy) * std::pow(variance, 1.0 / opt.tau_variance);
  }
  /// Tokens of the prefix for each layer, as the authors round and correct them.
  KVSLIM_HD void share_out(slice<row_facts const> facts, slice<quota> out, index_t all,
                           index_t prefix) const noexcept {
    double sum = 0.0;
    for (index_t l = 0; l < opt.layers; ++l) sum += preference(facts, l);
    index_t excess = 0, given = 0;
    for (index_t l = 0; l < opt.layers; ++l) {
      double const p = sum > 0.0 ? preference(facts, l) : 1.0;
      double const whole = sum > 0.0 ? sum : static_cast<double>(opt.layers);
      auto const raw = static_cast<index_t>(p * static_cast<double>(all) / whole);
      excess += detail::max(0, raw - prefix);
      of_layer(out, l) = detail::min(raw, prefix);
    }
    if (excess > 0) spread(out, excess, [&](index_t x) { return x < prefix; });
    for (index_t l = 0; l < opt.layers; ++l) given += of_layer(out, l);
    if (given < all) spread(out, all - given, [&](index_t x) { return x < prefix; });
    if (given > all) spread(out, all - given, [](index_t x) { return x > 1; });
  }
  /// Adds `amount` (or takes it, below 0) evenly over the layers that may, the first ones one more.
  template <class May>
  KVSLIM_HD void spread(slice<quota> out, index_t amount, May const& may) const noexcept {
    index_t able = 0;
    for (index_t l = 0; l < opt.layers; ++l) able += may(of_layer(out, l)) ? 1 : 0;
    if (able == 0) return;
    index_t const sign = amount < 0 ? -1 : 1, each = sign * amount / able;
    index_t more = sign * amount % able;
    for (index_t l = 0; l < opt.layers; ++l) {
      if (!may(of_layer(out, l))) continue;
      of_layer(out, l) += sign * (each + (more > 0 ? 1 : 0));
      --more;
    }
  }
};
static_assert(quota_policy<cake>);

KVSLIM_END_NAMESPACE
