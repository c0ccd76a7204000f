// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/view.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace adapt {

template <element T>
struct vllm_cache {
  T* k = nullptr;                             ///< plane [blocks, page_size, kv_head, dim]
  T* v = nullptr;                             ///< the same, of value_dim channels
  std::int32_t const* block_table = nullptr;  ///< [sequences, table_width]
  std::int32_t const* lengths = nullptr;      ///< [sequences]
  kvslim::extents extent = {};                ///< tokens = longest sequence
  index_t page_size = 16;
  index_t table_width = 0;
  bool heads_first = false;  ///< HND: [blocks, kv_head, page_size, dim]
  index_t page_stride = 0;   ///< elements between pages; 0: page_size * kv_heads * dim (K and V in
                             ///< planes of their own)
};

/// vLLM's paged cache (v1 shape, NHD or HND; either order of the K/V axis through pointers and
/// page_stride). No copy.
template <element T, class Space = host_space>
[[nodiscard]] constexpr auto vllm(vllm_cache<T> const& c) noexcept {
  using plane_type = plane<T, block_table, Space>;
  auto const pages = [&](index_t d) {
    index_t const h = c.extent.kv_heads;
    return block_table{c.block_table,
                       c.table_width,
                       c.page_size,
                       c.page_stride == 0 ? c.page_size * h * d : c.page_stride,
                       c.heads_first ? c.page_size * d : d,
                       c.heads_first ? d : h * d,
                       1};
  };
  return cache_view<plane_type>{
      c.extent, {c.k, pages(c.extent.head_dim)}, {c.v, pages(c.extent.value_width())}, c.lengths};
}

}  // namespace adapt

KVSLIM_END_NAMESPACE
