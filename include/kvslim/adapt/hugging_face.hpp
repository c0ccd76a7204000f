// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/view.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace adapt {

template <element T>
struct hugging_face_cache {
  T* k = nullptr;  ///< [B, H, T_max, D]
  T* v = nullptr;  ///< [B, H, T_max, value_dim]
  kvslim::extents extent = {};
  index_t max_tokens = 0;  ///< T_max of a static cache; 0: contiguous, T_max = extent.tokens
  std::int32_t const* lengths = nullptr;
};

/// Hugging Face (and ONNX Runtime GenAI) keys and values [B, H, T, D], contiguous or preallocated.
/// No copy.
template <element T, class Space = host_space>
[[nodiscard]] constexpr auto hugging_face(hugging_face_cache<T> const& c) noexcept {
  using plane_type = plane<T, strided, Space>;
  index_t const tokens = c.max_tokens == 0 ? c.extent.tokens : c.max_tokens;
  auto const rows = [&](index_t d) {
    return strided{c.extent.kv_heads * tokens * d, tokens * d, d, 1};
  };
  return cache_view<plane_type>{
      c.extent, {c.k, rows(c.extent.head_dim)}, {c.v, rows(c.extent.value_width())}, c.lengths};
}

}  // namespace adapt

KVSLIM_END_NAMESPACE
