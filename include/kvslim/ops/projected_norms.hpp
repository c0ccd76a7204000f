// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/concepts.hpp>
#include <kvslim/ops/query_lanes.hpp>

#include <cmath>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// Outputs of a projection that are made at once.
inline constexpr index_t projected_together = 64;

/// Floats of scratch per row: a part of the projection, four values and what they become.
[[nodiscard]] KVSLIM_HD constexpr index_t projected_floats(extents const& e) noexcept {
  return e.value_width() * (projected_together + 4) + 4 * projected_together;
}

struct projected_norms_op {};

/// How much a token can move the model's stream: ||v W||_1, averaged over the query heads of a KV
/// head; [rows, tokens] by rank.
///
/// Shapes: weights [layers, q_head, value_width, width]; layers are consecutive sequences; scratch
/// [rows, projected_floats]. Cost: 2 * q_heads * tokens * value_width * width flop per sequence.
template <class Exec, class Text, class Space>
status projected_norms(Exec const& exec, Text const& text, rows<Space> const& weights,
                       score_view out, float* scratch) {
  return implementation<projected_norms_op, Exec>::run(exec, text, weights, out, scratch);
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::projected_norms_op, Exec> {
  template <class Text, class Space>
  static status run(Exec const& exec, Text const& text, rows<Space> const& weights, score_view out,
                    float* scratch) {
    auto const e = text.extents();
    index_t const group = weights.heads / e.kv_heads, dim = e.value_width();
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const s = r / e.kv_heads, h = r % e.kv_heads, n = text.tokens(s, h);
      float* const norms = out.row(r);
      float* const w = scratch + r * ops::projected_floats(e);  // [dim, together]
      float *const v = w + dim * ops::projected_together, *const x = v + 4 * dim;
      for (index_t t = 0; t < e.tokens; ++t) norms[t] = 0.0f;
      for (index_t g = 0; g < group; ++g)
        for (index_t m = 0; m < weights.head_dim; m += ops::projected_together) {
          index_t const here = detail::min(ops::projected_together, weights.head_dim - m);
          take(weights, s % weights.sequences, h * group + g, m, here, w);
          for (index_t t = 0; t < n; t += 4) {
            index_t const some = detail::min(4, n - t);
            for (index_t i = 0; i < some; ++i) text.value(s, h, t + i).load(v + i * dim);
            ops::multiply_lanes(w, here, v, dim, some, x, here);
            for (index_t i = 0; i < some; ++i)
              norms[t + i] += length(x + i * here, here) / static_cast<float>(group);
          }
        }
    });
    return {};
  }

 private:
  /// Outputs [first, first + n) of one head's projection, as [channel, output].
  template <class Space>
  KVSLIM_HD static void take(rows<Space> const& weights, index_t layer, index_t head, index_t first,
                             index_t n, float* out) {
    for (index_t d = 0; d < weights.tokens; ++d)
      weights.visit(layer, head, d, [&](auto const* w) {
        for (index_t i = 0; i < n; ++i)
          out[d * n + i] = to_float(w[(first + i) * weights.layout.channel]);
      });
  }
  static float length(float const* x, index_t n) noexcept {
    float part[8] = {};
    for (index_t i = 0; i < n; ++i) part[i % 8] += std::fabs(x[i]);
    return ((part[0] + part[4]) + (part[1] + part[5])) +
           ((part[2] + part[6]) + (part[3] + part[7]));
  }
};

KVSLIM_END_NAMESPACE
