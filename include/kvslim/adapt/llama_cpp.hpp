// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/view.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace adapt {

template <element T>
struct llama_cpp_cache {
  T* k = nullptr;               ///< [stream, cell, kv_head, dim]
  T* v = nullptr;               ///< the same, or [stream, kv_head, dim, cell] if v_transposed
  kvslim::extents extent = {};  ///< tokens = cells in use, or the longest list of cells
  index_t cells = 0;            ///< capacity of one stream
  bool v_transposed = false;    ///< true without flash attention
  std::int32_t const* positions = nullptr;  ///< cells are unordered: [stream, tokens]
  std::uint8_t const* valid = nullptr;      ///< token_state of each: [stream, tokens]; null: held
  std::int32_t const* lengths = nullptr;    ///< entries in use: [stream]; null: tokens

  // Of llama_cpp_cells alone:
  std::int32_t const* cell_list = nullptr;  ///< cell of each entry: [sequence, tokens]
  bool unified = false;                     ///< all sequences lie in one stream
};

/// One layer's K and V tensors of llama.cpp (f32, f16 or bf16 cache types), cell after cell. No
/// copy. K is post-RoPE. What is first or newest is decided by `positions`, never by the cell.
template <element T, class Space = host_space>
[[nodiscard]] constexpr auto llama_cpp(llama_cpp_cache<T> const& c) noexcept {
  using plane_type = plane<T, strided, Space>;
  auto const major = [&](index_t d) {
    index_t const row = c.extent.kv_heads * d;
    return strided{c.cells * row, d, row, 1};
  };
  index_t const wide = c.extent.value_width();
  strided const transposed{c.cells * c.extent.kv_heads * wide, wide * c.cells, 1, c.cells};
  return cache_view<plane_type>{c.extent,
                                {c.k, major(c.extent.head_dim)},
                                {c.v, c.v_transposed ? transposed : major(wide)},
                                c.lengths,
                                c.positions,
                                c.valid};
}

/// The same tensors, of which each sequence holds the cells of `cell_list`, for K and V alike:
/// sequences that share a stream, or that lost cells. positions, valid and lengths go by entry of
/// the list. A null list is refused by whatever reads the view (invalid_pointer).
template <element T, class Space = host_space>
[[nodiscard]] constexpr auto llama_cpp_cells(llama_cpp_cache<T> const& c) noexcept {
  using plane_type = plane<T, slot_list, Space>;
  auto const list = [&](index_t d, bool transposed) {
    index_t const row = c.extent.kv_heads * d, stream = c.unified ? 0 : c.cells * row;
    return transposed ? slot_list{c.cell_list, c.extent.tokens, 1, d * c.cells, c.cells, stream}
                      : slot_list{c.cell_list, c.extent.tokens, row, d, 1, stream};
  };
  return cache_view<plane_type>{c.extent,
                                {c.k, list(c.extent.head_dim, false)},
                                {c.v, list(c.extent.value_width(), c.v_transposed)},
                                c.lengths,
                                c.positions,
                                c.valid};
}

}  // namespace adapt

KVSLIM_END_NAMESPACE
