// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Extents, row groups and layouts. A *layout* maps (sequence, kv_head, cell) to the element offset
/// of channel 0 and has one channel stride. Strides are signed and in elements.

#include <kvslim/core/status.hpp>

#include <concepts>
#include <type_traits>

KVSLIM_BEGIN_NAMESPACE

/// Logical shape of one layer's cache. `tokens` is the longest row; `lengths` in the view gives
/// ragged ones.
struct extents {
  index_t sequences = 1;
  index_t kv_heads = 1;
  index_t tokens = 0;
  index_t head_dim = 0;
  index_t value_dim = 0;  ///< channels of V; 0: head_dim

  static constexpr index_t most_channels = 1024;
  static constexpr index_t most_rows = index_t{1} << 24;
  static constexpr index_t most_tokens = index_t{1} << 30;
  static constexpr index_t most_cells = index_t{1} << 40;

  [[nodiscard]] KVSLIM_HD constexpr index_t rows() const noexcept { return sequences * kv_heads; }
  [[nodiscard]] KVSLIM_HD constexpr index_t value_width() const noexcept {
    return value_dim == 0 ? head_dim : value_dim;
  }
  friend KVSLIM_HD constexpr bool operator==(extents const& a, extents const& b) noexcept {
    return a.sequences == b.sequences && a.kv_heads == b.kv_heads && a.tokens == b.tokens &&
           a.head_dim == b.head_dim && a.value_width() == b.value_width();
  }
};

/// Rows that belong together: that many consecutive sequences of a view (the layers of one
/// sequence, say) times kv heads. They share a keep set, a budget, or a codec's blocks. Members are
/// counted sequence-major.
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
  /// Group g, counted sequence-major; requires divides(e).
  [[nodiscard]] KVSLIM_HD constexpr index_t groups(extents const& e) const noexcept {
    return e.rows() / size();
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t group_row(extents const& e, index_t g) const noexcept {
    index_t const across = e.kv_heads / kv_heads;
    return g / across * sequences * e.kv_heads + g % across * kv_heads;
  }
};

/// Dense or strided memory: Hugging Face [B,H,T,D], llama.cpp cells, transposed V (a channel stride
/// that is not 1).
struct strided {
  index_t sequence = 0, kv_head = 0, token = 0, channel = 1;  // strides in elements

  [[nodiscard]] KVSLIM_HD constexpr index_t offset(index_t s, index_t h, index_t t) const noexcept {
    return s * sequence + h * kv_head + t * token;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t channel_stride() const noexcept { return channel; }
  [[nodiscard]] constexpr status check(extents const&, index_t) const noexcept { return {}; }
};

/// A slot list: token t of sequence s lives in slot `slots[s * slots_per_sequence + t]` (SGLang,
/// llama.cpp cells). Slots are counted over all sequences, or within each if `sequence` is not 0.
struct slot_list {
  std::int32_t const* slots = nullptr;
  index_t slots_per_sequence = 0;
  index_t slot = 0, kv_head = 0, channel = 1;  // strides in elements
  index_t sequence = 0;

  [[nodiscard]] KVSLIM_HD constexpr index_t offset(index_t s, index_t h, index_t t) const noexcept {
    return s * sequence + slots[s * slots_per_sequence + t] * slot + h * kv_head;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t channel_stride() const noexcept { return channel; }
  [[nodiscard]] constexpr status check(extents const&, index_t longest) const noexcept {
    if (slots == nullptr)
      return detail::fail(errc::invalid_pointer, "kvslim: a slot list is a null pointer");
    if (slots_per_sequence < longest)
      return detail::fail(errc::invalid_shape, "kvslim: a slot list is shorter than its sequence");
    return {};
  }
};

namespace detail {

[[nodiscard]] constexpr status check_pages(void const* table, index_t page_size, index_t pages,
                                           index_t longest) noexcept {
  if (table == nullptr)
    return fail(errc::invalid_pointer, "kvslim: a page table is a null pointer");
  if (page_size < 1) return fail(errc::invalid_option, "kvslim: page_size must be at least 1");
  if (pages < div_up(longest, page_size))
    return fail(errc::invalid_shape, "kvslim: a page table is shorter than its sequence");
  return {};
}

}  // namespace detail

/// A block table: page `table[s * table_width + t / page_size]` (vLLM, FlashAttention).
struct block_table {
  std::int32_t const* table = nullptr;
  index_t table_width = 0;
  index_t page_size = 1;                                  // tokens
  index_t page = 0, kv_head = 0, token = 0, channel = 1;  // strides in elements

