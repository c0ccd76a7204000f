// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What one pass of attention over a row on the CPU works in: queries, softmax states and sums.

#include <kvslim/ops/softmax.hpp>
#include <kvslim/store/packed_cache.hpp>

#include <cmath>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Tokens whose sums are kept apart before they are added to the total: float sums stay exact
/// enough for a million tokens.
inline constexpr index_t attend_stretch = 1024;
/// Rows up to this many slots need no carry.
inline constexpr index_t attend_short = 32 * attend_stretch;
inline constexpr index_t attend_stack_floats = 1536;  // 6 KiB, and a row of scores
inline constexpr index_t attend_any_floats = index_t{1} << 40;

/// Weighted sums of values, [heads, width] each: in channels, or in a codec's own basis.
struct attend_sums {
  float* local;  // of the current stretch
  float* sum;
  float* carry;  // what `sum` lost to rounding; null before a second stretch, and in short rows
  float* carry_room;  // null for short rows
  index_t floats;

  /// Cuts them from `memory`, zeroed; returns what follows.
  KVSLIM_HD float* carve(float* memory, index_t size, bool carries) noexcept {
    floats = size;
    local = memory;
    sum = local + floats;
    carry = nullptr;
    carry_room = carries ? sum + floats : nullptr;
    for (index_t i = 0; i < 2 * floats; ++i) memory[i] = 0.0f;
    return memory + (carries ? 3 : 2) * floats;
  }
  /// Makes the first stretch's sums of all heads their totals, which are zero.
  KVSLIM_HD void fold_first() noexcept {
    float* const zeros = sum;
    sum = local;
    local = zeros;
  }
  /// Before a further stretch is added: from here on rounding is kept.
  KVSLIM_HD void begin_carry() noexcept {
    if (carry != nullptr || carry_room == nullptr) return;
    carry = carry_room;
    for (index_t i = 0; i < floats; ++i) carry[i] = 0.0f;
  }
  /// Adds the stretch's sums of one head to its totals, which shrink.
  KVSLIM_HD void fold(index_t h, index_t width, float shrink) const noexcept {
    float* const total = sum + h * width;
    float* const add = local + h * width;
    if (shrink == 0.0f) {  // nothing before it counts
      for (index_t d = 0; d < width; ++d) total[d] = add[d];
      if (carry != nullptr) {
        float* const lost = carry + h * width;
        for (index_t d = 0; d < width; ++d) lost[d] = 0.0f;
      }
    } else if (carry == nullptr) {
      for (index_t d = 0; d < width; ++d) total[d] = total[d] * shrink + add[d];
    } else {
      float* const lost = carry + h * width;
      for (index_t d = 0; d < width; ++d) {
        float const before = total[d] * shrink, more = add[d] + lost[d] * shrink;
        float const after = before + more;
        float const kept = after - before;
        lost[d] = (before - (after - kept)) + (more - kept);
        total[d] = after;
      }
    }
    for (index_t d = 0; d < width; ++d) add[d] = 0.0f;
  }
};

/// Query heads (of one or more query tokens) that one pass over a row serves.
struct attend_piece {
  index_t heads;
  attend_precision precision;
  float* scores;         // [step_rows, run_tokens]
  index_t step_rows;     // runs times heads whose weights are made together
  digit_rows* room;      // where kernels work; null without scratch
  digit_rows* kept;      // what kernels make of q, or of own_q
  float* q;              // [heads, head_dim], scaled
  float* own_q;          // [heads, key_own_dim], prepared; none for keys in channels
  attend_sums sums;      // in channels: all of V, or its exact tail
  attend_sums own = {};  // of V's blocks in a basis of their own; none for values in channels
  bool fresh;            // no stretch was added to the totals yet
  std::int32_t limit[run_heads];     // a query's own position
  std::int32_t earliest[run_heads];  // first position in its window
  float* logits[run_heads];          // where logits go, by slot; null: nowhere
  ops::softmax_state state[run_heads];
};

/// Adds the stretch's sums to the totals, which are relative to state.most. `own`: width of sums in
/// a basis of their own, 0 without one.
KVSLIM_HD inline void fold_stretch(attend_piece& piece, index_t width, index_t own,
                                   float const* total, float const* most) noexcept {
  bool const first = piece.fresh;
  piece.fresh = false;
  if (first) {
    piece.sums.fold_first();
    if (own > 0) piece.own.fold_first();
  } else {
    piece.sums.begin_carry();
    if (own > 0) piece.own.begin_carry();
  }
  for (index_t h = 0; h < piece.heads; ++h) {
    auto& state = piece.state[h];
    if (most[h] == -INFINITY) continue;
    float const shrink = state.most == -INFINITY ? 0.0f : std::exp(state.most - most[h]);
    state.total = state.total * static_cast<double>(shrink) + static_cast<double>(total[h]);
    state.most = most[h];
    if (first) continue;
    piece.sums.fold(h, width, shrink);
    if (own > 0) piece.own.fold(h, own, shrink);
  }
}

