// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/affine.hpp>
#include <kvslim/core/concepts.hpp>
#include <kvslim/exec/cpu.hpp>

#include <cmath>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

struct key_balance_op {};

/// What every channel of K is divided by, and queries multiplied by, for both to have one peak:
/// out[row][head_dim] = sqrt(max |k| / max |q|), row sequence * kv_heads + kv_head, over the tokens
/// that the view holds and the queries of the row's query heads; 1 where either is 0. What codecs
/// that divide keys by given factors are bound to (quant/mikv.hpp).
///
/// Shapes: queries [sequence, q_head, window, head_dim], any number of them; out in memory of the
/// executor. Returns: invalid_pointer (null), invalid_shape (no queries, or sequences, channels or
/// heads that are not the view's), whatever is wrong with the view; then nothing was written. Cost:
/// one read of K and of the queries.
template <class Exec, class Space, class Cells>
[[nodiscard]] status key_balance(Exec const& exec, rows<Space> const& queries, Cells const& cells,
                                 float* out) {
  if (queries.data == nullptr || out == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: key_balance was given a null pointer");
  if (auto const s = detail::check_cache(cells); !s) return s;
  auto const& e = cells.extents();
  if (queries.tokens < 1 || queries.heads < 1 || queries.heads % e.kv_heads != 0 ||
      queries.sequences != e.sequences || queries.head_dim != e.head_dim)
    return detail::fail(errc::invalid_shape,
                        "kvslim: key_balance needs at least one query a head, of the view's "
                        "sequences and channels, and query heads that are a multiple of its heads");
  return implementation<key_balance_op, Exec>::run(exec, queries, cells, out);
}
template <class Exec, class T, class Space, class Cells>
[[nodiscard]] status key_balance(Exec const& exec, rows_view<T, Space> const& queries,
                                 Cells const& cells, float* out) {
  return key_balance(exec, rows<Space>(queries), cells, out);
}

}  // namespace ops

namespace detail {

/// Channels [Width * i, Width * (i + 1)) of all rows' parts.
template <index_t Width, class Space, class Cells>
struct key_balance_body {
  kvslim::rows<Space> queries;
  Cells cells;
  float* out;

  [[nodiscard]] static KVSLIM_HD constexpr index_t parts(index_t dim) noexcept {
    return div_up(dim, Width);
  }
  KVSLIM_HD void operator()(index_t i) const {
    auto const& e = cells.extents();
    index_t const dim = e.head_dim, r = i / parts(dim), first = i % parts(dim) * Width,
                  n = min(Width, dim - first);
    index_t const s = r / e.kv_heads, h = r % e.kv_heads, group = queries.heads / e.kv_heads;
    local<float, Width> key, query;
    for (index_t j = 0; j < Width; ++j) key[j] = query[j] = 0.0f;
    for (index_t t = 0; t < cells.length(s, h); ++t) {
      if (cells.state(s, h, t) == token_state::padding) continue;
      auto const k = cells.key(s, h, t);
      for (index_t j = 0; j < n; ++j) key[j] = larger(key[j], k[first + j]);
    }
    for (index_t g = 0; g < group; ++g)
      for (index_t t = 0; t < queries.tokens; ++t)
        for (index_t j = 0; j < n; ++j)
          query[j] = larger(query[j], queries.at(s, h * group + g, t, first + j));
    for (index_t j = 0; j < n; ++j)
      out[r * dim + first + j] =
          key[j] > 0.0f && query[j] > 0.0f ? std::sqrt(divide(key[j], query[j])) : 1.0f;
  }

 private:
  [[nodiscard]] static KVSLIM_HD float larger(float most, float x) noexcept {
    float const size = x < 0.0f ? -x : x;
    return size > most ? size : most;
  }
};

}  // namespace detail

template <host_executor Exec>
struct implementation<ops::key_balance_op, Exec> {
  template <class Space, class Cells>
  static status run(Exec const& exec, rows<Space> const& queries, Cells const& cells, float* out) {
    using body = detail::key_balance_body<16, Space, Cells>;
    auto const& e = cells.extents();
    exec.for_each(e.rows() * body::parts(e.head_dim), body{queries, cells, out});
    return {};
  }
};

KVSLIM_END_NAMESPACE
