// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/concepts.hpp>
#include <kvslim/ops/rows.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// Mean [head_dim] and covariance [head_dim, head_dim] of one query head for every row, `floats`
/// apart; behind them `spare`, [head_dim, head_dim] and eight rows more.
struct moments_memory {
  float* data = nullptr;
  index_t floats = 0, dim = 0;

  [[nodiscard]] KVSLIM_HD constexpr float* mean(index_t r) const noexcept {
    return data + r * floats;
  }
  [[nodiscard]] KVSLIM_HD constexpr float* covariance(index_t r) const noexcept {
    return mean(r) + dim;
  }
  [[nodiscard]] KVSLIM_HD constexpr float* spare(index_t r) const noexcept {
    return covariance(r) + dim * dim;
  }
  /// Floats of one row, spare included.
  [[nodiscard]] static KVSLIM_HD constexpr index_t size(index_t dim) noexcept {
    return 2 * dim * dim + 9 * dim;
  }
};

/// Queries whose sum joins the row's at once, so that long prompts lose no digits.
inline constexpr index_t moments_stretch = 1024;

/// First of the queries of a row of n tokens that is neither before its first token nor a sink's;
/// they belong to the row's newest tokens.
[[nodiscard]] KVSLIM_HD constexpr index_t first_query(index_t queries, index_t n,
                                                      index_t sinks) noexcept {
  return detail::max(0, queries - n + sinks);
}

struct query_moments_op {};

/// Mean and, if wanted, covariance (divided by the number of queries) of the queries of head g of
/// every row's group, those of sinks left out; zeros where there are none.
///
/// Shapes: queries [sequence, q_head, n, head_dim], of the newest tokens. Cost: two passes over
/// the queries, 2 * head_dim^2 flop each.
template <class Exec, class Text, class Space>
status query_moments(Exec const& exec, Text const& text, rows<Space> const& queries, index_t sinks,
                     bool covariance, index_t g, moments_memory const& out) {
  return implementation<query_moments_op, Exec>::run(exec, text, queries, sinks, covariance, g,
                                                     out);
}

struct load_moments_op {};

/// The same from tables, [layers, q_head, 1, head_dim] and [layers, q_head, head_dim, head_dim];
/// layers are consecutive sequences.
template <class Exec, class Space>
status load_moments(Exec const& exec, extents const& e, rows<Space> const& mean,
                    rows<Space> const& covariance, index_t g, moments_memory const& out) {
  return implementation<load_moments_op, Exec>::run(exec, e, mean, covariance, g, out);
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::query_moments_op, Exec> {
  template <class Text, class Space>
  static status run(Exec const& exec, Text const& text, rows<Space> const& queries, index_t sinks,
                    bool covariance, index_t g, ops::moments_memory const& out) {
    auto const& e = text.extents();
    index_t const dim = e.head_dim, group = queries.heads / e.kv_heads;
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const s = r / e.kv_heads, head = r % e.kv_heads * group + g;
      index_t const first = ops::first_query(queries.tokens, text.tokens(s, r % e.kv_heads), sinks),
                    n = queries.tokens - first;
      float *const mean = out.mean(r), *const all = out.covariance(r), *const sum = out.spare(r),
                   *const some = sum + dim * dim, *const q = some + dim;
      for (index_t d = 0; d < dim; ++d) mean[d] = 0.0f;
      for (index_t i = 0; i < dim * dim && covariance; ++i) all[i] = 0.0f;
      if (n <= 0) return;
      float const share = 1.0f / static_cast<float>(n);
      for (index_t t0 = first; t0 < queries.tokens; t0 += ops::moments_stretch) {
        for (index_t d = 0; d < dim; ++d) some[d] = 0.0f;
        for (index_t t = t0; t < detail::min(queries.tokens, t0 + ops::moments_stretch); ++t) {
          queries.load(s, head, t, q);
          for (index_t d = 0; d < dim; ++d) some[d] += q[d];
        }
        for (index_t d = 0; d < dim; ++d) mean[d] += some[d] * share;
      }
      for (index_t t0 = first; covariance && t0 < queries.tokens; t0 += ops::moments_stretch) {
        index_t const end = detail::min(queries.tokens, t0 + ops::moments_stretch);
        for (index_t i = 0; i < dim * dim; ++i) sum[i] = 0.0f;
        for (index_t t = t0; t < end; t += 4) {
          for (index_t j = 0; j < 4; ++j) {
            if (t + j < end) queries.load(s, head, t + j, q + j * dim);
            for (index_t d = 0; d < dim; ++d)
              q[j * dim + d] = t + j < end ? q[j * dim + d] - mean[d] : 0.0f;
          }
          add_products(q, dim, sum);
        }
        for (index_t i = 0; i < dim * dim; ++i) all[i] += sum[i] * share;
      }
    });
    return {};
  }

 private:
  /// Adds the products of every two channels of four rows.
  static void add_products(float const* q, index_t dim, float* sum) noexcept {
    float const *const a = q, *const b = a + dim, *const c = b + dim, *const d = c + dim;
    for (index_t i = 0; i < dim; ++i) {
      float const x = a[i], y = b[i], z = c[i], w = d[i];
      float* const row = sum + i * dim;
      for (index_t j = 0; j < dim; ++j) row[j] += (x * a[j] + y * b[j]) + (z * c[j] + w * d[j]);
    }
  }
};

template <host_executor Exec>
struct implementation<ops::load_moments_op, Exec> {
  template <class Space>
  static status run(Exec const& exec, extents const& e, rows<Space> const& mean,
                    rows<Space> const& covariance, index_t g, ops::moments_memory const& out) {
    index_t const group = mean.heads / e.kv_heads;
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const s = r / e.kv_heads, head = r % e.kv_heads * group + g;
      mean.load(s % mean.sequences, head, 0, out.mean(r));
      for (index_t i = 0; i < e.head_dim && covariance.data != nullptr; ++i)
        covariance.load(s % covariance.sequences, head, i, out.covariance(r) + i * e.head_dim);
    });
    return {};
  }
};

KVSLIM_END_NAMESPACE