/// How many whole runs from slot `slot` one call of the codec's dot or accumulate takes, at most
/// `most`: 1 where it takes none but its reach.
template <class Half>
[[nodiscard]] KVSLIM_HD index_t runs_together(Half const& half, index_t slot, index_t end,
                                              index_t most) noexcept {
  if constexpr (Half::codec_type::traits.long_runs)
    if (slot % half.sizes.block_tokens == 0)
      return max(min(most, (min(end, half.coded) - slot) / run_tokens), 1);
  return 1;
}

/// scores[h][i] += q[h] . key of slot + i; n at most the half's reach, or whole runs where the
/// codec takes several, piece.heads * run_tokens scores each.
template <class Half>
KVSLIM_HD KVSLIM_DETAIL_APART void dot_step(Half const& keys, index_t slot, index_t n,
                                            coded_bytes const& next, attend_piece const& piece,
                                            float* scores) {
  keys.visit(slot, n, [&](auto const& codec, std::byte const* block, site at) {
    at.next = next.at;
    at.next_bytes = next.size;
    at.precision = piece.precision;
    at.room = piece.room;
    at.apart = piece.heads * run_tokens;
    constexpr bool own = in_own_basis<decltype(codec)>;
    at.lasting = own ? piece.own_q : piece.q;
    at.lasting_heads = piece.heads;
    at.lasting_dim = own ? keys.sizes.own_dim : at.dim;
    at.kept = at.lasting_dim <= at.dim ? piece.kept : nullptr;  // it has room for the channels
    codec.dot(block, at, at.lasting, piece.heads, scores);
  });
}

/// out[h] += sum of p[h][i] * value of slot + i; n at most the half's reach, or whole runs of
/// blocks where the codec takes several.
template <class Half>
KVSLIM_HD KVSLIM_DETAIL_APART void accumulate_step(Half const& values, index_t slot, index_t n,
                                                   coded_bytes const& next, float const* p,
                                                   attend_piece const& piece) {
  values.visit(slot, n, [&](auto const& codec, std::byte const* block, site at) {
    at.next = next.at;
    at.next_bytes = next.size;
    at.precision = piece.precision;
    at.room = piece.room;
    at.apart = piece.heads * run_tokens;
    codec.accumulate(block, at, p, piece.heads,
                     in_own_basis<decltype(codec)> ? piece.own.local : piece.sums.local);
  });
}

/// How an attend call is cut: pieces of heads, splits of slots.
struct attend_shape {
  index_t group;          // query heads of a KV head
  index_t virtual_heads;  // group * query tokens
  index_t piece_heads, pieces, splits;
  index_t digits;  // digit_rows of a piece
  index_t step_rows;
  index_t piece_floats;  // per work item
};

/// Floats that one head of a piece works in.
template <class Layout>
[[nodiscard]] KVSLIM_HD constexpr index_t attend_head_floats(Layout const& layout,
                                                             bool carries) noexcept {
  return layout.extent.head_dim + layout.key_own_dim() +
         (carries ? 3 : 2) * (layout.extent.value_width() + layout.value_own_dim());
}

/// `floats`: what a piece may work in.
template <class Layout>
[[nodiscard]] constexpr attend_shape shape_attend(Layout const& layout, index_t q_heads,
                                                  index_t q_tokens, index_t splits, bool carries,
                                                  index_t floats) noexcept {
  attend_shape x{};
  index_t const head_floats = attend_head_floats(layout, carries),
                room = min(floats, attend_any_floats - run_tokens) + run_tokens,
                fit = room / (head_floats + run_tokens);
  x.group = q_heads / layout.extent.kv_heads;
  x.virtual_heads = x.group * q_tokens;
  x.piece_heads = max(1, min(min(x.virtual_heads, run_heads), fit));
  x.pieces = div_up(x.virtual_heads, x.piece_heads);
  x.splits = splits;
  bool const roomy = floats == attend_any_floats;
  x.digits = roomy ? digit_rows_of(x.piece_heads, layout.extent.head_dim) + digit_room : 0;
  x.step_rows =
      roomy ? 2 * run_heads : min(run_heads, (room - x.piece_heads * head_floats) / run_tokens);
  x.piece_floats = x.digits * digit_row_floats + x.step_rows * run_tokens +
                   round_up(x.piece_heads * head_floats, 16);
  return x;
}

/// Floats of one split's partial result per virtual head: value_dim sums, the largest logit, and
/// the total as two floats.
[[nodiscard]] KVSLIM_HD constexpr index_t partial_floats(extents const& e) noexcept {
  return e.value_width() + 3;
}

}  // namespace detail

KVSLIM_END_NAMESPACE
