// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Views over an engine's memory. Nothing here owns, allocates or copies; everything is trivially
/// copyable and usable in device code. Axes are always [sequence, kv_head, token, head_dim];
/// strides are signed and in elements.
///
/// A *layout* maps (sequence, kv_head, token) to the element offset of channel 0 and has one
/// channel stride. K and V each have their own plane, so their layouts, strides and element types
/// may differ.

#include <concepts>
#include <kvslim/core/elements.hpp>
#include <kvslim/core/status.hpp>
#include <type_traits>

KVSLIM_BEGIN_NAMESPACE

/// Logical shape of one layer's cache. `tokens` is the longest sequence; `lengths` in the view
/// gives ragged ones.
struct extents {
  index_t sequences = 1;
  index_t kv_heads = 1;
  index_t tokens = 0;
  index_t head_dim = 0;

  [[nodiscard]] KVSLIM_HD constexpr index_t rows() const noexcept { return sequences * kv_heads; }
  friend constexpr bool operator==(extents const&, extents const&) = default;
};

/// Rows that belong together: that many consecutive sequences of a view (the layers of one
/// sequence, say) times kv heads. They share a keep set, or a codec's blocks. Members are counted
/// sequence-major.
struct row_group {
  index_t sequences = 1, kv_heads = 1;

