// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/view.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace adapt {

template <element T>
struct flashinfer_cache {
  T* k = nullptr;
  T* v = nullptr;
  std::int32_t const* indptr = nullptr;   ///< [sequences + 1]
  std::int32_t const* indices = nullptr;  ///< page of each (sequence, page number)
  std::int32_t const* lengths =
      nullptr;  ///< tokens per sequence: page_size * (pages - 1) + last_page_len
  kvslim::extents extent = {};
  index_t page_size = 16;
  index_t k_page = 0, k_head = 0, k_token = 0;  ///< strides in elements, as in paged_kv_t
  index_t v_page = 0, v_head = 0, v_token = 0;
};

/// FlashInfer's CSR pages, NHD or HND, K and V strides independent. No copy.
template <element T, class Space = host_space>
[[nodiscard]] constexpr auto flashinfer(flashinfer_cache<T> const& c) noexcept {
  using plane_type = plane<T, csr_pages, Space>;
  csr_pages const k{c.indptr, c.indices, c.page_size, c.k_page, c.k_head, c.k_token, 1};
  csr_pages const v{c.indptr, c.indices, c.page_size, c.v_page, c.v_head, c.v_token, 1};
  return cache_view<plane_type>{c.extent, {c.k, k}, {c.v, v}, c.lengths};
}

}  // namespace adapt

KVSLIM_END_NAMESPACE
