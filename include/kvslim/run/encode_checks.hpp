// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What encode asks of keep lists before it writes anything.

#include <kvslim/core/keep_set.hpp>
#include <kvslim/store/packed_cache.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// One past the newest held position of a row, kept or not.
template <class Cells>
[[nodiscard]] KVSLIM_HD inline std::int32_t next_position_of(Cells const& cells, index_t s,
                                                             index_t h) noexcept {
  std::int32_t next = 0;
  index_t const n = cells.length(s, h);
  if (cells.in_text_order() && n > 0) return cells.position(s, h, n - 1) + 1;
  for (index_t cell = 0; cell < n; ++cell)
    if (cells.state(s, h, cell) != token_state::padding && cells.position(s, h, cell) >= next)
      next = cells.position(s, h, cell) + 1;
  return next;
}

/// The next position of a stored row outlives its newest token.
template <class Packed>
[[nodiscard]] KVSLIM_HD inline std::int32_t next_position_of(packed_cells<Packed> const& cells,
                                                             index_t s, index_t h) noexcept {
  return cells.packed.raw_row(cells.row(s, h)).next_position;
}

/// Whether entry i of row r's list can be encoded: in range, held, in text order behind the one
/// before it, with a position that the layout can tell. Null is yes. `next`: one past the row's
/// newest position.
template <class Plan, class Layout, class Cells>
[[nodiscard]] KVSLIM_HD inline char const* fault_of_entry(Plan const& plan, Layout const& layout,
                                                          Cells const& cells, keep_set const& keep,
                                                          index_t r, index_t i,
                                                          std::int32_t next) noexcept {
  auto const& e = plan.extents();
  index_t const s = r / e.kv_heads, h = r % e.kv_heads, count = keep.count(r);
  std::int32_t const* const list = keep.cells + keep.begins[r];
  bool const consecutive = !Plan::has_mover && layout.find(side_kind::position) < 0;
  auto const held = [&](index_t cell) {
    return cell >= 0 && cell < cells.length(s, h) &&
           cells.state(s, h, cell) != token_state::padding;
  };
  if (!held(list[i])) return "kvslim: the keep set names a cell that holds no token";
  std::int32_t const now = cells.position(s, h, list[i]);
  if (i > 0 && held(list[i - 1])) {
    std::int32_t const last = cells.position(s, h, list[i - 1]);
    if (now < last || (now == last && list[i] <= list[i - 1]))
      return "kvslim: the keep set is not in text order";
    if (consecutive && now != last + 1)
      return "kvslim: positions have gaps: plan with .positions = true to store them";
  }
  if (consecutive && i == count - 1 && now + 1 != next)
    return "kvslim: the newest token is not kept: plan with .positions = true";
  return nullptr;
}

/// Whether n cells ascend within [0, length), one by one if `consecutive`.
[[nodiscard]] inline bool cells_ascend(std::int32_t const* list, index_t n, index_t length,
                                       bool consecutive) noexcept {
  if (n == 0) return true;
  std::int32_t wrong = 0;
  for (index_t i = 1; i < n; ++i) wrong |= list[i] <= list[i - 1] ? 1 : 0;
  return wrong == 0 && list[0] >= 0 && list[n - 1] < length &&
         (!consecutive || list[n - 1] - list[0] == n - 1);
}

/// Whether row r's list can be encoded. Null is yes.
template <class Plan, class Cells>
[[nodiscard]] char const* fault_of_list(Plan const& plan, Cells const& cells, keep_set const& keep,
                                        index_t r) noexcept {
  auto const& e = plan.extents();
  if (keep.begins[r + 1] < keep.begins[r] || keep.count(r) > e.tokens)
    return "kvslim: the keep set's begins do not ascend";
  std::int32_t const next = next_position_of(cells, r / e.kv_heads, r % e.kv_heads);
  auto const layout = plan.layout();
  if constexpr (requires { cells.positions.given(); }) {
    // Where cells are positions, one loop says that there is no fault, the next one which.
    bool const consecutive = !Plan::has_mover && layout.find(side_kind::position) < 0;
    index_t const n = keep.count(r);
    std::int32_t const* const list = keep.cells + keep.begins[r];
    if (cells.in_text_order() &&
        cells_ascend(list, n, cells.length(r / e.kv_heads, r % e.kv_heads), consecutive) &&
        (!consecutive || n == 0 || list[n - 1] + 1 == next))
      return nullptr;
  }
  for (index_t i = 0; i < keep.count(r); ++i)
    if (char const* const fault = fault_of_entry(plan, layout, cells, keep, r, i, next);
        fault != nullptr)
      return fault;
  return nullptr;
}

/// True if row r keeps the tokens that the first row of its group keeps.
template <class Plan, class Codec>
[[nodiscard]] bool keeps_as_leader(Plan const& plan, keep_set const& keep, index_t r,
                                   Codec const& codec) noexcept {
  index_t const first = group_of(codec).first_row(plan.extents(), r), n = keep.count(r);
  if (n != keep.count(first)) return false;
  for (index_t i = 0; i < n; ++i)
    if (keep.cells[keep.begins[r] + i] != keep.cells[keep.begins[first] + i]) return false;
  return true;
}

}  // namespace detail

KVSLIM_END_NAMESPACE
