// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/text.hpp>
#include <kvslim/ops/select.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// Tokens [first, first + extents().tokens) of a text, as a text of their own.
template <class Text>
struct text_part {
  using space = typename Text::space;

  Text text;
  kvslim::extents extent;  ///< of the part: its tokens are the most that a row has
  index_t first = 0;

  [[nodiscard]] KVSLIM_HD constexpr kvslim::extents const& extents() const noexcept {
    return extent;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t row_cells() const noexcept { return text.row_cells(); }
  [[nodiscard]] KVSLIM_HD constexpr index_t tokens(index_t s, index_t h) const noexcept {
    return detail::max(0, detail::min(text.tokens(s, h) - first, extent.tokens));
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t cell(index_t s, index_t h,
                                                 index_t rank) const noexcept {
    return text.cell(s, h, first + rank);
  }
  [[nodiscard]] KVSLIM_HD constexpr std::int32_t position(index_t s, index_t h,
                                                          index_t rank) const noexcept {
    return text.position(s, h, first + rank);
  }
  [[nodiscard]] KVSLIM_HD constexpr bool pinned(index_t s, index_t h, index_t rank) const noexcept {
    return text.pinned(s, h, first + rank);
  }
  [[nodiscard]] KVSLIM_HD constexpr float logit_bias(index_t s, index_t h,
                                                     index_t rank) const noexcept {
    return text.logit_bias(s, h, first + rank);
  }
  [[nodiscard]] KVSLIM_HD constexpr auto key(index_t s, index_t h, index_t rank) const noexcept {
    return text.key(s, h, first + rank);
  }
  [[nodiscard]] KVSLIM_HD constexpr auto value(index_t s, index_t h, index_t rank) const noexcept {
    return text.value(s, h, first + rank);
  }
  [[nodiscard]] KVSLIM_HD constexpr std::int32_t next_position(index_t s,
                                                               index_t h) const noexcept {
    index_t const n = tokens(s, h);
    return n == 0 ? 0 : position(s, h, n - 1) + 1;
  }
};

/// The score of the token in place `place` of a chunk of n: 0 for its best, for the others minus
/// the part of the chunk that it and those before it make up.
[[nodiscard]] KVSLIM_HD constexpr float place_score(index_t place, index_t n) noexcept {
  return place == 0 ? 0.0f : -static_cast<float>(place + 1) / static_cast<float>(n);
}

struct chunk_places_op {};

/// Scores of one chunk's tokens by their places in it: what `out` gets from rank `part.first` on,
/// and 0 behind a row's tokens. The newest `recent` tokens of the chunk take the first places.
///
/// Shapes: scores [rows, part.extents().tokens], keys likewise (CPU), out [rows, tokens] of the
/// whole text. Cost: a sort of the chunk on the CPU; on CUDA a thread for every token, which counts
/// those before it.
template <class Exec, class Text>
status chunk_places(Exec const& exec, text_part<Text> const& part, index_t recent,
                    score_view scores, std::uint64_t* keys, score_view out) {
  return implementation<chunk_places_op, Exec>::run(exec, part, recent, scores, keys, out);
}

/// Where token i of n stands: larger comes first, all differ.
[[nodiscard]] KVSLIM_HD inline std::uint64_t place_key(float const* scores, index_t i, index_t n,
                                                       index_t recent) noexcept {
  return order_key(i >= n - recent ? INFINITY : scores[i], i);
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::chunk_places_op, Exec> {
  template <class Text>
  static status run(Exec const& exec, ops::text_part<Text> const& part, index_t recent,
                    score_view scores, std::uint64_t* keys, score_view out) {
    auto const e = part.extents();
    index_t const all = part.text.extents().tokens;
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const n = part.tokens(r / e.kv_heads, r % e.kv_heads);
      std::uint64_t* const mine = keys + r * e.tokens;
      float* const to = out.row(r) + part.first;
      for (index_t i = 0; i < n; ++i) mine[i] = ops::place_key(scores.row(r), i, n, recent);
      std::sort(mine, mine + n, [](std::uint64_t a, std::uint64_t b) { return a > b; });
      for (index_t i = 0; i < n; ++i) to[ops::key_index(mine[i])] = ops::place_score(i, n);
      for (index_t i = n; i < detail::min(e.tokens, all - part.first); ++i) to[i] = 0.0f;
    });
    return {};
  }
};

KVSLIM_END_NAMESPACE
