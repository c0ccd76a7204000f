// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// PyramidKV gives lower layers, whose attention is spread out, larger budgets than higher ones,
// along an arithmetic sequence. "PyramidKV: Dynamic KV Cache Compression based on Pyramidal
// Information Funneling", arXiv:2406.02069. Authors' code: Zefan-Cai/KVCache-Factory c97f9d7,
// pyramidkv_utils.py, PyramidKVCluster; the other rule: NVIDIA/kvpress 0.5.5, pyramidkv_press.py.
//
// Fidelity: the paper's sequence sums to layers * budget: `pyramid::exact` (rounded down, what is
// left goes to the largest fractions, lower layers first). The authors round the step of the
// sequence down, which keeps up to layers / 2 tokens a layer too many: `pyramid::authors`. A prompt
// below the budget is kept, one below twice the budget gets even budgets, in both.
// Fidelity: kvpress computes with a real-valued mean, counts the window inside it, rounds each
// layer by itself and falls back to even budgets when the smallest would be below the window:
// `pyramid::kvpress`.
// Fidelity: the authors' scores are SnapKV's, their group reduced before pooling:
// `snapkv{{.window = 8, .pool = 7, .kind = pooling::maximum, .reduce_first = true}}`. Budgets are
// those of the prompt; nothing is evicted while decoding.

#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// How budgets lie along the layers.
enum class pyramid : std::uint8_t { exact, authors, kvpress };

/// A budget for each layer, the same for its heads. The sequences of a view are its layers, one
/// request after the other; or the view holds one layer alone, `.layer` of them.
/// Requires: budget >= 1, beta >= 1, layers and kv_heads >= 1 (invalid_option), a view of all
/// layers or one (invalid_shape). Cost: arithmetic. Source: arXiv:2406.02069.
struct pyramidkv {
  static constexpr quota_traits traits{};

  struct options {
    index_t budget = 0;    ///< tokens per KV head, on average over layers, the window included
    index_t layers = 1;    ///< of the model
    index_t kv_heads = 1;  ///< of a layer
    index_t layer = -1;    ///< the one that all sequences of the view are of; -1: they are layers
    index_t beta = 20;     ///< the last layer's part of the mean is 1 / beta (authors' default)
    pyramid rule = pyramid::exact;
    double mean = 0.0;  ///< kvpress: tokens * (1 - removed), may be fractional; 0: the budget
  };
  options opt = {};

  [[nodiscard]] constexpr status check(extents const&) const noexcept {
    auto const among = [](index_t x, index_t most) { return x >= 1 && x <= most; };
    if (!among(opt.budget, extents::most_tokens) || !among(opt.beta, extents::most_tokens) ||
        !among(opt.layers, most_layers) || !among(opt.kv_heads, extents::most_rows) ||
        opt.layer < -1 || opt.layer >= opt.layers ||
        !(opt.mean >= 0.0 && opt.mean <= static_cast<double>(opt.budget)))
      return detail::fail(errc::invalid_option,
                          "kvslim: pyramidkv needs a budget and beta >= 1, up to 1024 layers, "
                          "layer < layers, and a mean that is at most the budget");
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr row_group group() const noexcept {
    return {opt.layer < 0 ? opt.layers : 1, opt.kv_heads};
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t most(extents const&) const noexcept {
    bool const upper = opt.layer >= 0 && 2 * opt.layer >= opt.layers;
    return upper ? opt.budget + opt.layers : 2 * opt.budget;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t total(extents const& e) const noexcept {
    if (opt.layer >= 0) return opt.kv_heads * most(e);
    // Rounding the step down adds less than half the layers to each of them.
    index_t const drift = opt.rule == pyramid::exact ? 0 : opt.layers / 2 + 1;
    return opt.kv_heads * opt.layers * (opt.budget + drift);
  }
  KVSLIM_HD void allocate(slice<row_facts const> facts, slice<quota> out) const noexcept {
    index_t tokens = 0;  // of the prompt: its layers may have lost some already
    for (row_facts const& f : facts) tokens = detail::max(tokens, f.tokens);
    for (index_t i = 0; i < out.size; i += opt.kv_heads) {
      index_t const layer = opt.layer < 0 ? i / opt.kv_heads : opt.layer;
      index_t const count = opt.rule == pyramid::kvpress
                                ? kvpress_budget(layer, tokens, facts[i].recent)
                                : layer_budget(layer, tokens, facts[i].recent);
      for (index_t h = i; h < i + opt.kv_heads; ++h)
        out[h] = {.count = count, .recent = facts[h].recent};
    }
  }

 private:
  static constexpr index_t most_layers = 1024;

  /// In whole numbers, as the authors count; `recent` is the window, which every layer keeps.
  [[nodiscard]] KVSLIM_HD index_t layer_budget(index_t layer, index_t tokens,
                                               index_t recent) const noexcept {
    index_t const base = detail::max(0, opt.budget - recent), steps = opt.layers - 1;
    // Nothing to evict, too short for a slope, or one layer (the authors divide by zero).
    if (tokens < opt.budget || tokens < 2 * base || steps == 0) return opt.budget;
    index_t low = base / opt.beta, high = 2 * base - low;
    if (high >= tokens - recent) {
      high = tokens - recent;
      low = 2 * base - high;
    }
    if (opt.rule == pyramid::authors) return high - layer * ((high - low) / steps) + recent;
    auto const scaled = [&](index_t l) { return high * steps - l * (high - low); };
    index_t rest = opt.layers * base, before = 0;
    for (index_t l = 0; l < opt.layers; ++l) {
      rest -= scaled(l) / steps;
      index_t const other = scaled(l) % steps, mine = scaled(layer) % steps;
      before += other > mine || (other == mine && l < layer) ? 1 : 0;
    }
    return scaled(layer) / steps + (before < rest ? 1 : 0) + recent;
  }
  /// In real numbers, as kvpress does, the window counted in.
  [[nodiscard]] KVSLIM_HD index_t kvpress_budget(index_t layer, index_t tokens,
                                                 index_t recent) const noexcept {
    double const n = static_cast<double>(tokens), window = static_cast<double>(recent);
    double const mean = opt.mean > 0.0 ? opt.mean : static_cast<double>(opt.budget);
    double const base = window + mean - window;
    double low = base / static_cast<double>(opt.beta), high = base * 2.0 - low;
    if (high >= n - window) {
      high = n - window;
      low = base * 2.0 - high;
    }
    if (!(n >= high && high >= low && low >= window) || opt.layers == 1) return rounded(mean);
    // Volatile: a fused multiply-subtract would round halves that are ties elsewhere.
    double const volatile down =
        static_cast<double>(layer) * ((high - low) / static_cast<double>(opt.layers - 1));
    return rounded(high - down);
  }
  /// Halves to even.
  [[nodiscard]] KVSLIM_HD static index_t rounded(double x) noexcept {
    auto const whole = static_cast<index_t>(x);
    double const fraction = x - static_cast<double>(whole);
    return whole + (fraction > 0.5 || (fraction == 0.5 && whole % 2 == 1) ? 1 : 0);
  }
};
static_assert(quota_policy<pyramidkv>);

KVSLIM_END_NAMESPACE
