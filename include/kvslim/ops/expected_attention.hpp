// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/ops/finite.hpp>
#include <kvslim/ops/query_lanes.hpp>
#include <kvslim/ops/query_moments.hpp>
#include <kvslim/ops/rope.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

struct expected_options {
  rope rotation = {};
  float scaling = 1.0f;  ///< of cos and sin
  index_t future = 512;  ///< positions behind the newest that queries may come from
  index_t sinks = 4;     ///< first tokens: they take no part and score largest_float
  bool covariance = true;
  bool value_norm = true;
  float epsilon = 0.0f;
};

/// Floats of scratch per row: the moments, rotations of every channel, and a logit a token.
[[nodiscard]] KVSLIM_HD constexpr index_t expected_floats(extents const& e) noexcept {
  return moments_memory::size(e.head_dim) + detail::max(e.head_dim, e.value_width()) + e.tokens;
}
[[nodiscard]] KVSLIM_HD constexpr float* expected_rotations(moments_memory const& m,
                                                            index_t r) noexcept {
  return m.mean(r) + moments_memory::size(m.dim);
}
[[nodiscard]] KVSLIM_HD constexpr float* expected_logits(moments_memory const& m, extents const& e,
                                                         index_t r) noexcept {
  return expected_rotations(m, r) + detail::max(e.head_dim, e.value_width());
}

/// Means of cos and sin of pair i over the positions [first, first + future), scaled. In closed
/// form, in double.
KVSLIM_HD inline void mean_rotation(expected_options const& o, index_t head_dim, std::int64_t first,
                                    index_t i, float& c, float& s) noexcept {
  constexpr double turn = 6.283185307179586;
  double const theta = std::fmod(o.rotation.frequency(head_dim, i), turn);
  auto const n = static_cast<double>(o.future);
  double const half = std::sin(theta / 2);
  double const length = std::fabs(half) < 1e-9 ? 1.0 : std::sin(n * theta / 2) / (n * half);
  double const angle = (static_cast<double>(first) + (n - 1) / 2) * theta;
  c = static_cast<float>(length * std::cos(angle)) * o.scaling;
  s = static_cast<float>(length * std::sin(angle)) * o.scaling;
}

/// Rotates the pair (a, b).
KVSLIM_HD inline void turn_pair(float c, float s, float& a, float& b) noexcept {
  float const x = a, y = b;
  a = x * c - y * s;
  b = y * c + x * s;
}

struct expected_attention_op {};

/// The attention that query head g, of the moments in `m` (which change), is expected to pay to
/// every token: softmax over ranks from `sinks` on of mean . k / sqrt(D) + k' cov k / (2 D), the
/// moments rotated to where queries will come from. Adds a group's share of it to out, which the
/// first head of a group sets; the last makes it (x + epsilon) * ||v||.
///
/// Shapes: out [rows, tokens] by rank; scratch [rows, expected_floats], which `m` starts. Cost: one
/// pass over K, 2 * head_dim^2 flop a token with the covariance.
template <class Exec, class Text>
status expected_attention(Exec const& exec, Text const& text, expected_options const& options,
                          index_t g, index_t group, moments_memory const& m, score_view out) {
  return implementation<expected_attention_op, Exec>::run(exec, text, options, g, group, m, out);
}

/// What a head's share of its group becomes at last.
[[nodiscard]] KVSLIM_HD inline float expected_score(expected_options const& o, float mean,
                                                    float norm) noexcept {
  return o.value_norm ? (mean + o.epsilon) * norm : mean;
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::expected_attention_op, Exec> {
  template <class Text>
  static status run(Exec const& exec, Text const& text, ops::expected_options const& o, index_t g,
                    index_t group, ops::moments_memory const& m, score_view out) {
    auto const e = text.extents();
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const s = r / e.kv_heads, h = r % e.kv_heads, n = text.tokens(s, h);
      float* const scores = out.row(r);
      float* const p = ops::expected_logits(m, e, r);
      rotate(o, m, r, text.next_position(s, h));
      for (index_t t = 0; g == 0 && t < e.tokens; ++t)
        scores[t] = t < detail::min(n, o.sinks) ? ops::largest_float : 0.0f;
      logits(text, o, m, s, h, p);
      float most = -INFINITY;
      for (index_t t = o.sinks; t < n; ++t) most = p[t] > most ? p[t] : most;
      double total = 0.0;
      for (index_t t = o.sinks; t < n; ++t) {
        p[t] = most == -INFINITY ? 0.0f : ops::exp_nonpositive(p[t] - most);
        total += static_cast<double>(p[t]);
      }
      float const share =
          total > 0.0 ? static_cast<float>(1.0 / total) / static_cast<float>(group) : 0.0f;
      for (index_t t = o.sinks; t < n; ++t) scores[t] += p[t] * share;
      if (g < group - 1) return;
      float* const v = ops::expected_rotations(m, r);
      for (index_t t = o.sinks; t < n; ++t) {
        if (o.value_norm) text.value(s, h, t).load(v);
        scores[t] =
            ops::expected_score(o, scores[t], o.value_norm ? ops::norm(v, e.value_width()) : 1.0f);
      }
    });
    return {};
  }

 private:
  static void rotate(ops::expected_options const& o, ops::moments_memory const& m, index_t r,
                     std::int64_t first) noexcept {
    index_t const dim = m.dim, pairs = o.rotation.rotated(dim) / 2;
    float *const c = ops::expected_rotations(m, r), *const s = c + pairs;
    float* const cov = m.covariance(r);
    for (index_t i = 0; i < pairs; ++i) {
      ops::mean_rotation(o, dim, first, i, c[i], s[i]);
      auto const [a, b] = o.rotation.pair(dim, i);
      ops::turn_pair(c[i], s[i], m.mean(r)[a], m.mean(r)[b]);
      if (!o.covariance) continue;
      for (index_t j = 0; j < dim; ++j)
        ops::turn_pair(c[i], s[i], cov[a * dim + j], cov[b * dim + j]);
    }
    for (index_t j = 0; j < dim && o.covariance; ++j)
      for (index_t i = 0; i < pairs; ++i) {
        auto const [a, b] = o.rotation.pair(dim, i);
        ops::turn_pair(c[i], s[i], cov[j * dim + a], cov[j * dim + b]);
      }
  }

  /// Four tokens at a time, whose keys and products with the covariance lie in the spare.
  template <class Text>
  static void logits(Text const& text, ops::expected_options const& o, ops::moments_memory const& m,
                     index_t s, index_t h, float* p) noexcept {
    auto const& e = text.extents();
    index_t const r = s * e.kv_heads + h, dim = m.dim, n = text.tokens(s, h);
    float const scale = 1.0f / std::sqrt(static_cast<float>(dim));
    float *const k = m.spare(r), *const x = k + 4 * dim;
    for (index_t t = o.sinks; t < n; t += 4) {
      index_t const here = detail::min(4, n - t);
      for (index_t i = 0; i < here; ++i) text.key(s, h, t + i).load(k + i * dim);
      if (o.covariance) ops::multiply_lanes(m.covariance(r), dim, k, dim, here, x, dim);
      for (index_t i = 0; i < here; ++i) {
        float const square = o.covariance ? ops::dot(k + i * dim, x + i * dim, dim) : 0.0f;
        p[t + i] = ops::dot(m.mean(r), k + i * dim, dim) * scale +
                   square / (2.0f * static_cast<float>(dim)) + text.logit_bias(s, h, t + i);
      }
    }
  }
};

KVSLIM_END_NAMESPACE
