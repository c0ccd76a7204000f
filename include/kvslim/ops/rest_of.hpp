// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/keep_set.hpp>
#include <kvslim/exec/cpu.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

struct rest_of_op {};

/// The tokens that a keep set does not name, in text order: what a second cache of fewer bits holds
/// beside the first (attend_segments reads both). `rest` has begins[rows + 1] and, in `room`, as
/// many cells as there are tokens besides; `keep` is what select() made, or any set whose cells
/// ascend.
///
/// Returns: invalid_shape (the room is too small; on CUDA rows are cut there), invalid_pointer;
/// then nothing was written. Cost: one pass over the order and both sets.
template <class Exec, class Cells>
status rest_of(Exec const& exec, Cells const& cells, keep_set const& keep, keep_set& rest) {
  if (keep.begins == nullptr || keep.cells == nullptr || rest.begins == nullptr ||
      (rest.cells == nullptr && rest.room > 0))
    return detail::fail(errc::invalid_pointer, "kvslim: rest_of was given a null keep set");
  rest.order = keep.order;
  return implementation<rest_of_op, Exec>::run(exec, text<Cells>{cells, keep.order}, keep, rest);
}

}  // namespace ops

namespace detail {

/// Calls use(i, cell, rank) for each token of a row that is not kept. Returns how many there are.
template <class Text, class Use>
KVSLIM_HD inline index_t each_of_rest(Text const& text, keep_set const& keep, index_t r,
                                      Use const& use) {
  index_t const heads = text.extents().kv_heads, s = r / heads, h = r % heads;
  std::int32_t const* const kept = keep.cells + keep.begins[r];
  index_t const n = keep.count(r);
  index_t count = 0;
  for (index_t rank = 0, next = 0; rank < text.tokens(s, h); ++rank) {
    index_t const cell = text.cell(s, h, rank);
    if (next < n && kept[next] == cell)
      ++next;
    else if (text.cells.state(s, h, cell) != token_state::padding)
      use(count++, cell, rank);
  }
  return count;
}

struct list_nothing {
  KVSLIM_HD void operator()(index_t, index_t, index_t) const noexcept {}
};
struct list_rest {
  keep_set const& rest;
  index_t row;
  KVSLIM_HD void operator()(index_t i, index_t cell, index_t rank) const noexcept {
    index_t const to = rest.begins[row] + i;
    if (to >= rest.begins[row + 1]) return;  // no room
    rest.cells[to] = static_cast<std::int32_t>(cell);
    if (rest.ranks != nullptr) rest.ranks[to] = static_cast<std::int32_t>(rank);
  }
};

}  // namespace detail

template <host_executor Exec>
struct implementation<ops::rest_of_op, Exec> {
  template <class Text>
  static status run(Exec const& exec, Text const& text, keep_set const& keep,
                    keep_set const& rest) {
    index_t const rows = text.extents().rows();
    index_t all = 0;
    for (index_t r = 0; r < rows; ++r)
      all += detail::each_of_rest(text, keep, r, detail::list_nothing{});
    if (all > rest.room)
      return detail::fail(errc::invalid_shape, "kvslim: rest_of needs room for all other tokens");
    rest.begins[0] = 0;
    for (index_t r = 0; r < rows; ++r)
      rest.begins[r + 1] =
          rest.begins[r] + detail::each_of_rest(text, keep, r, detail::list_nothing{});
    exec.for_each(rows, [=](index_t r) {
      detail::each_of_rest(text, keep, r, detail::list_rest{rest, r});
    });
    return {};
  }
};

KVSLIM_END_NAMESPACE
