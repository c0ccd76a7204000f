// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// LU-KV gives every head the part of a prompt that a search over future utility found for it once,
// for a model, a scorer and a ratio. "Predicting Future Utility: Global Combinatorial Optimization
// for Task-Agnostic KV Cache Eviction", arXiv:2602.08585. The authors' curves (baidu-baige/LU-KV)
// as NVIDIA/kvpress 0.5.5 uses them, lukv_press.py.
//
// Fidelity: kvpress looks up a curve [99, layers, kv_heads] by the ratio; `removed` is that row of
// it, `lukv_row` says which.
// Fidelity: every head keeps at least one token, which may exceed a layer's sum, as in kvpress.
// Fidelity: of equal fractions earlier heads round up; kvpress leaves that open.
// Fidelity: kvpress protects by scores, so sinks and the newest survive only in a head that keeps
// that many; here too, in the same order.

#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Index of the curve's row for a ratio of removed tokens, rounded as kvpress does.
[[nodiscard]] constexpr index_t lukv_row(double removed) noexcept {
  if (!(removed > 0.0)) return 0;
  if (removed >= 1.0) return 98;
  double const percent = removed * 100.0;
  auto const whole = static_cast<index_t>(percent);
  double const fraction = percent - static_cast<double>(whole);
  index_t const rounded = whole + (fraction > 0.5 || (fraction == 0.5 && whole % 2 == 1) ? 1 : 0);
  return detail::max(0, detail::min(98, rounded - 1));
}

/// A part of the prompt per layer and KV head, from a table in memory of the executor's; the heads
/// of a layer share what rounding leaves. The sequences of a view are layers, one request after the
/// other; for a view of one layer point to its part of the table.
/// Requires: parts in [0, 1] of which a layer's heads keep at most `kept` on average, kv_heads of
/// the view's (looked at where the table is in host memory; elsewhere more is cut), sinks and
/// recent
/// >= 0. Returns: invalid_option, invalid_pointer, invalid_shape. Cost: one read of the table.
/// Source: arXiv:2602.08585.
template <class Space = host_space>
struct lukv {
  static constexpr quota_traits traits{.table = memory_of<Space>};

  struct options {
    float const* removed = nullptr;  ///< [layers, kv_heads] part of its tokens that a head drops
    index_t layers = 1;
    index_t kv_heads = 1;  ///< of a layer
    double kept = 1.0;     ///< no layer keeps more of its tokens: what storage is planned for
    index_t sinks = 4;     ///< first tokens, kept first (kvpress)
    index_t recent = 1;    ///< newest tokens, kept next (kvpress)
  };
  options opt = {};

  [[nodiscard]] constexpr status check(extents const& e) const noexcept {
    auto const among = [](index_t x, index_t low, index_t high) { return x >= low && x <= high; };
    if (!among(opt.layers, 1, extents::most_rows) ||
        !among(opt.kv_heads, 1, extents::most_rows / opt.layers) ||
        !(opt.kept > 0.0 && opt.kept <= 1.0) || !among(opt.sinks, 0, extents::most_tokens) ||
        !among(opt.recent, 0, extents::most_tokens))
      return detail::fail(errc::invalid_option,
                          "kvslim: lukv needs layers and kv_heads >= 1, kept in (0, 1], sinks and "
                          "recent >= 0");
    if (opt.removed == nullptr)
      return detail::fail(errc::invalid_pointer, "kvslim: lukv was given no table");
    if (opt.kv_heads != e.kv_heads || e.sequences % opt.layers != 0)
      return detail::fail(errc::invalid_shape,
                          "kvslim: lukv's kv_heads must be those of the view, its layers must "
                          "divide the sequences");
    if constexpr (std::same_as<Space, host_space>)
      for (index_t l = 0; l < opt.layers; ++l) {
        double sum = 0.0;
        for (index_t h = 0; h < opt.kv_heads; ++h) {
          float const x = opt.removed[l * opt.kv_heads + h];
          if (!(x >= 0.0f && x <= 1.0f))
            return detail::fail(errc::invalid_option, "kvslim: lukv's parts must be in [0, 1]");
          sum += static_cast<double>(1.0f - x);
        }
        if (sum > opt.kept * static_cast<double>(opt.kv_heads) * (1.0 + 1e-6))
          return detail::fail(errc::invalid_option,
                              "kvslim: a layer of lukv's table keeps more than .kept");
      }
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr row_group group() const noexcept { return {1, opt.kv_heads}; }
  [[nodiscard]] KVSLIM_HD constexpr index_t most(extents const& e) const noexcept {
    return e.tokens;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t total(extents const& e) const noexcept {
    index_t const all = opt.kv_heads * e.tokens;
    // Rounding, and heads that keep one token at least.
    return detail::min(all,
                       static_cast<index_t>(opt.kept * (1.0 + 1e-6) * static_cast<double>(all)) +
                           opt.kv_heads + 1);
  }
  KVSLIM_HD void allocate(slice<row_facts const> facts, slice<quota> out) const noexcept {
    index_t tokens = 0, given = 0;
    for (row_facts const& f : facts) tokens = detail::max(tokens, f.tokens);
    float sum = 0.0f;
    for (index_t i = 0; i < out.size; ++i) {
      float const x = ideal(facts[i], tokens);
      sum += x;
      out[i].count = static_cast<index_t>(x);
      given += out[i].count;
    }
    index_t const target =
        detail::max(out.size, detail::min(out.size * tokens, rounded(static_cast<double>(sum))));
    // What rounding down has left goes to the largest fractions, to earlier heads among equals.
    for (index_t i = 0; i < out.size; ++i) {
      index_t before = 0;
      float const mine = fraction(facts[i], tokens);
      for (index_t j = 0; j < out.size; ++j) {
        float const other = fraction(facts[j], tokens);
        before += other > mine || (other == mine && j < i) ? 1 : 0;
      }
      index_t const count = out[i].count + (before < target - given ? 1 : 0);
      out[i] = {.count = detail::max(1, detail::min(count, tokens)),
                .sinks = opt.sinks,
                .recent = detail::max(opt.recent, facts[i].recent)};
    }
  }

 private:
  /// Tokens that a head keeps, in float as kvpress computes them.
  [[nodiscard]] KVSLIM_HD float ideal(row_facts const& f, index_t tokens) const noexcept {
    float const rest = 1.0f - opt.removed[f.row % (opt.layers * opt.kv_heads)];
    float const part = rest > 0.0f ? (rest < 1.0f ? rest : 1.0f) : 0.0f;
    // Volatile: a fused multiply-add into the sum would round otherwise than a product.
    float const volatile count = part * static_cast<float>(tokens);
    return count;
  }
  [[nodiscard]] KVSLIM_HD float fraction(row_facts const& f, index_t tokens) const noexcept {
    float const x = ideal(f, tokens);
    return x - static_cast<float>(static_cast<index_t>(x));
  }
  /// Halves to even.
  [[nodiscard]] KVSLIM_HD static index_t rounded(double x) noexcept {
    auto const whole = static_cast<index_t>(x);
    double const fraction = x - static_cast<double>(whole);
    return whole + (fraction > 0.5 || (fraction == 0.5 && whole % 2 == 1) ? 1 : 0);
  }
};
static_assert(quota_policy<lukv<>>);

KVSLIM_END_NAMESPACE
