// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Views over an engine's memory. Nothing here owns, allocates or copies; everything is trivially
/// copyable and usable in device code. Axes are always [sequence, kv_head, token, head_dim].
/// K and V each have their own plane, so their layouts, strides, element types and widths differ
/// freely.
///
/// Tokens lie in *cells*, in any order and with padding anywhere. What is first, newest or a
/// neighbour is decided by position (core/text.hpp), never by the cell.

#include <kvslim/core/channels.hpp>
#include <kvslim/core/elements.hpp>
#include <kvslim/core/layout.hpp>
#include <kvslim/core/status.hpp>

#include <concepts>
#include <type_traits>

KVSLIM_BEGIN_NAMESPACE

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
    return data[layout.offset(s, h, t) + d * layout.channel_stride()];
  }
  [[nodiscard]] KVSLIM_HD constexpr T* row(index_t s, index_t h, index_t t) const noexcept {
    return data + layout.offset(s, h, t);
  }
};

/// An optional array with one entry per token: [sequences, tokens], or with strides of its own, per
/// head too. Null means "not given".
template <class T>
struct per_token {
  T const* data = nullptr;
  index_t sequence = -1;  ///< stride in elements; -1: extents.tokens
  index_t kv_head = 0;    ///< stride in elements; 0: the heads share one array

  constexpr per_token() noexcept = default;
  constexpr per_token(T const* array) noexcept : data(array) {}
  constexpr per_token(std::nullptr_t) noexcept {}
  constexpr per_token(T const* array, index_t sequence_stride, index_t head_stride) noexcept
      : data(array), sequence(sequence_stride), kv_head(head_stride) {}

  [[nodiscard]] KVSLIM_HD constexpr bool given() const noexcept { return data != nullptr; }
  [[nodiscard]] KVSLIM_HD constexpr bool per_head() const noexcept {
    return given() && kv_head != 0;
  }
  [[nodiscard]] KVSLIM_HD constexpr T at(extents const& e, index_t s, index_t h,
                                         index_t t) const noexcept {
    return data[s * (sequence < 0 ? e.tokens : sequence) + h * kv_head + t];
  }
};

/// How many cells of each row are in use: [sequences], or per head with strides of one's own.
struct row_lengths {
  std::int32_t const* data = nullptr;
  index_t sequence = 1;  ///< stride in elements
  index_t kv_head = 0;

  constexpr row_lengths() noexcept = default;
  constexpr row_lengths(std::int32_t const* array) noexcept : data(array) {}
  constexpr row_lengths(std::nullptr_t) noexcept {}
  constexpr row_lengths(std::int32_t const* array, index_t sequence_stride,
                        index_t head_stride) noexcept
      : data(array), sequence(sequence_stride), kv_head(head_stride) {}
};

/// What `valid` says of a cell.
enum class token_state : std::uint8_t {
  padding = 0,  ///< holds nothing; never scored, never kept
  held = 1,     ///< an ordinary token
  pinned = 2,   ///< kept before all others
};

/// One layer's cache: K, V and what is known about each token.
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
  row_lengths lengths = {};                ///< cells in use; null: extents.tokens everywhere
  per_token<std::int32_t> positions = {};  ///< logical positions, >= 0; null: the cell's index
  per_token<std::uint8_t> valid = {};      ///< token_state of each cell; null: all held
  per_token<float> bias = {};              ///< added to the attention logit of a token

  [[nodiscard]] KVSLIM_HD constexpr kvslim::extents const& extents() const noexcept {
    return extent;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t length(index_t s, index_t h) const noexcept {
    return lengths.data == nullptr
               ? extent.tokens
               : static_cast<index_t>(lengths.data[s * lengths.sequence + h * lengths.kv_head]);
  }
  [[nodiscard]] KVSLIM_HD constexpr std::int32_t position(index_t s, index_t h,
                                                          index_t cell) const noexcept {
    return positions.given() ? positions.at(extent, s, h, cell) : static_cast<std::int32_t>(cell);
  }
  [[nodiscard]] KVSLIM_HD constexpr token_state state(index_t s, index_t h,
                                                      index_t cell) const noexcept {
    return valid.given() ? static_cast<token_state>(valid.at(extent, s, h, cell))
                         : token_state::held;
  }
  [[nodiscard]] KVSLIM_HD constexpr float logit_bias(index_t s, index_t h,
                                                     index_t cell) const noexcept {
    return bias.given() ? bias.at(extent, s, h, cell) : 0.0f;
  }
  [[nodiscard]] KVSLIM_HD constexpr auto key(index_t s, index_t h, index_t cell) const noexcept {
    return channel_range<typename Key::value_type>(k.row(s, h, cell), k.layout.channel_stride(),
                                                   extent.head_dim);
  }
  [[nodiscard]] KVSLIM_HD constexpr auto value(index_t s, index_t h, index_t cell) const noexcept {
    return channel_range<typename Value::value_type>(v.row(s, h, cell), v.layout.channel_stride(),
                                                     extent.value_width());
  }
  /// True if heads of a sequence may hold different tokens, or the same ones in other cells.
  [[nodiscard]] KVSLIM_HD constexpr bool orders_per_head() const noexcept {
    return positions.per_head() || valid.per_head() || lengths.kv_head != 0;
  }
  /// True if ranks are cells, whatever the data: nothing says otherwise.
  [[nodiscard]] KVSLIM_HD constexpr bool in_text_order() const noexcept {
    return !positions.given() && !valid.given();
  }
};

