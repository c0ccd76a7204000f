// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/concepts.hpp>
#include <kvslim/ops/rows.hpp>

KVSLIM_BEGIN_NAMESPACE

/// How the shares that a token's key and value have become one number.
enum class leverage : std::uint8_t { product, key, value, average };

namespace ops {

struct share_options {
  index_t sinks = 4;    ///< first tokens: they score 1
  index_t window = 16;  ///< consecutive tokens whose squared norms are compared; 0: no comparison
  leverage kind = leverage::product;
};

/// Floats of scratch per row: two for every token.
[[nodiscard]] KVSLIM_HD constexpr index_t norm_share_floats(extents const& e) noexcept {
  return 2 * e.tokens;
}

/// Sum of n numbers, in order.
[[nodiscard]] KVSLIM_HD inline float sum_of(float const* x, index_t n) noexcept {
  float sum = 0.0f;
  for (index_t i = 0; i < n; ++i) sum += x[i];
  return sum;
}

/// A share; of nothing: 0.
[[nodiscard]] KVSLIM_HD inline float share_of(float x, float all) noexcept {
  return all > 0.0f ? x / all : 0.0f;
}

/// The two squared norms of a token, as shares of its window's.
[[nodiscard]] KVSLIM_HD inline float combine_shares(share_options const& o, float const* keys,
                                                    float const* values, index_t t,
                                                    index_t n) noexcept {
  float key = keys[t], value = values[t];
  if (o.window > 0) {
    index_t const first = t / o.window * o.window, count = detail::min(o.window, n - first);
    key = share_of(key, sum_of(keys + first, count));
    value = share_of(value, sum_of(values + first, count));
  }
  switch (o.kind) {
    case leverage::key:
      return key;
    case leverage::value:
      return value;
    case leverage::average:
      return (key + value) / 2.0f;
    case leverage::product:
      break;
  }
  return key * value;
}

struct norm_shares_op {};

/// Scores by squared norms of keys and values: each as a share of its window's sum, put together,
/// as a share of the row's sum.
///
/// Shapes: out [rows, tokens] by rank; scratch [rows, norm_share_floats]. Cost: one pass over K and
/// V.
template <class Exec, class Text>
status norm_shares(Exec const& exec, Text const& text, share_options const& options, score_view out,
                   float* scratch) {
  return implementation<norm_shares_op, Exec>::run(exec, text, options, out, scratch);
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::norm_shares_op, Exec> {
  template <class Text>
  static status run(Exec const& exec, Text const& text, ops::share_options const& o, score_view out,
                    float* scratch) {
    auto const e = text.extents();
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const s = r / e.kv_heads, h = r % e.kv_heads, n = text.tokens(s, h);
      float* const scores = out.row(r);
      float* const keys = scratch + r * ops::norm_share_floats(e);
      float* const values = keys + e.tokens;
      for (index_t t = 0; t < n; ++t) {
        auto const k = text.key(s, h, t);
        auto const v = text.value(s, h, t);
        keys[t] = ops::dot_channels(k, k, k.size());
        values[t] = ops::dot_channels(v, v, v.size());
      }
      double all = 0.0;
      for (index_t t = 0; t < n; ++t) {
        scores[t] = ops::combine_shares(o, keys, values, t, n);
        all += static_cast<double>(scores[t]);
      }
      for (index_t t = 0; t < n; ++t)
        scores[t] = t < o.sinks ? 1.0f : ops::share_of(scores[t], static_cast<float>(all));
      for (index_t t = n; t < e.tokens; ++t) scores[t] = 0.0f;
    });
    return {};
  }
};

KVSLIM_END_NAMESPACE
