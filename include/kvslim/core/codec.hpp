// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// A codec says how one lane (K or V of one KV head) is stored. Tokens are grouped into blocks of
/// fixed bytes; the newest tokens may wait in an exact tail until enough of them exist. Attention
/// reads blocks directly.

#include <concepts>
#include <kvslim/core/elements.hpp>
#include <kvslim/core/status.hpp>
#include <kvslim/core/view.hpp>
#include <type_traits>

KVSLIM_BEGIN_NAMESPACE

/// Tokens that attention handles in one step; scores and weights of a run are [q_heads][run_tokens]
/// floats.
inline constexpr index_t run_tokens = 32;
/// Query heads handled in one step; larger groups are processed in pieces.
inline constexpr index_t run_heads = 8;

/// Logical positions of consecutive tokens of a row: a stored list, or a first position that counts
/// up.
struct run_positions {
  std::int32_t const* list = nullptr;
  std::int32_t first = 0;

  [[nodiscard]] KVSLIM_HD constexpr std::int32_t operator[](index_t i) const noexcept {
    return list != nullptr ? list[i] : first + static_cast<std::int32_t>(i);
  }
};

/// The tokens that one call of a codec is about: [first, first + n) of a block, and what is known
/// of them.
struct block_run {
  index_t first = 0, n = 1, dim = 0;
  index_t token = 0;  ///< place of the first one in its row
  index_t row =
      0;  ///< sequence * kv_heads + kv_head: finds a basis or codebook that belongs to a head
  index_t member = 0;  ///< place in the row group
  run_positions positions =
      {};  ///< [n]; after eviction only stored where the codec says uses_positions
  std::byte const* state = nullptr;  ///< what fit() stored for the lane, null without one
};

/// What both kinds of codec promise. Blocks lie next to each other; dot and
/// accumulate are handed several in one call (run.n past the first one's end) if they hold fewer
/// than run_tokens. `rows` is [run.n, run.dim] floats; decode gives one channel of token run.first.
template <class C>
concept codec = std::is_trivially_copyable_v<C> &&
    requires(C const c, index_t i, block_run const run, float const* rows, std::byte* block,
             std::byte const* stored) {
  typename C::tail_type;                   // element type of the exact tail
  { c.check(i) } -> std::same_as<status>;  // head_dim fits
  { c.block_tokens() } -> std::same_as<index_t>;
  { c.block_bytes(i) } -> std::same_as<index_t>;  // of head_dim
  { c.coded(i) } -> std::same_as<index_t>;        // of i settled tokens, how many are in blocks
  { c.tail_tokens() } -> std::same_as<index_t>;   // slots of the exact tail, 0: none
  { c.whole_blocks() } -> std::same_as<bool>;     // blocks are only written whole
  c.encode(rows, run, block);
  { c.decode(stored, run, i) } -> std::same_as<float>;  // block, token, channel
};

/// dot(block, run, q, heads, scores): scores[h][i] += q[h] . k[run.first + i]; q is [heads, dim].
template <class C>
concept key_codec = codec<C> && requires(C const c, std::byte const* b, block_run const run,
                                         float const* q, float* out, index_t i) {
  c.dot(b, run, q, i, out);
};

/// accumulate(block, run, p, heads, out): out[h] += sum_i p[h][i] * v[run.first + i]; out is
/// [heads, dim].
template <class C>
concept value_codec = codec<C> && requires(C const c, std::byte const* b, block_run const run,
                                           float const* p, float* out, index_t i) {
  c.accumulate(b, run, p, i, out);
};

// What a codec may have besides. A missing member means the default.

/// `float largest_value() const`: values beyond it are refused; without one the tail's element type
/// decides.

/// `static constexpr bool uses_positions = true`: the codec reads run.positions, so they are stored
/// whenever rows may have gaps.
template <class C>
inline constexpr bool uses_positions = false;
template <class C>
requires requires { C::uses_positions; }
inline constexpr bool uses_positions<C> = C::uses_positions;

/// `row_group group() const`: these rows share one block per stretch of tokens, which lies in the
/// first of them. encode is handed [members, n, dim]; the rows must keep the same tokens; each
/// keeps its own exact tail.
template <class C>
[[nodiscard]] KVSLIM_HD constexpr row_group group_of(C const& codec) noexcept {
  if constexpr (requires { codec.group(); })
    return codec.group();
  else
    return {};
}

namespace detail {

/// Stands for `read` where only its type counts. A lambda would do, but nvcc then calls every
/// requirement unmet.
struct no_rows {
  KVSLIM_HD void operator()(index_t, index_t, float*) const noexcept {}
};

}  // namespace detail

/// `state_bytes(dim, tokens)`, `fit_floats(dim, tokens)` and `fit(read, tokens, run, state,
/// scratch)`: something computed from the whole lane before its blocks (a basis, a codebook, a list
/// of outliers) and stored once per row group. `read(member, token, out)` gives one row; `tokens`
/// may be 0. append() leaves the state as it is.
template <class C>
concept fitted_codec = requires(C const c, index_t i, block_run const run, std::byte* state,
                                float* scratch) {
  { c.state_bytes(i, i) } -> std::same_as<index_t>;
  { c.fit_floats(i, i) } -> std::same_as<index_t>;
  c.fit(detail::no_rows{}, i, run, state, scratch);
};
template <class C>
[[nodiscard]] KVSLIM_HD constexpr index_t state_bytes_of(C const& codec, index_t dim,
                                                         index_t tokens) noexcept {
  if constexpr (fitted_codec<C>)
    return codec.state_bytes(dim, tokens);
  else
    return 0;
}

namespace detail {

/// Calls f(constant number of heads, first head) for groups of four heads, then for single ones:
/// sums of a fixed number of heads stay in registers.
template <class F>
KVSLIM_HD inline void by_heads(index_t heads, F const& f) noexcept {
  index_t h = 0;
  for (; h + 4 <= heads; h += 4) f(std::integral_constant<index_t, 4>{}, h);
  for (; h < heads; ++h) f(std::integral_constant<index_t, 1>{}, h);
}

}  // namespace detail

KVSLIM_END_NAMESPACE
