// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// A codec says how one lane (K or V of one KV head) is stored. Tokens are grouped into blocks of fixed bytes; the newest
/// tokens may wait in an exact tail until enough of them exist. Attention reads blocks directly.

#include <kvslim/core/status.hpp>
#include <kvslim/core/types.hpp>

#include <concepts>

KVSLIM_BEGIN_NAMESPACE

/// Tokens that attention handles in one step; scores and weights of a run are [q_heads][run_tokens] floats.
inline constexpr index_t run_tokens = 32;
/// Query heads handled in one step; larger groups are processed in pieces.
inline constexpr index_t run_heads = 8;

/// What both kinds of codec promise. Blocks of one token lie next to each other, so such a codec is handed several in one call. `rows` is [n, dim] floats; `first` and `n` count tokens inside one block.
template <class C>
concept codec = std::is_trivially_copyable_v<C> &&
                requires(C const c, index_t i, float const* rows, std::byte* block, std::byte const* stored) {
                  typename C::tail_type;                                              // element type of the exact tail
                  { c.check(i) } -> std::same_as<status>;                             // head_dim fits
                  { c.block_tokens() } -> std::same_as<index_t>;
                  { c.block_bytes(i) } -> std::same_as<index_t>;                      // of head_dim
                  { c.coded(i) } -> std::same_as<index_t>;                            // of i settled tokens, how many are in blocks
                  { c.tail_tokens() } -> std::same_as<index_t>;                       // slots of the exact tail, 0: none
                  { c.whole_blocks() } -> std::same_as<bool>;                         // blocks are only written whole
                  c.encode(rows, i, i, i, block);                                     // rows, first, n, dim, block
                  { c.decode(stored, i, i, i) } -> std::same_as<float>;               // block, token, channel, dim
                };

/// dot(block, first, n, dim, q, heads, scores): scores[h][i] += q[h] . k[first + i]; q is [heads, dim].
template <class C>
concept key_codec = codec<C> && requires(C const c, std::byte const* b, float const* q, float* out, index_t i) {
  c.dot(b, i, i, i, q, i, out);
};

/// accumulate(block, first, n, dim, p, heads, out): out[h] += sum_i p[h][i] * v[first + i]; out is [heads, dim].
template <class C>
concept value_codec = codec<C> && requires(C const c, std::byte const* b, float const* p, float* out, index_t i) {
  c.accumulate(b, i, i, i, p, i, out);
};

KVSLIM_END_NAMESPACE
