// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/slice.hpp>
#include <kvslim/core/text.hpp>
#include <kvslim/exec/cpu.hpp>

#include <algorithm>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// Memory of an order: [orders, tokens], [orders], [orders, tokens]; orders as text_order_count
/// says.
struct text_order_memory {
  std::int32_t* cells = nullptr;
  std::int32_t* counts = nullptr;
  std::uint64_t* keys = nullptr;  ///< scratch, free afterwards
};

struct text_order_op {};

/// rank -> cell over held tokens, by position, equal positions by cell. Nothing is written where
/// neither positions nor validity are given: then ranks are cells. Requires: positions >= 0.
/// Cost: one pass over positions and validity; a sort only of rows that do not ascend.
template <class Exec, class Cells>
status make_text_order(Exec const& exec, Cells const& cells, text_order_memory const& memory,
                       text_order& out) {
  auto const& e = cells.extents();
  out = {};
  if (cells.in_text_order()) return {};
  out = {memory.cells, memory.counts, e.tokens, cells.orders_per_head()};
  return implementation<text_order_op, Exec>::run(exec, cells, memory, out.per_head);
}

/// What a rank is sorted by.
[[nodiscard]] KVSLIM_HD inline std::uint64_t text_key(std::int32_t position,
                                                      index_t cell) noexcept {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(position)) << 32) |
         static_cast<std::uint32_t>(cell);
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::text_order_op, Exec> {
  template <class Cells>
  static status run(Exec const& exec, Cells const& cells, ops::text_order_memory const& memory,
                    bool per_head) {
    auto const& e = cells.extents();
    exec.for_each(per_head ? e.rows() : e.sequences, [=](index_t order) {
      index_t const s = per_head ? order / e.kv_heads : order;
      index_t const h = per_head ? order % e.kv_heads : 0, length = cells.length(s, h);
      std::int32_t* const out = memory.cells + order * e.tokens;
      std::int32_t last = -1;
      index_t count = 0;
      bool ascends = true;
      for (index_t cell = 0; cell < length; ++cell) {
        if (cells.state(s, h, cell) == token_state::padding) continue;
        std::int32_t const position = cells.position(s, h, cell);
        ascends = ascends && position >= last;
        last = position;
        out[count++] = static_cast<std::int32_t>(cell);
      }
      if (!ascends) {
        std::uint64_t* const keys = memory.keys + order * e.tokens;
        for (index_t i = 0; i < count; ++i)
          keys[i] = ops::text_key(cells.position(s, h, out[i]), out[i]);
        std::sort(keys, keys + count);
        for (index_t i = 0; i < count; ++i)
          out[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(keys[i]));
      }
      memory.counts[order] = static_cast<std::int32_t>(count);
    });
    return {};
  }
};

KVSLIM_END_NAMESPACE