  [[nodiscard]] KVSLIM_HD constexpr index_t offset(index_t s, index_t h, index_t t) const noexcept {
    return table[s * table_width + t / page_size] * page + h * kv_head + (t % page_size) * token;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t channel_stride() const noexcept { return channel; }
  [[nodiscard]] constexpr status check(extents const&, index_t longest) const noexcept {
    return detail::check_pages(table, page_size, table_width, longest);
  }
};

/// A block table per head: page `table[(s * kv_heads + h) * table_width + t / page_size]`
/// (TensorRT-LLM, heads of different length).
struct head_block_table {
  std::int32_t const* table = nullptr;
  index_t kv_heads = 1;
  index_t table_width = 0;
  index_t page_size = 1;                     // tokens
  index_t page = 0, token = 0, channel = 1;  // strides in elements

  [[nodiscard]] KVSLIM_HD constexpr index_t offset(index_t s, index_t h, index_t t) const noexcept {
    return table[(s * kv_heads + h) * table_width + t / page_size] * page + (t % page_size) * token;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t channel_stride() const noexcept { return channel; }
  [[nodiscard]] constexpr status check(extents const& e, index_t longest) const noexcept {
    if (kv_heads != e.kv_heads)
      return detail::fail(errc::invalid_shape, "kvslim: a head block table has other kv_heads");
    return detail::check_pages(table, page_size, table_width, longest);
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
  [[nodiscard]] KVSLIM_HD constexpr index_t channel_stride() const noexcept { return channel; }
  [[nodiscard]] constexpr status check(extents const&, index_t) const noexcept {
    if (indptr == nullptr) return detail::fail(errc::invalid_pointer, "kvslim: indptr is null");
    return detail::check_pages(indices, page_size, extents::most_tokens, 0);
  }
};

/// Sequences that start anywhere: the layers of one sequence at addresses of their own, say.
/// `origin` [sequences] are element offsets from the plane's pointer; scatter_origins() and
/// adapt::layers() make them.
template <class Layout>
struct scattered {
  Layout inner = {};
  index_t const* origin = nullptr;
  index_t layers = 0;  ///< that many sequences in a row share the inner one; 0: all share the first

  [[nodiscard]] KVSLIM_HD constexpr index_t inner_sequence(index_t s) const noexcept {
    return layers == 0 ? 0 : s / layers;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t offset(index_t s, index_t h, index_t t) const noexcept {
    return origin[s] + inner.offset(inner_sequence(s), h, t);
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t channel_stride() const noexcept {
    return inner.channel_stride();
  }
  [[nodiscard]] constexpr status check(extents const& e, index_t longest) const noexcept {
    if (origin == nullptr)
      return detail::fail(errc::invalid_pointer, "kvslim: a scattered layout has no origins");
    if (layers < 0) return detail::fail(errc::invalid_shape, "kvslim: layers are at least 0");
    return inner.check(e, longest);
  }
};

/// Writes origin[i] for memory at `pointers[i]`, counted from `base`: layers at any addresses as
/// the sequences of one view. Requires: distances that are multiples of the element
/// (invalid_pointer).
template <class T>
[[nodiscard]] status scatter_origins(T const* base, T const* const* pointers, index_t count,
                                     index_t* origin) noexcept {
  for (index_t i = 0; i < count; ++i) {
    auto const apart = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(pointers[i]) -
                                                 reinterpret_cast<std::uintptr_t>(base));
    if (pointers[i] == nullptr || apart % static_cast<std::int64_t>(sizeof(T)) != 0)
      return detail::fail(errc::invalid_pointer, "kvslim: a layer's pointer is null or misaligned");
    origin[i] = apart / static_cast<std::int64_t>(sizeof(T));
  }
  return {};
}

namespace detail {

/// Whether the lists of a layout reach n tokens of sequence s: what only host memory can tell.
template <class Layout>
[[nodiscard]] constexpr bool serves(Layout const&, index_t, index_t) noexcept {
  return true;
}
[[nodiscard]] constexpr bool serves(csr_pages const& pages, index_t s, index_t n) noexcept {
  index_t const held = index_t{pages.indptr[s + 1]} - pages.indptr[s];
  return pages.indptr[s] >= 0 && held >= div_up(n, pages.page_size);
}
template <class Inner>
[[nodiscard]] constexpr bool serves(scattered<Inner> const& layout, index_t s, index_t n) noexcept {
  return serves(layout.inner, layout.inner_sequence(s), n);
}

}  // namespace detail

/// `check(extents, longest)`: the layout can serve rows of up to `longest` tokens; read before
/// data.
template <class L>
concept cache_layout = std::is_trivially_copyable_v<L> &&
    requires(L const layout, extents const e, index_t i) {
  { layout.offset(i, i, i) } -> std::same_as<index_t>;
  { layout.channel_stride() } -> std::same_as<index_t>;
  { layout.check(e, i) } -> std::same_as<status>;
};

KVSLIM_END_NAMESPACE
