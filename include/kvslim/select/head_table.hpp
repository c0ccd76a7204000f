// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Budgets that somebody measured once for a model: one for every layer and KV head, out of a table.
// HeadKV makes such tables from how much each head retrieves and reasons: "Not All Heads Matter: A
// Head-Level KV Cache Compression Method with Integrated Retrieval and Reasoning",
// arXiv:2410.19258, section 3.2. Authors' code: FYYFU/HeadKV 0862a09, headkv/snapkv_utils.py,
// ReasonSnapKVCluster: `headkv_counts` is its rule.
//
// Fidelity: the authors keep K and V of every query head; a table here speaks of KV heads. Under
// grouped queries reduce the heads' importance first (KVCache-Factory means their budgets).
// Fidelity: a budget above a prompt's length is cut and not given to others, as theirs; a prompt
// shorter than the mean budget stays whole, `.whole_below`.
// Fidelity: their scores are SnapKV's, not grouped:
// `snapkv{{.window = 8, .pool = 7, .kind = pooling::maximum}}`.

#include <kvslim/core/concepts.hpp>

#include <cmath>

KVSLIM_BEGIN_NAMESPACE

/// A budget per layer and KV head, read from memory of the executor's. The sequences of a view are
/// layers, one request after the other; for a view of one layer point to its part of the table.
/// Requires: counts in [0, most] whose sum is at most total, kv_heads of the view's (looked at
/// where the table is in host memory; elsewhere more is cut). Returns: invalid_option,
/// invalid_pointer, invalid_shape. Cost: one read of the table. Source: arXiv:2410.19258.
template <class Space = host_space>
struct head_table {
  static constexpr quota_traits traits{.rows_apart = true, .table = memory_of<Space>};

  struct options {
    std::int32_t const* counts = nullptr;  ///< [layers, kv_heads] tokens kept, protected included
    index_t layers = 1;
    index_t kv_heads = 1;     ///< of a layer
    index_t most = 0;         ///< no count is larger
    index_t total = 0;        ///< no sum is; 0: not known, every row gets storage for `most`
    index_t sinks = 0;        ///< first tokens of every row, kept first
    index_t recent = 0;       ///< newest tokens of every row, kept next
    index_t whole_below = 0;  ///< a prompt of fewer tokens is kept
  };
  options opt = {};

  [[nodiscard]] constexpr status check(extents const& e) const noexcept {
    constexpr index_t tokens = extents::most_tokens;
    auto const among = [](index_t x, index_t low, index_t high) { return x >= low && x <= high; };
    if (!among(opt.layers, 1, extents::most_rows) ||
        !among(opt.kv_heads, 1, extents::most_rows / opt.layers) || !among(opt.most, 1, tokens) ||
        !among(opt.total, 0, tokens * rows()) || !among(opt.sinks, 0, tokens) ||
        !among(opt.recent, 0, tokens) || !among(opt.whole_below, 0, tokens))
      return detail::fail(errc::invalid_option,
                          "kvslim: head_table needs layers, kv_heads and most >= 1, and total, "
                          "sinks, recent and whole_below >= 0");
    if (opt.counts == nullptr)
      return detail::fail(errc::invalid_pointer, "kvslim: head_table was given no table");
    if (opt.kv_heads != e.kv_heads)
      return detail::fail(errc::invalid_shape,
                          "kvslim: head_table's kv_heads must be those of the view");
    if constexpr (std::same_as<Space, host_space>) {
      index_t sum = 0;
      for (index_t i = 0; i < rows(); ++i) {
        sum += opt.counts[i];
        if (!among(opt.counts[i], 0, opt.most) || (opt.total > 0 && sum > opt.total))
          return detail::fail(errc::invalid_option,
                              "kvslim: head_table's counts must be in [0, most], their sum at "
                              "most its total");
      }
    }
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr row_group group() const noexcept {
    return {opt.layers, opt.kv_heads};
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t most(extents const&) const noexcept {
    return detail::max(opt.most, opt.whole_below - 1);
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t total(extents const&) const noexcept {
    index_t const given = opt.total > 0 ? opt.total : rows() * opt.most;
    return detail::max(given, rows() * (opt.whole_below - 1));
  }
  KVSLIM_HD constexpr void allocate(slice<row_facts const> facts, slice<quota> out) const noexcept {
    index_t tokens = 0;  // of the prompt: its layers may have lost some already
    for (row_facts const& f : facts) tokens = detail::max(tokens, f.tokens);
    for (index_t i = 0; i < out.size; ++i) {
      row_facts const& f = facts[i];
      out[i] = {.count = tokens < opt.whole_below ? f.tokens : opt.counts[f.row % rows()],
                .sinks = opt.sinks,
                .recent = detail::max(opt.recent, f.recent)};
    }
  }

 private:
  [[nodiscard]] KVSLIM_HD constexpr index_t rows() const noexcept {
    return opt.layers * opt.kv_heads;
  }
};
static_assert(quota_policy<head_table<>>);

/// How HeadKV turns the importance of heads into budgets.
struct headkv_options {
  index_t budget = 0;        ///< tokens per head on average, the window included
  index_t window = 8;        ///< kept by every head (authors' scripts)
  double beta = 1.2;         ///< budget / beta is given by importance (paper's range 1.005 to 10)
  double temperature = 1.0;  ///< exponent of the importance (authors' default)
};

/// Counts for head_table from any importances >= 0 of all heads of a model, layer after layer.
/// Returns: invalid_option (options, or importances that are negative, no numbers or all 0),
/// invalid_shape (sizes that differ); then nothing is written. Source: arXiv:2410.19258.
inline status headkv_counts(slice<double const> importance, headkv_options const& opt,
                            slice<std::int32_t> out) noexcept {
  if (importance.size != out.size || out.size < 1)
    return detail::fail(errc::invalid_shape, "kvslim: headkv_counts needs one count for each head");
  double sum = 0.0, weights = 0.0;
  for (double const x : importance) sum += x >= 0.0 ? x : std::nan("");
  if (!(opt.window >= 0 && opt.budget > opt.window && opt.budget <= extents::most_tokens &&
        opt.beta >= 1.0 && opt.temperature > 0.0 && sum > 0.0 && std::isfinite(sum)))
    return detail::fail(errc::invalid_option,
                        "kvslim: headkv_counts needs budget > window >= 0, beta >= 1, "
                        "temperature > 0 and importances >= 0, not all 0");
  auto const weight = [&](double x) { return std::pow(x / sum, opt.temperature); };
  for (double const x : importance) weights += weight(x);
  if (!(weights > 0.0))
    return detail::fail(errc::invalid_option, "kvslim: the temperature leaves no importance");
  auto const base = static_cast<double>(opt.budget - opt.window);
  double const shared = std::floor(base / opt.beta), pool = shared * static_cast<double>(out.size);
  for (index_t i = 0; i < out.size; ++i) {
    double const x = weight(importance[i]) / weights * pool + (base - shared);
    double const most = static_cast<double>(extents::most_tokens - opt.window);
    out[i] = static_cast<std::int32_t>(std::nearbyint(x < most ? x : most) +
                                       static_cast<double>(opt.window));
  }
  return {};
}

KVSLIM_END_NAMESPACE