namespace detail {

/// What extents must be, wherever they come from.
[[nodiscard]] KVSLIM_HD constexpr status check_extents(extents const& e) noexcept {
  if (e.sequences <= 0 || e.kv_heads <= 0 || e.head_dim <= 0 || e.value_dim < 0)
    return fail(errc::invalid_shape, "kvslim: extents must be positive");
  if (e.head_dim > extents::most_channels || e.value_dim > extents::most_channels)
    return fail(errc::invalid_shape, "kvslim: head_dim and value_dim are at most 1024");
  if (e.sequences > extents::most_rows || e.kv_heads > extents::most_rows / e.sequences)
    return fail(errc::invalid_shape, "kvslim: there are at most 2^24 rows (sequences * kv_heads)");
  if (e.tokens < 0 || e.tokens > extents::most_tokens || e.rows() * e.tokens > extents::most_cells)
    return fail(errc::invalid_shape, "kvslim: at most 2^30 tokens a row, 2^40 cells in all");
  return {};
}

}  // namespace detail

/// Contiguous K and V in [sequence, kv_head, token, head_dim] order.
template <class Space = host_space, element T>
[[nodiscard]] KVSLIM_HD constexpr auto dense_cache(T* k, T* v, extents e) noexcept {
  using plane_type = plane<T, strided, Space>;
  // What no plan accepts gets no strides either: they could overflow.
  if (!detail::check_extents(e)) return cache_view<plane_type>{e, {k, {}}, {v, {}}};
  index_t const wide = e.value_width();
  strided const keys{e.kv_heads * e.tokens * e.head_dim, e.tokens * e.head_dim, e.head_dim, 1};
  strided const values{e.kv_heads * e.tokens * wide, e.tokens * wide, wide, 1};
  return cache_view<plane_type>{e, {k, keys}, {v, values}};
}

namespace detail {

/// Everything about a view that can be checked without reading K or V. What only device memory can
/// tell is not looked at.
template <class Cache>
[[nodiscard]] constexpr status check_cache(Cache const& cache) noexcept {
  auto const& e = cache.extent;
  if (auto const s = check_extents(e); !s) return s;
  if (e.tokens == 0) return fail(errc::invalid_shape, "kvslim: the cache holds no tokens");
  if (cache.k.data == nullptr || cache.v.data == nullptr)
    return fail(errc::invalid_pointer, "kvslim: K or V is a null pointer");
  index_t longest = e.tokens;
  if constexpr (std::same_as<typename Cache::space, host_space>) {
    longest = 0;
    for (index_t r = 0; r < e.rows(); ++r) {
      index_t const n = cache.length(r / e.kv_heads, r % e.kv_heads);
      if (n < 0 || n > e.tokens)
        return fail(errc::invalid_shape,
                    "kvslim: a sequence length is negative or above extents.tokens");
      longest = max(longest, n);
    }
  }
  if (auto const s = cache.k.layout.check(e, longest); !s) return s;
  if (auto const s = cache.v.layout.check(e, longest); !s) return s;
  if constexpr (std::same_as<typename Cache::space, host_space>) {
    for (index_t r = 0; r < e.rows(); ++r) {
      index_t const s = r / e.kv_heads, h = r % e.kv_heads, n = cache.length(s, h);
      if (!serves(cache.k.layout, s, n) || !serves(cache.v.layout, s, n))
        return fail(errc::invalid_shape, "kvslim: a page list is shorter than its sequence");
      if (cache.in_text_order() && !cache.bias.given()) continue;  // nothing is said of tokens
      for (index_t t = 0; t < n; ++t) {
        auto const state = cache.state(s, h, t);
        if (state == token_state::padding) continue;
        if (static_cast<std::uint8_t>(state) > 2)
          return fail(errc::invalid_option, "kvslim: valid must be 0 (padding), 1 or 2 (pinned)");
        if (cache.position(s, h, t) < 0 || cache.position(s, h, t) > extents::most_tokens)
          return fail(errc::invalid_shape, "kvslim: positions must be in [0, 2^30]");
        float const x = cache.logit_bias(s, h, t);
        if (x != x || x > 3.0e38f)
          return fail(errc::non_finite, "kvslim: a logit bias is NaN or +infinity");
      }
    }
  }
  return {};
}

}  // namespace detail

KVSLIM_END_NAMESPACE
