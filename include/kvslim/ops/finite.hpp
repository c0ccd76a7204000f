// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/rows.hpp>
#include <kvslim/core/status.hpp>
#include <kvslim/ops/rows.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// Largest finite float: `within` this, a value is neither NaN nor infinite.
inline constexpr float largest_float = 3.4028234e38f;

/// True if every channel of a row is at most `limit` in magnitude, and not NaN.
template <class T>
[[nodiscard]] KVSLIM_HD inline bool row_within(channel_range<T> const& row, float limit) noexcept {
  return within(row.first(), row.stride(), row.size(), limit);
}
template <class Row>
[[nodiscard]] KVSLIM_HD inline bool row_within(Row const& row, float limit) noexcept {
  for (float const x : row)
    if (!is_finite(x) || x > limit || x < -limit) return false;
  return true;
}

template <class Byte, class Space>
[[nodiscard]] KVSLIM_HD inline bool row_within(detail::typeless_rows<Byte, Space> const& r,
                                               index_t s, index_t h, index_t t,
                                               float limit) noexcept {
  bool good = false;
  r.visit(s, h, t, [&](auto const* in) { good = within(in, r.layout.channel, r.head_dim, limit); });
  return good;
}

/// True if all of [sequences, heads, tokens] rows are within `limit`.
template <class Byte, class Space>
[[nodiscard]] inline bool all_within(detail::typeless_rows<Byte, Space> const& r,
                                     float limit) noexcept {
  for (index_t s = 0; s < r.sequences; ++s)
    for (index_t h = 0; h < r.heads; ++h)
      for (index_t t = 0; t < r.tokens; ++t)
        if (!row_within(r, s, h, t, limit)) return false;
  return true;
}

/// Queries that a scorer may read: there, of the right shape, finite.
template <class Space>
[[nodiscard]] status check_queries(rows<Space> const& q, extents const& e) noexcept {
  if (q.data == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: the queries are a null pointer");
  if (q.sequences != e.sequences || q.head_dim != e.head_dim || q.tokens < 1 || q.heads < 1 ||
      q.heads % e.kv_heads != 0)
    return detail::fail(errc::invalid_shape,
                        "kvslim: queries must be [sequences, n * kv_heads, window, head_dim]");
  if constexpr (std::same_as<Space, host_space>) {
    if (!all_within(q, largest_float))
      return detail::fail(errc::non_finite, "kvslim: the queries hold NaN or infinity");
  }
  return {};
}

/// A table that was made offline, [layers, heads, tokens, width], for layers that are consecutive
/// sequences of a view: there, of the right shape, finite.
template <class Space>
[[nodiscard]] status check_table(rows<Space> const& table, extents const& e, index_t heads,
                                 index_t tokens, index_t width) noexcept {
  if (table.data == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: a table of the model is a null pointer");
  if (table.sequences < 1 || e.sequences % table.sequences != 0 ||
      !table.has_shape(table.sequences, heads, tokens, width))
    return detail::fail(errc::invalid_shape,
                        "kvslim: a table of the model does not fit: its layers must divide the "
                        "view's sequences, its heads and widths be the cache's");
  if constexpr (std::same_as<Space, host_space>) {
    if (!all_within(table, largest_float))
      return detail::fail(errc::non_finite, "kvslim: a table of the model holds NaN or infinity");
  }
  return {};
}

}  // namespace ops

KVSLIM_END_NAMESPACE
