// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// A cache of its own for every query head, as code has it that repeats K and V for the query heads
// before it selects (SnapKV's, PyramidKV's and others' `repeat_kv`): each query head then keeps
// tokens of its own. What is stored grows by the query heads of a KV head, so under grouped
// attention nothing may be saved: it is there to compare with.

#include <kvslim/core/rows.hpp>
#include <kvslim/core/view.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace adapt {

/// One sequence of a view with each KV head's rows repeated for the `group` query heads that read
/// them, without a copy: the KV heads become sequences, and their rows are those of query heads in
/// order. Any policy then chooses per query head; queries and outputs are named by split_heads().
///
/// Shapes: out [kv_heads, group, tokens, head_dim], lengths, positions, validity and biases as the
/// view's. A sequence that the view has not, or a group below 1, gives a view that plans refuse
/// (invalid_shape). Memory: the view's.
template <element K, element V, class Space>
[[nodiscard]] constexpr auto repeat_heads(
    cache_view<plane<K, strided, Space>, plane<V, strided, Space>> const& view, index_t sequence,
    index_t group) noexcept {
  auto out = view;
  auto& e = out.extent;
  if (sequence < 0 || sequence >= e.sequences || group < 1) {
    e.sequences = 0;
    return out;
  }
  auto const repeated = [&](auto& from) {
    if (from.data != nullptr) from.data += sequence * from.layout.sequence;
    from.layout.sequence = from.layout.kv_head;
    from.layout.kv_head = 0;
  };
  auto const shared = [&](auto& array, index_t apart) {
    if (array.data == nullptr) return;
    array.data += sequence * apart;
    array.sequence = array.kv_head;
    array.kv_head = 0;
  };
  auto const each = [&](auto& array) {
    shared(array, array.sequence < 0 ? e.tokens : array.sequence);
  };
  repeated(out.k);
  repeated(out.v);
  shared(out.lengths, out.lengths.sequence);
  each(out.positions);
  each(out.valid);
  each(out.bias);
  e.sequences = e.kv_heads;
  e.kv_heads = group;
  return out;
}

/// Rows of one sequence's query heads (queries, outputs) as repeat_heads() has those heads:
/// [heads / group, group, tokens, head_dim]. Requires: heads a multiple of `group`, or what is
/// asked with them is refused (invalid_shape).
template <element T, class Space>
[[nodiscard]] constexpr rows_view<T, Space> split_heads(rows_view<T, Space> rows, index_t sequence,
                                                        index_t group) noexcept {
  if (rows.data != nullptr) rows.data += sequence * rows.layout.sequence;
  rows.layout.sequence = group * rows.layout.kv_head;
  rows.sequences = group < 1 || rows.heads % group != 0 ? 0 : rows.heads / group;
  rows.heads = group;
  return rows;
}

/// Rows of one sequence's KV heads (what append() adds) repeated for the query heads that read
/// them: [heads, group, tokens, head_dim].
template <element T, class Space>
[[nodiscard]] constexpr rows_view<T, Space> repeat_heads(rows_view<T, Space> rows, index_t sequence,
                                                         index_t group) noexcept {
  if (rows.data != nullptr) rows.data += sequence * rows.layout.sequence;
  rows.layout.sequence = rows.layout.kv_head;
  rows.layout.kv_head = 0;
  rows.sequences = rows.heads;
  rows.heads = group;
  return rows;
}

}  // namespace adapt

KVSLIM_END_NAMESPACE
