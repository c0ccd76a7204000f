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
  kvslim::extents extent = {};  ///< tokens = cells in use
  index_t cells = 0;            ///< capacity of one stream
  bool v_transposed = false;    ///< true without flash attention
  std::int32_t const* positions = nullptr;  ///< cells are unordered: [stream, tokens]
};

/// One layer's K and V tensors of llama.cpp (f32, f16 or bf16 cache types). No copy. K is
/// post-RoPE.
template <element T, class Space = host_space>
[[nodiscard]] constexpr auto llama_cpp(llama_cpp_cache<T> const& c) noexcept {
  using plane_type = plane<T, strided, Space>;
  index_t const d = c.extent.head_dim, row = c.extent.kv_heads * d;
  strided const major{c.cells * row, d, row, 1};
  strided const transposed{c.cells * row, d * c.cells, 1, c.cells};
  return cache_view<plane_type>{
      c.extent, {c.k, major}, {c.v, c.v_transposed ? transposed : major}, nullptr, c.positions};
}

}  // namespace adapt

KVSLIM_END_NAMESPACE
