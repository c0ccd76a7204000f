// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/ops/text_order.hpp>
#include <kvslim/run/append.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// What decode works in: an order of up to `tokens` slots a row, and one row of either half.
struct decode_space {
  std::int32_t* cells;
  std::int32_t* counts;
  std::uint64_t* keys;
  float* rows;
};

[[nodiscard]] constexpr decode_space carve_decode(extents const& e, index_t tokens,
                                                  carver& c) noexcept {
  decode_space w{};
  w.cells = c.take<std::int32_t>(e.rows() * tokens);
  w.counts = c.take<std::int32_t>(e.rows());
  w.keys = c.take<std::uint64_t>(e.rows() * tokens);
  w.rows = c.take<float>(e.rows() * max(e.head_dim, e.value_width()));
  return w;
}

}  // namespace detail

/// Bytes of scratch for decode of rows of up to `tokens` slots.
template <class Layout>
[[nodiscard]] constexpr std::size_t decode_bytes(Layout const& layout, index_t tokens) noexcept {
  if (!layout.check() || tokens < 0 || tokens > extents::most_tokens) return 0;
  detail::carver c(nullptr);
  static_cast<void>(detail::carve_decode(layout.extent, tokens, c));
  return static_cast<std::size_t>(c.used());
}

/// Writes the held tokens of every row as plain K and V, in text order, each rounded once to the
/// output's type: for engines that restore a cache, not for attention.
///
/// Shapes: k [sequence, kv_head, n, head_dim], v [.., value_dim], n at least every row's slots;
/// positions [sequence, kv_head, n] or null; scratch decode_bytes(layout, n). Rows beyond a row's
/// tokens are left as they are. Returns: invalid_pointer, invalid_shape, buffer_too_small, corrupt;
/// then nothing was written. Cost: one read of the stored bytes and one write.
template <host_executor Exec, class Key, class Value>
status decode(Exec const& exec, packed_cache<Key, Value, host_space> const& packed,
              rows_out<host_space> const& k, rows_out<host_space> const& v, std::int32_t* positions,
              workspace scratch) {
  if (packed.storage() == nullptr || k.data == nullptr || v.data == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: decode was given a null pointer");
  if (auto const s = detail::check_tables(packed); !s) return s;
  if (!packed.ready())
    return detail::fail(errc::corrupt, "kvslim: the packed cache was never filled");
  auto e = packed.extents();
  index_t const n = k.tokens;
  if (!k.has_shape(e.sequences, e.kv_heads, n, e.head_dim) ||
      !v.has_shape(e.sequences, e.kv_heads, n, e.value_width()))
    return detail::fail(errc::invalid_shape,
                        "kvslim: decode needs k and v as [sequences, kv_heads, tokens, dim]");
  for (index_t r = 0; r < e.rows(); ++r)
    if (packed.raw_row(r).slots > n)
      return detail::fail(errc::invalid_shape, "kvslim: decode's output is shorter than a row");
  if (auto const s = detail::check_workspace(scratch, decode_bytes(packed.layout(), n)); !s)
    return s;
  detail::carver carve(scratch.data);
  auto const w = detail::carve_decode(e, n, carve);
  e.tokens = n;
  using cells_type = detail::packed_cells<packed_cache<Key, Value, host_space>>;
  text<cells_type> ordered{cells_type{packed, e}};
  if (auto const s =
          ops::make_text_order(exec, ordered.cells, {w.cells, w.counts, w.keys}, ordered.order);
      !s)
    return s;
  index_t const wide = detail::max(e.head_dim, e.value_width());
  exec.for_each(e.rows(), [=](index_t r) {
    index_t const s = r / e.kv_heads, h = r % e.kv_heads;
    float* const row = w.rows + r * wide;
    for (index_t i = 0; i < ordered.tokens(s, h); ++i) {
      ordered.key(s, h, i).load(row);
      k.store(s, h, i, row);
      ordered.value(s, h, i).load(row);
      v.store(s, h, i, row);
      if (positions != nullptr) positions[r * n + i] = ordered.position(s, h, i);
    }
  });
  return {};
}

KVSLIM_END_NAMESPACE
