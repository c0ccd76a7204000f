// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/codec.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// One lane (K or V) of one packed row: blocks, then a ring of exact tail slots. Rows of a group
/// use the blocks and the state of their first one; tails are their own.
template <class Codec, class Tail>
struct packed_lane {
  Codec codec;
  Tail tail;
  std::byte* state;
  std::byte* blocks;
  std::byte* slots;
  index_t coded;  // tokens in blocks
  index_t dim, row, member;
  run_positions positions;  // of all tokens of the row

  [[nodiscard]] KVSLIM_HD index_t members() const noexcept { return group_of(codec).size(); }
  [[nodiscard]] KVSLIM_HD block_run run(index_t first, index_t n, index_t t) const noexcept {
    run_positions const from{positions.list == nullptr ? nullptr : positions.list + t,
                             positions.first + static_cast<std::int32_t>(t)};
    return {first, n, dim, t, row, member, from, state};
  }
  /// Tokens from t that one call of visit can handle.
  [[nodiscard]] KVSLIM_HD index_t reach(index_t t) const noexcept {
    if (t < coded) {
      if (codec.block_tokens() < run_tokens) return min(coded - t, run_tokens);
      index_t const inside = t % codec.block_tokens();
      return min(min(coded - t, codec.block_tokens() - inside), run_tokens - inside % run_tokens);
    }
    index_t const slot = t % codec.tail_tokens(), room = codec.tail_tokens() - slot;
    return min(room, run_tokens);  // the tail's blocks are short
  }
  /// Calls f(codec, block, run) for tokens [t, t + n), n at most reach(t).
  template <class F>
  KVSLIM_HD void visit(index_t t, index_t n, F const& f) const noexcept {
    if (t < coded) {
      f(codec, block(t), run(t % codec.block_tokens(), n, t));
    } else {
      index_t const slot = t % codec.tail_tokens();
      f(tail, slot_block(slot), run(slot % tail.block_tokens(), n, t));
    }
  }
  /// One channel of token t.
  [[nodiscard]] KVSLIM_HD float decode(index_t t, index_t d) const noexcept {
    float x = 0.0f;
    visit(t, 1, [&](auto const& form, std::byte const* at, block_run const& one) {
      x = form.decode(at, one, d);
    });
    return x;
  }
  /// Writes rows [members, n, dim], tokens [t, t + n), which must lie in one block.
  KVSLIM_HD void encode(index_t t, index_t n, float const* rows) const noexcept {
    codec.encode(rows, run(t % codec.block_tokens(), n, t), block(t));
  }
  /// Writes token t into the exact tail.
  KVSLIM_HD void store(index_t t, float const* values) const noexcept {
    index_t const slot = t % codec.tail_tokens();
    tail.encode(values, run(slot % tail.block_tokens(), 1, t), slot_block(slot));
  }
  /// Tokens of t's block that lie in [t, end).
  [[nodiscard]] KVSLIM_HD index_t in_block(index_t t, index_t end) const noexcept {
    return min(end - t, codec.block_tokens() - t % codec.block_tokens());
  }

 private:
  [[nodiscard]] KVSLIM_HD std::byte* block(index_t t) const noexcept {
    return blocks + t / codec.block_tokens() * codec.block_bytes(dim);
  }
  [[nodiscard]] KVSLIM_HD std::byte* slot_block(index_t slot) const noexcept {
    return slots + slot / tail.block_tokens() * tail.block_bytes(dim);
  }
};

}  // namespace detail

KVSLIM_END_NAMESPACE
