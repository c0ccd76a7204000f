// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/concepts.hpp>
#include <kvslim/ops/rows.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// Tokens that are summed before their sum joins the row's: what one thread block takes, and few
/// enough that a million tokens lose no digits.
inline constexpr index_t mean_stretch = 1024;

/// Floats of scratch per row for mean_direction: a sum for every stretch, and one key.
[[nodiscard]] KVSLIM_HD constexpr index_t mean_direction_floats(extents const& e) noexcept {
  return (detail::div_up(e.tokens, mean_stretch) + 1) * e.head_dim;
}

struct mean_direction_op {};

/// The direction (a vector of length 1) of each row's mean key, of its keys' directions if
/// `unit_keys`. A zero key has no direction and adds nothing; the mean of no keys is 0.
///
/// Shapes: out [rows, head_dim]; scratch [rows, mean_direction_floats]. Cost: one pass over K on
/// the CPU, two on CUDA.
template <class Exec, class Text>
status mean_direction(Exec const& exec, Text const& text, bool unit_keys, float* out,
                      float* scratch) {
  return implementation<mean_direction_op, Exec>::run(exec, text, unit_keys, out, scratch);
}

/// The factor that makes a vector of this length one of length 1; shorter ones count as `least`.
[[nodiscard]] KVSLIM_HD inline float to_unit(float length, float least) noexcept {
  return 1.0f / (length > least ? length : least);
}

/// Lengths that shorter vectors count as having, where they are normalized and in a cosine
/// (PyTorch's, which kvpress calls).
inline constexpr float normalized_least = 1e-12f, cosine_least = 1e-8f;

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::mean_direction_op, Exec> {
  template <class Text>
  static status run(Exec const& exec, Text const& text, bool unit_keys, float* out,
                    float* scratch) {
    auto const e = text.extents();
    index_t const dim = e.head_dim, floats = ops::mean_direction_floats(e);
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const s = r / e.kv_heads, h = r % e.kv_heads, n = text.tokens(s, h);
      float* const mean = out + r * dim;
      float* const sum = scratch + r * floats;
      float* const key = sum + dim;
      for (index_t d = 0; d < dim; ++d) mean[d] = 0.0f;
      for (index_t first = 0; first < n; first += ops::mean_stretch) {
        for (index_t d = 0; d < dim; ++d) sum[d] = 0.0f;
        for (index_t t = first; t < detail::min(n, first + ops::mean_stretch); ++t) {
          text.key(s, h, t).load(key);
          float const unit =
              unit_keys ? ops::to_unit(ops::norm(key, dim), ops::normalized_least) : 1.0f;
          for (index_t d = 0; d < dim; ++d) sum[d] += key[d] * unit;
        }
        for (index_t d = 0; d < dim; ++d) mean[d] += sum[d] / static_cast<float>(n);
      }
      float const unit = ops::to_unit(ops::norm(mean, dim), ops::cosine_least);
      for (index_t d = 0; d < dim; ++d) mean[d] *= unit;
    });
    return {};
  }
};

KVSLIM_END_NAMESPACE
