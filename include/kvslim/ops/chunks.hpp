// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Chunks of consecutive tokens, in text order from the first on, that stay or go together. The
/// last one of a row may be shorter.

#include <kvslim/core/keep_set.hpp>
#include <kvslim/exec/cpu.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// Everything about the chunks of all rows. All memory is the caller's; `extent` is the text's, its
/// tokens being chunks.
struct chunks {
  index_t size = 1;  ///< tokens of a chunk
  extents extent = {};
  std::int32_t* counts = nullptr;  ///< [rows]: chunks
  float* scores = nullptr;         ///< [rows, chunks]: mean over a chunk's open tokens
  fate* fates = nullptr;           ///< [rows, chunks]: evicted to begin with
  quota* quotas = nullptr;         ///< [rows]: chunks that there is room for
  quota* rest = nullptr;           ///< [rows]: tokens, where there is room for no chunk

  /// Writes what follows from a row's number of tokens and of protected ones.
  KVSLIM_HD void set_row(index_t row, index_t tokens, index_t sure, index_t count) const noexcept {
    index_t const room = detail::min(count, tokens) - sure;
    bool const whole = count >= tokens, some = !whole && room >= size;
    counts[row] = static_cast<std::int32_t>(detail::div_up(tokens, size));
    quotas[row] = {.count = whole ? counts[row] : some ? room / size : 0};
    rest[row] = {.count = whole || some ? 0 : count};
  }
  /// Score of a chunk of a row of n tokens, summed in text order on every backend; -inf for one
  /// without open tokens.
  [[nodiscard]] KVSLIM_HD float score_of(index_t chunk, index_t n, float const* tokens,
                                         fate const* of_tokens) const noexcept {
    float sum = 0.0f;
    index_t open = 0;
    for (index_t i = chunk * size; i < detail::min(n, (chunk + 1) * size); ++i) {
      if (of_tokens[i] != fate::evicted) continue;
      sum += tokens[i];
      ++open;
    }
    return open > 0 ? sum / static_cast<float>(open) : -__builtin_inff();
  }
};

/// Chunks as the tokens of a text, for ops::keep_best.
struct chunks_text {
  kvslim::extents extent;
  std::int32_t const* counts;

  [[nodiscard]] KVSLIM_HD constexpr kvslim::extents const& extents() const noexcept {
    return extent;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t tokens(index_t s, index_t h) const noexcept {
    return counts[s * extent.kv_heads + h];
  }
};

struct make_chunks_op {};

/// Fills `chunks` from tokens' scores and protected fates. Cost: one pass over both.
template <class Exec, class Text>
status make_chunks(Exec const& exec, Text const& text, score_view scores, slice<quota const> quotas,
                   fate const* fates, chunks const& out) {
  return implementation<make_chunks_op, Exec>::run(exec, text, scores, quotas, fates, out);
}

struct keep_chunks_op {};

/// Keeps the open tokens of kept chunks.
template <class Exec, class Text>
status keep_chunks(Exec const& exec, Text const& text, chunks const& of, fate* fates) {
  return implementation<keep_chunks_op, Exec>::run(exec, text, of, fates);
}

/// Keeps token i of row r if its chunk is kept.
template <class Text>
KVSLIM_HD inline void keep_of_chunk(Text const& text, chunks const& of, fate* fates, index_t r,
                                    index_t i) {
  auto const& e = text.extents();
  if (i >= text.tokens(r / e.kv_heads, r % e.kv_heads)) return;
  fate& mine = fates[r * e.tokens + i];
  if (mine == fate::evicted && of.fates[r * of.extent.tokens + i / of.size] == fate::kept)
    mine = fate::kept;
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::make_chunks_op, Exec> {
  template <class Text>
  static status run(Exec const& exec, Text const& text, score_view scores,
                    slice<quota const> quotas, fate const* fates, ops::chunks const& out) {
    auto const& e = text.extents();
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const n = text.tokens(r / e.kv_heads, r % e.kv_heads);
      fate const* const mine = fates + r * e.tokens;
      index_t sure = 0;
      for (index_t i = 0; i < n; ++i) sure += mine[i] != fate::evicted ? 1 : 0;
      out.set_row(r, n, sure, quotas[r].count);
      for (index_t c = 0; c < out.counts[r]; ++c) {
        out.scores[r * out.extent.tokens + c] = out.score_of(c, n, scores.row(r), mine);
        out.fates[r * out.extent.tokens + c] = fate::evicted;
      }
    });
    return {};
  }
};

template <host_executor Exec>
struct implementation<ops::keep_chunks_op, Exec> {
  template <class Text>
  static status run(Exec const& exec, Text const& text, ops::chunks const& of, fate* fates) {
    auto const& e = text.extents();
    exec.for_each(e.rows(), [=](index_t r) {
      for (index_t i = 0; i < e.tokens; ++i) ops::keep_of_chunk(text, of, fates, r, i);
    });
    return {};
  }
};

KVSLIM_END_NAMESPACE
