// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

struct query_energy_op {};

/// Mean square of every channel of the queries that each row's query heads asked:
/// out[sequence * kv_heads + kv_head][head_dim]. What codecs that choose channels are bound to.
///
/// Shapes: queries [sequence, q_head, window, head_dim]; out in memory of the executor. Returns:
/// invalid_pointer (null), invalid_shape (no queries, or query heads that are no multiple of
/// kv_heads); then nothing was written. Cost: one read of the queries.
template <class Exec, class Space>
[[nodiscard]] status query_energy(Exec const& exec, rows<Space> const& queries, index_t kv_heads,
                                  float* out) {
  if (queries.data == nullptr || out == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: query_energy was given a null pointer");
  if (kv_heads < 1 || queries.heads < 1 || queries.heads % kv_heads != 0 || queries.tokens < 1 ||
      queries.sequences < 1 || queries.head_dim < 1)
    return detail::fail(errc::invalid_shape,
                        "kvslim: query_energy needs at least one query a head, and query heads "
                        "that are a multiple of the KV heads");
  return implementation<query_energy_op, Exec>::run(exec, queries, kv_heads, out);
}
template <class Exec, class T, class Space>
[[nodiscard]] status query_energy(Exec const& exec, rows_view<T, Space> const& queries,
                                  index_t kv_heads, float* out) {
  return query_energy(exec, rows<Space>(queries), kv_heads, out);
}

}  // namespace ops

namespace detail {

/// Channel i of all rows' channels.
template <class Space>
struct query_energy_body {
  kvslim::rows<Space> queries;
  index_t kv_heads;
  float* out;

  KVSLIM_HD void operator()(index_t i) const {
    index_t const d = i % queries.head_dim, r = i / queries.head_dim;
    index_t const s = r / kv_heads, group = queries.heads / kv_heads, h = r % kv_heads * group;
    float sum = 0.0f;
    for (index_t g = 0; g < group; ++g) {
      float squares = 0.0f;
      for (index_t t = 0; t < queries.tokens; ++t) {
        float const x = queries.at(s, h + g, t, d);
        squares += x * x;
      }
      sum += squares / static_cast<float>(queries.tokens);
    }
    out[i] = sum / static_cast<float>(group);
  }
};

}  // namespace detail

template <host_executor Exec>
struct implementation<ops::query_energy_op, Exec> {
  template <class Space>
  static status run(Exec const& exec, rows<Space> const& queries, index_t kv_heads, float* out) {
    exec.for_each(queries.sequences * kv_heads * queries.head_dim,
                  detail::query_energy_body<Space>{queries, kv_heads, out});
    return {};
  }
};

KVSLIM_END_NAMESPACE
