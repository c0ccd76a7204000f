// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/store/packed_layout.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Bytes that will be read; about where, and about how many.
struct coded_bytes {
  std::byte const* at = nullptr;
  index_t size = 0;
};

/// One half (K or V) of one packed row: blocks, then a ring of exact slots. Rows of a group use the
/// blocks and the state of their first one; rings are their own.
template <class Codec, class Tail>
struct packed_half {
  using codec_type = Codec;

  Codec codec;
  Tail tail;
  codec_sizes sizes, tail_sizes;
  std::byte* state;
  std::byte* blocks;
  std::byte* exact;
  index_t coded;       // slots in blocks
  index_t head, ring;  // ring place of slot `coded`; places in the ring
  index_t dim, row, member;
  run_positions positions;  // of all slots of the row
  void const* table;

  [[nodiscard]] KVSLIM_HD index_t members() const noexcept { return group_of(codec).size(); }
  [[nodiscard]] KVSLIM_HD site at(index_t first, index_t n, index_t slot) const noexcept {
    run_positions const from{positions.list == nullptr ? nullptr : positions.list + slot,
                             positions.first + static_cast<std::int32_t>(slot)};
    return {first, n, dim, slot, row, member, from, state, table};
  }
  /// Slots from `slot` that one call of visit can handle.
  [[nodiscard]] KVSLIM_HD index_t reach(index_t slot) const noexcept {
    if (slot >= coded) return min(ring - place(slot), run_tokens);  // the tail's blocks are short
    if (sizes.block_tokens < run_tokens) return min(coded - slot, run_tokens);
    index_t const inside = slot % sizes.block_tokens;
    return min(min(coded - slot, sizes.block_tokens - inside), run_tokens - inside % run_tokens);
  }
  /// Calls f(codec, block, site) for slots [slot, slot + n), n at most reach(slot).
  template <class F>
  KVSLIM_HD void visit(index_t slot, index_t n, F const& f) const {
    if (slot < coded) {
      f(codec, block(slot), at(slot % sizes.block_tokens, n, slot));
    } else {
      index_t const p = place(slot);
      f(tail, exact + p / tail_sizes.block_tokens * tail_sizes.block_bytes,
        at(p % tail_sizes.block_tokens, n, slot));
    }
  }
  /// Where blocks hold slots [slot, slot + n); nothing for those in the ring.
  [[nodiscard]] KVSLIM_HD coded_bytes coded_at(index_t slot, index_t n) const noexcept {
    if (slot >= coded) return {};
    return {blocks + slot * sizes.block_bytes / sizes.block_tokens,
            min(n, coded - slot) * sizes.block_bytes / sizes.block_tokens};
  }
  /// One channel of a slot.
  [[nodiscard]] KVSLIM_HD float decode(index_t slot, index_t d) const noexcept {
    float x = 0.0f;
    visit(slot, 1, [&](auto const& form, std::byte const* from, site const& one) {
      x = form.decode(from, one, d);
    });
    return x;
  }
  KVSLIM_HD void load(index_t slot, float* out) const noexcept {
    visit(slot, 1, [&](auto const& form, std::byte const* from, site const& one) {
      if constexpr (in_own_basis<decltype(form)>)
        form.load(from, one, out);
      else
        for (index_t d = 0; d < dim; ++d) out[d] = form.decode(from, one, d);
    });
  }
  /// What prepare and finish are told: the row, not a token.
  [[nodiscard]] KVSLIM_HD site whole() const noexcept { return at(0, coded, 0); }
  /// Writes rows [members, n, dim] into blocks; n is at most together(slot, end). The codec may
  /// overwrite the rows.
  /// `ahead` is read next, and may be fetched early.
  KVSLIM_HD void encode(index_t slot, index_t n, float* rows,
                        coded_bytes ahead = {}) const noexcept {
    codec.encode(rows, coding(slot, n, ahead), block(slot));
  }
  /// The same of rows of T that lie side by side and hold finite values, if the codec reads such.
  /// False: nothing was written.
  template <class T>
  [[nodiscard]] KVSLIM_HD bool encode_stored(index_t slot, index_t n, T const* rows,
                                             coded_bytes ahead) const noexcept {
    if constexpr (Codec::traits.encodes_stored)
      return codec.encode_stored(rows, coding(slot, n, ahead), block(slot));
    else
      return false;
  }
  [[nodiscard]] KVSLIM_HD site coding(index_t slot, index_t n, coded_bytes ahead) const noexcept {
    site here = at(slot % sizes.block_tokens, n, slot);
    here.next = ahead.at;
    here.next_bytes = ahead.size;
    return here;
  }
  /// Writes slots [slot, slot + n) of the ring; n is at most beside(slot, end).
  KVSLIM_HD void store(index_t slot, float const* values, index_t n = 1) const noexcept {
    index_t const p = place(slot);
    tail.encode(values, at(p % tail_sizes.block_tokens, n, slot),
                exact + p / tail_sizes.block_tokens * tail_sizes.block_bytes);
  }
  /// Slots of [slot, end), all in the ring, that lie in one block of it.
  [[nodiscard]] KVSLIM_HD index_t beside(index_t slot, index_t end) const noexcept {
    index_t const p = place(slot);
    return min(min(end - slot, ring - p), tail_sizes.block_tokens - p % tail_sizes.block_tokens);
  }
  /// Slots of slot's block that lie in [slot, end).
  [[nodiscard]] KVSLIM_HD index_t in_block(index_t slot, index_t end) const noexcept {
    return min(end - slot, sizes.block_tokens - slot % sizes.block_tokens);
  }
  /// Slots of [slot, end) that one call of encode takes: of slot's block, or several whole ones.
  [[nodiscard]] KVSLIM_HD index_t together(index_t slot, index_t end) const noexcept {
    if constexpr (Codec::traits.encodes_runs)
      if (slot % sizes.block_tokens == 0 && end - slot > sizes.block_tokens)
        return max(min(end - slot, run_tokens) / sizes.block_tokens, 1) * sizes.block_tokens;
    return in_block(slot, end);
  }
  [[nodiscard]] KVSLIM_HD index_t place(index_t slot) const noexcept {
    return (head + slot - coded) % ring;
  }
  [[nodiscard]] KVSLIM_HD std::byte* block(index_t slot) const noexcept {
    return blocks + slot / sizes.block_tokens * sizes.block_bytes;
  }
};

}  // namespace detail

KVSLIM_END_NAMESPACE
