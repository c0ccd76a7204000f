// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// How encode reads the rows that a keep list names: by kernels where they lie in plain memory.

#include <kvslim/core/keep_set.hpp>
#include <kvslim/core/view.hpp>
#include <kvslim/isa/encode_kernels.hpp>
#include <kvslim/ops/finite.hpp>
#include <kvslim/store/packed_half.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Where K's (or V's) row of a cell lies, where cells are channels side by side in memory.
template <bool Keys, class Cells>
[[nodiscard]] KVSLIM_HD inline auto channels_of(Cells const& cells, index_t s, index_t h,
                                                index_t cell) noexcept {
  if constexpr (Keys)
    return cells.key(s, h, cell);
  else
    return cells.value(s, h, cell);
}
template <class T>
T plain_element(channel_range<T> const&) noexcept;
template <bool Keys, class Cells>
inline constexpr bool in_plain_memory = requires(Cells const c, index_t i) {
  detail::plain_element(detail::channels_of<Keys>(c, i, i, i));
};

template <class Cells>
inline constexpr bool lies_strided = false;
template <class K, class V, class Space>
inline constexpr bool lies_strided<cache_view<plane<K, strided, Space>, plane<V, strided, Space>>> =
    true;

/// Where n cells' channels begin, if they lie one behind the other; null if not, or if that is not
/// known.
template <bool Keys, class Cells>
[[nodiscard]] KVSLIM_HD inline auto in_one_piece(Cells const& cells, index_t s, index_t h,
                                                 std::int32_t const* kept, index_t n) noexcept {
  auto const first = channels_of<Keys>(cells, s, h, kept[0]);
  auto const* const none = decltype(first.first())(nullptr);
  if constexpr (requires {
                  cells.k.layout.token;
                  cells.v.layout.token;
                }) {
    auto const last = channels_of<Keys>(cells, s, h, kept[n - 1]);
    if (first.stride() != 1 || last.first() - first.first() != (n - 1) * first.size()) return none;
    if (kept[n - 1] - kept[0] != n - 1) return none;
    if (cells.in_text_order()) return first.first();  // a list that was checked ascends then
    std::int32_t gaps = 0;
    for (index_t i = 1; i < n; ++i) gaps |= (kept[i] - kept[i - 1]) ^ 1;
    return gaps == 0 ? first.first() : none;
  } else {
    return none;
  }
}

/// Reads entries [i, i + n) of row r's keep list as [n, dim] floats, where nothing is folded or
/// moved and a kernel reads them; false where none does.
template <bool Keys, class Plan, class Cells>
[[nodiscard]] KVSLIM_HD inline bool read_run(Plan const& plan, Cells const& cells,
                                             keep_set const& keep, index_t r, index_t i, index_t n,
                                             float* out) noexcept {
  if constexpr (in_plain_memory<Keys, Cells> && !Plan::has_merger && !(Plan::has_mover && Keys)) {
    auto const& e = plan.extents();
    index_t const s = r / e.kv_heads, h = r % e.kv_heads;
    std::int32_t const* const kept = keep.cells + keep.begins[r] + i;
    auto const first = channels_of<Keys>(cells, s, h, kept[0]);
    using value = decltype(plain_element(first));
    if (auto const* const in = in_one_piece<Keys>(cells, s, h, kept, n);
        in != nullptr && widen_run(in, n * first.size(), out))
      return true;
    return first.stride() == 1 &&
           widen_rows<value>(
               [&](index_t j) { return channels_of<Keys>(cells, s, h, kept[j]).first(); }, n,
               keep.count(r) - i, first.size(), out);
  } else {
    return false;
  }
}

/// Codes entries [i, i + n) of a row's keep list where they lie, if they lie side by side and the
/// codec reads such; false: nothing was written.
template <bool Keys, class Plan, class Cells, class Half>
[[nodiscard]] KVSLIM_HD inline bool encode_run(Plan const& plan, Cells const& cells,
                                               keep_set const& keep, Half const& to, index_t i,
                                               index_t n, coded_bytes ahead) noexcept {
  if constexpr (Half::codec_type::traits.encodes_stored && in_plain_memory<Keys, Cells> &&
                !Plan::has_merger && !(Plan::has_mover && Keys)) {
    index_t const heads = plan.extents().kv_heads, r = to.row;
    auto const* const in =
        in_one_piece<Keys>(cells, r / heads, r % heads, keep.cells + keep.begins[r] + i, n);
    return in != nullptr && to.encode_stored(i, n, in, ahead);
  } else {
    return false;
  }
}

/// What encode reads after entry i, if it is a run of plain memory: for kernels to fetch early.
template <bool Keys, class Cells>
[[nodiscard]] KVSLIM_HD inline coded_bytes next_run(Cells const& cells, keep_set const& keep,
                                                    index_t r, index_t i, index_t end) noexcept {
  index_t const n = min(end - i, run_tokens);
  if constexpr (in_plain_memory<Keys, Cells>) {
    if (n > 0) {
      index_t const heads = cells.extents().kv_heads;
      auto const* const in =
          in_one_piece<Keys>(cells, r / heads, r % heads, keep.cells + keep.begins[r] + i, n);
      index_t const dim = Keys ? cells.extents().head_dim : cells.extents().value_width();
      if (in != nullptr)
        return {static_cast<std::byte const*>(static_cast<void const*>(in)),
                n * dim * static_cast<index_t>(sizeof *in)};
    }
  }
  return {};
}

/// True if K's (or V's) rows of entries [i, i + n) of row r's list are within `limit`.
template <bool Keys, class Cells>
[[nodiscard]] KVSLIM_HD bool list_within(Cells const& cells, keep_set const& keep, index_t r,
                                         index_t i, index_t n, float limit) noexcept {
  index_t const heads = cells.extents().kv_heads, s = r / heads, h = r % heads;
  std::int32_t const* const kept = keep.cells + keep.begins[r] + i;
  if (n == 0) return true;
  if constexpr (in_plain_memory<Keys, Cells>) {
    auto const first = channels_of<Keys>(cells, s, h, kept[0]);
    bool good = false;
    using value = decltype(plain_element(first));
    if (auto const* const in = in_one_piece<Keys>(cells, s, h, kept, n);
        in != nullptr && run_within(in, n * first.size(), limit, good))
      return good;
    if (first.stride() == 1 &&
        rows_within<value>(
            [&](index_t j) { return channels_of<Keys>(cells, s, h, kept[j]).first(); }, n,
            first.size(), limit, good))
      return good;
  }
  for (index_t j = 0; j < n; ++j)
    if (!ops::row_within(channels_of<Keys>(cells, s, h, kept[j]), limit)) return false;
  return true;
}

}  // namespace detail

KVSLIM_END_NAMESPACE