  [[nodiscard]] KVSLIM_HD constexpr index_t size() const noexcept { return sequences * kv_heads; }
  [[nodiscard]] KVSLIM_HD constexpr bool divides(extents const& e) const noexcept {
    return sequences > 0 && kv_heads > 0 && e.sequences % sequences == 0 &&
           e.kv_heads % kv_heads == 0;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t member(extents const& e, index_t row) const noexcept {
    return row / e.kv_heads % sequences * kv_heads + row % e.kv_heads % kv_heads;
  }
  /// First row of row's group; the row of one of its members.
  [[nodiscard]] KVSLIM_HD constexpr index_t first_row(extents const& e,
                                                      index_t row) const noexcept {
    index_t const s = row / e.kv_heads, h = row % e.kv_heads;
    return (s - s % sequences) * e.kv_heads + h - h % kv_heads;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t member_row(extents const& e, index_t first,
                                                       index_t member) const noexcept {
    return first + member / kv_heads * e.kv_heads + member % kv_heads;
  }
};

/// Dense or strided memory: Hugging Face [B,H,T,D], llama.cpp cells, transposed V (a channel stride
/// that is not 1).
struct strided {
  index_t sequence = 0, kv_head = 0, token = 0, channel = 1;  // strides in elements

  [[nodiscard]] KVSLIM_HD constexpr index_t offset(index_t s, index_t h, index_t t) const noexcept {
    return s * sequence + h * kv_head + t * token;
  }
};

/// A slot list: token t of sequence s lives in slot `slots[s * slots_per_sequence + t]` (SGLang,
/// llama.cpp cells).
struct slot_list {
  std::int32_t const* slots = nullptr;
  index_t slots_per_sequence = 0;
  index_t slot = 0, kv_head = 0, channel = 1;  // strides in elements

  [[nodiscard]] KVSLIM_HD constexpr index_t offset(index_t s, index_t h, index_t t) const noexcept {
    return slots[s * slots_per_sequence + t] * slot + h * kv_head;
  }
};

/// A block table: page `table[s * table_width + t / page_size]` (vLLM, FlashAttention,
/// TensorRT-LLM).
struct block_table {
  std::int32_t const* table = nullptr;
  index_t table_width = 0;
  index_t page_size = 1;                                  // tokens
  index_t page = 0, kv_head = 0, token = 0, channel = 1;  // strides in elements

  [[nodiscard]] KVSLIM_HD constexpr index_t offset(index_t s, index_t h, index_t t) const noexcept {
    return table[s * table_width + t / page_size] * page + h * kv_head + (t % page_size) * token;
  }
};

/// CSR pages: pages of sequence s are `indices[indptr[s]] .. indices[indptr[s + 1] - 1]`
/// (FlashInfer).
struct csr_pages {
  std::int32_t const* indptr = nullptr;
  std::int32_t const* indices = nullptr;
  index_t page_size = 1;                                  // tokens
  index_t page = 0, kv_head = 0, token = 0, channel = 1;  // strides in elements

  [[nodiscard]] KVSLIM_HD constexpr index_t offset(index_t s, index_t h, index_t t) const noexcept {
    return indices[indptr[s] + t / page_size] * page + h * kv_head + (t % page_size) * token;
  }
};

template <class L>
concept cache_layout = std::is_trivially_copyable_v<L> && requires(L const layout, index_t i) {
  { layout.offset(i, i, i) } -> std::same_as<index_t>;
  { layout.channel } -> std::convertible_to<index_t>;
};

/// One of K or V: a pointer and a layout. A const element type means read-only.
template <element T, cache_layout Layout, class Space = host_space>
struct plane {
  using element_type = T;
  using value_type = std::remove_const_t<T>;
  using layout_type = Layout;
  using space = Space;

  T* data = nullptr;
  Layout layout = {};

  [[nodiscard]] KVSLIM_HD constexpr T& at(index_t s, index_t h, index_t t,
                                          index_t d) const noexcept {
    return data[layout.offset(s, h, t) + d * layout.channel];
  }
  [[nodiscard]] KVSLIM_HD constexpr T* row(index_t s, index_t h, index_t t) const noexcept {
    return data + layout.offset(s, h, t);
  }
};

/// One layer's cache: K, V and what is known about each token. Null optional arrays mean "not
/// given".
///
/// Shapes: `lengths` [sequences]; `positions`, `valid`, `log_weight` [sequences, tokens].
template <class Key, class Value = Key>
struct cache_view {
  using key_plane = Key;
  using value_plane = Value;
  using space = typename Key::space;
  static_assert(std::same_as<typename Key::space, typename Value::space>,
                "kvslim: K and V must live in the same memory space");

  kvslim::extents extent = {};
  Key k = {};
  Value v = {};
  std::int32_t const* lengths = nullptr;  ///< tokens of each sequence; null: all have extent.tokens
  std::int32_t const* positions = nullptr;  ///< logical position of each token; null: its index
  std::uint8_t const* valid = nullptr;      ///< 0 marks padding: never kept
  float const* log_weight = nullptr;        ///< added to the attention logit of a token

  [[nodiscard]] KVSLIM_HD constexpr index_t length(index_t s) const noexcept {
    return lengths == nullptr ? extent.tokens : static_cast<index_t>(lengths[s]);
  }
  [[nodiscard]] KVSLIM_HD constexpr std::int32_t position(index_t s, index_t t) const noexcept {
    return positions == nullptr ? static_cast<std::int32_t>(t) : positions[s * extent.tokens + t];
  }
  [[nodiscard]] KVSLIM_HD constexpr bool is_valid(index_t s, index_t t) const noexcept {
    return valid == nullptr || valid[s * extent.tokens + t] != 0;
  }
  [[nodiscard]] KVSLIM_HD constexpr float weight(index_t s, index_t t) const noexcept {
    return log_weight == nullptr ? 0.0f : log_weight[s * extent.tokens + t];
  }
  [[nodiscard]] KVSLIM_HD constexpr kvslim::extents const& extents() const noexcept {
    return extent;
  }
};

/// Plain strided rows [sequence, head, token, head_dim]: queries, outputs, windows of queries.
template <element T, class Space = host_space>
struct rows_view {
  using value_type = std::remove_const_t<T>;
  using space = Space;

  T* data = nullptr;
  index_t sequences = 1, heads = 1, tokens = 1, head_dim = 0;
  strided layout = {};

  [[nodiscard]] KVSLIM_HD constexpr T* row(index_t s, index_t h, index_t t = 0) const noexcept {
    return data + layout.offset(s, h, t);
  }
  /// Rows that may be written may be read.
  template <class U>
  requires(!std::is_const_v<T> && std::same_as<U, T const>) KVSLIM_HD constexpr
  operator rows_view<U, Space>() const noexcept {
    return {data, sequences, heads, tokens, head_dim, layout};
  }
};

/// What dense_rows is told.
struct rows_shape {
  index_t sequences = 1, heads = 1, tokens = 1, head_dim = 0;
};

/// Contiguous rows in [sequence, head, token, head_dim] order.
template <class Space = host_space, element T>
[[nodiscard]] KVSLIM_HD constexpr rows_view<T, Space> dense_rows(T* data,
                                                                 rows_shape shape) noexcept {
  return {data,
          shape.sequences,
          shape.heads,
          shape.tokens,
          shape.head_dim,
          {shape.heads * shape.tokens * shape.head_dim, shape.tokens * shape.head_dim,
           shape.head_dim, 1}};
}

/// Contiguous K and V in [sequence, kv_head, token, head_dim] order.
template <class Space = host_space, element T>
[[nodiscard]] KVSLIM_HD constexpr auto dense_cache(T* k, T* v, extents e) noexcept {
  using plane_type = plane<T, strided, Space>;
  strided const layout{e.kv_heads * e.tokens * e.head_dim, e.tokens * e.head_dim, e.head_dim, 1};
  return cache_view<plane_type>{e, {k, layout}, {v, layout}};
}

namespace detail {

/// Everything about a view that can be checked without reading K or V.
template <class Cache>
[[nodiscard]] constexpr status check_cache(Cache const& cache) noexcept {
  auto const& e = cache.extent;
  constexpr index_t limit = index_t{1} << 40;
  if (e.sequences <= 0 || e.kv_heads <= 0 || e.head_dim <= 0 || e.tokens < 0)
    return fail(errc::invalid_shape, "kvslim: extents must be positive");
  if (e.sequences > limit / e.kv_heads || e.tokens > (index_t{1} << 31) - 1 || e.head_dim > 1024)
    return fail(errc::invalid_shape,
                "kvslim: extents are out of range (head_dim <= 1024, tokens < 2^31)");
  if (e.tokens == 0) return fail(errc::invalid_shape, "kvslim: the cache holds no tokens");
  if (cache.k.data == nullptr || cache.v.data == nullptr)
    return fail(errc::invalid_pointer, "kvslim: K or V is a null pointer");
  if constexpr (std::same_as<typename Cache::space, host_space>) {
    for (index_t s = 0; s < e.sequences; ++s)
      if (cache.length(s) < 0 || cache.length(s) > e.tokens)
        return fail(errc::invalid_shape,
                    "kvslim: a sequence length is negative or above extents.tokens");
  }
  return {};
}

}  // namespace detail

KVSLIM_END_NAMESPACE
