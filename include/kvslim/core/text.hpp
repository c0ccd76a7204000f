// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Text order: every policy, window, sink, neighbour and tie speaks of *ranks*, the place of a
/// token among the held tokens of its row, sorted by position (equal positions by cell). Padding
/// has no rank. Cells appear only where memory is read.

#include <kvslim/core/view.hpp>

KVSLIM_BEGIN_NAMESPACE

/// rank -> cell, made once per call by ops::make_text_order. Null cells: ranks are cells.
struct text_order {
  std::int32_t const* cells = nullptr;   ///< [orders, tokens]
  std::int32_t const* counts = nullptr;  ///< [orders]: held tokens
  index_t tokens = 0;                    ///< stride of cells
  bool per_head = false;                 ///< one order per row; otherwise one per sequence

  [[nodiscard]] KVSLIM_HD constexpr index_t index(extents const& e, index_t s,
                                                  index_t h) const noexcept {
    return per_head ? s * e.kv_heads + h : s;
  }
};

/// A cache in text order: what scorers, quotas, keep rules and mergers look at. `Cells` is a
/// cache_view or a stored cache.
template <class Cells>
struct text {
  using cells_type = Cells;
  using space = typename Cells::space;

  Cells cells;
  text_order order = {};

  [[nodiscard]] KVSLIM_HD constexpr kvslim::extents const& extents() const noexcept {
    return cells.extents();
  }
  /// Cells of a row: the stride of what is given by cell.
  [[nodiscard]] KVSLIM_HD constexpr index_t row_cells() const noexcept {
    return cells.extents().tokens;
  }
  /// Held tokens of a row.
  [[nodiscard]] KVSLIM_HD constexpr index_t tokens(index_t s, index_t h) const noexcept {
    return order.counts == nullptr ? cells.length(s, h)
                                   : order.counts[order.index(extents(), s, h)];
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t cell(index_t s, index_t h,
                                                 index_t rank) const noexcept {
    return order.cells == nullptr ? rank
                                  : order.cells[order.index(extents(), s, h) * order.tokens + rank];
  }
  [[nodiscard]] KVSLIM_HD constexpr std::int32_t position(index_t s, index_t h,
                                                          index_t rank) const noexcept {
    return cells.position(s, h, cell(s, h, rank));
  }
  [[nodiscard]] KVSLIM_HD constexpr bool pinned(index_t s, index_t h, index_t rank) const noexcept {
    return cells.state(s, h, cell(s, h, rank)) == token_state::pinned;
  }
  [[nodiscard]] KVSLIM_HD constexpr float logit_bias(index_t s, index_t h,
                                                     index_t rank) const noexcept {
    return cells.logit_bias(s, h, cell(s, h, rank));
  }
  [[nodiscard]] KVSLIM_HD constexpr auto key(index_t s, index_t h, index_t rank) const noexcept {
    return cells.key(s, h, cell(s, h, rank));
  }
  [[nodiscard]] KVSLIM_HD constexpr auto value(index_t s, index_t h, index_t rank) const noexcept {
    return cells.value(s, h, cell(s, h, rank));
  }
  /// Position that the next token of a row has: one past its newest.
  [[nodiscard]] KVSLIM_HD constexpr std::int32_t next_position(index_t s,
                                                               index_t h) const noexcept {
    index_t const n = tokens(s, h);
    return n == 0 ? 0 : position(s, h, n - 1) + 1;
  }
};

KVSLIM_END_NAMESPACE
