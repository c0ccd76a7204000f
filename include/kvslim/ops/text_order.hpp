// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/slice.hpp>
#include <kvslim/core/text.hpp>
#include <kvslim/exec/cpu.hpp>

#include <utility>

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

/// Sorts cells, which ascend, by position; equal positions keep their order. Least significant
/// digit first, eight bits at a time, only as many digits as the positions differ in. `spare` holds
/// count of them. Cost: at most four passes.
template <class Cells>
inline void sort_by_position(Cells const& cells, index_t s, index_t h, std::int32_t* out,
                             index_t count, std::int32_t* spare) noexcept {
  std::int32_t low = cells.position(s, h, out[0]), high = low;
  for (index_t i = 0; i < count; ++i) {
    std::int32_t const position = cells.position(s, h, out[i]);
    low = position < low ? position : low;
    high = position > high ? position : high;
  }
  std::int32_t* from = out;
  std::int32_t* to = spare;
  auto const range = static_cast<std::uint32_t>(high - low);
  for (int shift = 0; shift < 32 && (range >> shift) != 0; shift += 8) {
    std::int32_t begins[257] = {};
    auto const digit = [&](std::int32_t cell) {
      return (static_cast<std::uint32_t>(cells.position(s, h, cell) - low) >> shift) & 255u;
    };
    for (index_t i = 0; i < count; ++i) ++begins[digit(from[i]) + 1];
    for (int d = 0; d < 256; ++d) begins[d + 1] += begins[d];
    for (index_t i = 0; i < count; ++i) to[begins[digit(from[i])]++] = from[i];
    std::swap(from, to);
  }
  if (from != out)
    for (index_t i = 0; i < count; ++i) out[i] = from[i];
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
      if (!ascends)
        ops::sort_by_position(
            cells, s, h, out, count,
            static_cast<std::int32_t*>(static_cast<void*>(memory.keys + order * e.tokens)));
      memory.counts[order] = static_cast<std::int32_t>(count);
    });
    return {};
  }
};

KVSLIM_END_NAMESPACE
