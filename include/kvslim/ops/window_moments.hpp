// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/ops/attention_mass.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

struct moment_options {
  index_t kernel = 1;  ///< odd; of the average pooling
  float gamma = 0.0f;  ///< weight of the variance in a score
};

/// Of what the window's queries pay to one token: sums of p, of its square, and of -p log p.
struct paid_moments {
  double sum = 0.0, squares = 0.0, entropy = 0.0;

  KVSLIM_HD void add(float p) noexcept {
    double const x = static_cast<double>(p);
    sum += x;
    squares += x * x;
    entropy -= x * static_cast<double>(std::log(p + 1e-10f));
  }
  [[nodiscard]] KVSLIM_HD float mean(index_t queries) const noexcept {
    return static_cast<float>(sum / static_cast<double>(queries));
  }
  /// Unbiased.
  [[nodiscard]] KVSLIM_HD float variance(index_t queries) const noexcept {
    auto const n = static_cast<double>(queries);
    double const x = (squares - sum * sum / n) / (n - 1.0);
    return x > 0.0 ? static_cast<float>(x) : 0.0f;
  }
};

/// Floats of scratch that window_moments needs for each row: attention_mass' and two of every
/// token.
[[nodiscard]] KVSLIM_HD constexpr index_t window_moments_floats(extents const& e,
                                                                index_t window) noexcept {
  return mass_floats(e, window) + 2 * e.tokens;
}

struct window_moments_op {};

/// Scores by the mean and the variance, over the newest `window` queries, of the attention to every
/// earlier token: mean + gamma * variance, pooled along the text per query head, then averaged over
/// the query heads of each KV head. Rows' statistics, if asked for, are sums over their query heads
/// and earlier tokens. The window's own scores, and rows no longer than it, are 0.
///
/// Shapes, cost: as attention_mass(). Requires: window >= 2. Source: arXiv:2503.12491.
template <class Exec, class Text, class Queries>
status window_moments(Exec const& exec, Text const& text, Queries const& queries,
                      moment_options options, score_view out, float* scratch) {
  return implementation<window_moments_op, Exec>::run(exec, text, queries, options, out, scratch);
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::window_moments_op, Exec> {
  template <class Text, class Queries>
  static status run(Exec const& exec, Text const& text, Queries const& queries,
                    ops::moment_options options, score_view out, float* scratch) {
    auto const e = text.extents();
    index_t const group = queries.heads / e.kv_heads, window = queries.tokens;
    index_t const row_floats = ops::window_moments_floats(e, window);
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const s = r / e.kv_heads, h = r % e.kv_heads;
      index_t const length = text.tokens(s, h), prefix = detail::max(0, length - window);
      float* const held = scratch + r * row_floats;  // [2, tokens]
      float* const work = held + 2 * e.tokens;
      float* const scores = out.row(r);
      double entropy = 0.0, variance = 0.0;
      for (index_t t = 0; t < e.tokens; ++t) scores[t] = 0.0f;
      index_t const room = ops::pooled_heads::room(options.kernel, detail::max(1, prefix)),
                    together = detail::min(ops::heads_together(window), 2 * e.tokens / room);
      for (index_t g = 0; g < group && prefix > 0; g += together) {
        ops::query_block const b{s, h, 0, window, h * group + g, detail::min(together, group - g)};
        ops::pooled_heads pools{pooling::average, options.kernel, prefix, b.heads, held};
        ops::attention_shares(
            text, queries, {}, b, length, prefix, work, [](index_t) { return 1.0f; },
            [&](index_t, index_t n, float const* x) {
              float* const to = pools.next();
              for (index_t j = 0; j < b.heads; ++j)
                for (index_t i = 0; i < n; ++i) {
                  ops::paid_moments m;
                  for (index_t w = 0; w < window; ++w) m.add(x[i * b.lanes() + j * window + w]);
                  float const spread = m.variance(window);
                  to[j * room + i] = m.mean(window) + options.gamma * spread;
                  entropy += m.entropy;
                  variance += static_cast<double>(spread);
                }
              pools.arrived(n, [&](index_t t, index_t m, float const* mass) {
                for (index_t i = 0; i < m; ++i)
                  scores[t + i] += mass[i] / static_cast<float>(group);
              });
            });
      }
      if (out.statistics != nullptr)
        out.statistics[r] = {static_cast<float>(entropy), static_cast<float>(variance)};
    });
    return {};
  }
};

KVSLIM_END_NAMESPACE
