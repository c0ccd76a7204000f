// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/run/append.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Copies the sides of one slot to another.
template <class Packed>
KVSLIM_HD inline void move_sides(Packed const& packed, index_t r, index_t from, index_t to) {
  packed_row const& x = packed.raw_row(r);
  auto const& layout = packed.layout();
  auto const parts = layout.parts(x.capacity, r);
  for (index_t i = 0; i < most_sides; ++i) {
    side const& kind = layout.sides[i];
    if (kind.kind == side_kind::none || kind.unit != 1) continue;
    std::byte* const at = packed.storage() + x.offset + parts.sides[i];
    for (index_t b = 0; b < kind.bytes; ++b) at[to * kind.bytes + b] = at[from * kind.bytes + b];
  }
}

/// Forgets the oldest exact slot: later ones move down, in their sides and in the ring's counting.
template <class Packed>
KVSLIM_HD inline void drop_oldest(Packed const& packed, index_t r) {
  packed_row& x = packed.raw_row(r);
  auto const& layout = packed.layout();
  for (index_t slot = x.key_coded; slot + 1 < x.slots; ++slot)
    move_sides(packed, r, slot + 1, slot);
  --x.slots;
  --x.holes;
  auto const next = [&](std::int32_t head, codec_sizes const& z) {
    return static_cast<std::int32_t>((head + 1) % layout.ring(z, x.capacity));
  };
  x.key_head = next(x.key_head, layout.key_sizes(x.capacity));
  x.value_head = next(x.value_head, layout.value_sizes(x.capacity));
}

/// Codes slots [coded, target) of one half of row r, for all rows that share its blocks; `half_of`
/// gives a member's half. Called for the first row of a group.
template <class Half, class HalfOf>
KVSLIM_HD inline void settle_half(Half const& half, HalfOf const& half_of, extents const& e,
                                  index_t target, float* rows) {
  for (index_t slot = half.coded; slot < target;) {
    index_t const take = half.together(slot, target);
    for (index_t m = 0; m < half.members(); ++m) {
      auto const from = half_of(group_of(half.codec).member_row(e, half.row, m));
      for (index_t i = 0; i < take; ++i) from.load(slot + i, rows + (m * take + i) * half.dim);
    }
    half.encode(slot, take, rows);
    slot += take;
  }
}

/// Slots that may be in blocks by now.
template <class Packed>
KVSLIM_HD inline void settle_targets(Packed const& packed, index_t r, index_t& key,
                                     index_t& value) {
  packed_row const& x = packed.raw_row(r);
  auto const& layout = packed.layout();
  key = max(x.key_coded, layout.key_sizes(x.capacity).coded(x.slots));
  value = max(x.value_coded, layout.value_sizes(x.capacity).coded(x.slots));
}

/// Codes row r's blocks (of its whole group, if r leads it).
template <class Packed>
KVSLIM_HD inline void settle_blocks(Packed const& packed, index_t r, float* rows) {
  auto const& e = packed.extents();
  index_t key = 0, value = 0;
  settle_targets(packed, r, key, value);
  if (auto const half = packed.keys(r); half.member == 0)
    settle_half(
        half, [&](index_t i) { return packed.keys(i); }, e, key, rows);
  if (auto const half = packed.values(r); half.member == 0)
    settle_half(
        half, [&](index_t i) { return packed.values(i); }, e, value, rows);
}

/// Counts what settle_blocks coded.
template <class Packed>
KVSLIM_HD inline void settle_counts(Packed const& packed, index_t r) {
  packed_row& x = packed.raw_row(r);
  auto const& layout = packed.layout();
  index_t key = 0, value = 0;
  settle_targets(packed, r, key, value);
  auto const advance = [&](std::int32_t& head, std::int32_t& coded, index_t target,
                           codec_sizes const& z) {
    if (index_t const ring = layout.ring(z, x.capacity); ring > 0)
      head = static_cast<std::int32_t>((head + target - coded) % ring);
    coded = static_cast<std::int32_t>(target);
  };
  advance(x.key_head, x.key_coded, key, layout.key_sizes(x.capacity));
  advance(x.value_head, x.value_coded, value, layout.value_sizes(x.capacity));
}

/// Closes holes of the exact tail, so that they tie up no slots: older exact tokens move one place
/// up and the oldest place falls free. `rows` holds a K and a V row.
template <class Packed>
KVSLIM_HD inline void close_tail(Packed const& packed, index_t r, float* rows) {
  packed_row& x = packed.raw_row(r);
  std::int32_t* const positions = packed.stored_positions(r);
  for (index_t slot = index_t{x.slots} - 1; slot >= x.key_coded; --slot) {
    if (positions[slot] != empty_slot) continue;
    auto const keys = packed.keys(r);
    auto const values = packed.values(r);
    for (index_t to = slot; to > x.key_coded; --to) {
      keys.load(to - 1, rows);
      values.load(to - 1, rows + keys.dim);
      keys.store(to, rows);
      values.store(to, rows + keys.dim);
      move_sides(packed, r, to - 1, to);
    }
    positions[x.key_coded] = empty_slot;
    drop_oldest(packed, r);
  }
}

/// Settles a row some of whose slots are holes, where codecs rewrite: the oldest exact token takes
/// a hole's place, or the next place behind the coded ones. `rows` holds a K and a V row.
template <class Packed>
KVSLIM_HD inline void settle_into_holes(Packed const& packed, index_t r, float* rows) {
  packed_row& x = packed.raw_row(r);
  auto const& layout = packed.layout();
  index_t const keep_exact = layout.key_sizes(x.capacity).keep_exact;
  std::int32_t const* const positions = packed.stored_positions(r);
  close_tail(packed, r, rows);
  index_t search = 0;  // no hole before it
  while (x.slots - keep_exact > x.key_coded) {
    index_t const oldest = x.key_coded;
    while (search < x.key_coded && positions[search] != empty_slot) ++search;
    auto const keys = packed.keys(r);
    auto const values = packed.values(r);
    keys.load(oldest, rows);
    values.load(oldest, rows + keys.dim);
    keys.encode(search, 1, rows);
    values.encode(search, 1, rows + keys.dim);
    if (search < x.key_coded) {
      move_sides(packed, r, oldest, search);
      drop_oldest(packed, r);
    } else {
      auto const ring = [&](codec_sizes const& z) { return layout.ring(z, x.capacity); };
      x.key_head = static_cast<std::int32_t>((x.key_head + 1) % ring(layout.key_sizes(x.capacity)));
      x.value_head =
          static_cast<std::int32_t>((x.value_head + 1) % ring(layout.value_sizes(x.capacity)));
      ++x.key_coded;
      ++x.value_coded;
    }
  }
}

/// Floats of settle's scratch that belong to one row.
template <class Layout>
[[nodiscard]] KVSLIM_HD constexpr index_t settle_floats(Layout const& layout) noexcept {
  return round_up(max(layout.block_floats(), layout.extent.head_dim + layout.extent.value_width()),
                  16);
}

}  // namespace detail

/// Bytes of scratch for settle.
template <class Layout>
[[nodiscard]] constexpr std::size_t settle_bytes(Layout const& layout) noexcept {
  if (!layout.check()) return 0;
  return static_cast<std::size_t>(layout.extent.rows() * detail::settle_floats(layout)) *
         sizeof(float);
}

/// Codes what the exact tails may give up: all but the newest tokens that a codec keeps exact, in
/// whole blocks where it writes them whole. Slots that evict() emptied are filled first, where both
/// codecs rewrite single tokens. Tokens that are coded cannot be taken back by rewind().
///
/// Requires: sequences of the step that hold whole row groups of the codecs, and scratch of
/// settle_bytes(layout). Returns: invalid_shape, invalid_pointer, buffer_too_small, corrupt,
/// unsupported (rows of a group that differ); then nothing was changed. Cost: what is coded;
/// nothing if nothing is due.
template <host_executor Exec, class Key, class Value>
status settle(Exec const& exec, packed_cache<Key, Value, host_space> const& packed,
              workspace scratch, step at = {}) {
  if (packed.storage() == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: settle was given a null pointer");
  if (auto const s = detail::check_tables(packed); !s) return s;
  if (!packed.ready())
    return detail::fail(errc::corrupt, "kvslim: the packed cache was never filled");
  auto const& e = packed.extents();
  auto const& layout = packed.layout();
  if (auto const s = detail::resolve(at, e); !s) return s;
  if (auto const s = detail::check_workspace(scratch, settle_bytes(layout)); !s) return s;
  index_t const first = at.first_sequence * e.kv_heads, rows = at.sequences * e.kv_heads;
  if (layout.grouped()) {
    auto const whole = [&](row_group g) {
      return at.first_sequence % g.sequences == 0 && at.sequences % g.sequences == 0;
    };
    if (!whole(detail::group_of(layout.key)) || !whole(detail::group_of(layout.value)))
      return detail::fail(errc::invalid_shape,
                          "kvslim: rows that share blocks settle together: name whole groups");
    for (index_t r = first; r < first + rows; ++r) {
      auto const agrees = [&](row_group g) {
        index_t const leader = g.first_row(e, r);
        return packed.raw_row(r).slots == packed.raw_row(leader).slots &&
               detail::is_active(at, e, r) == detail::is_active(at, e, leader);
      };
      if (!agrees(detail::group_of(layout.key)) || !agrees(detail::group_of(layout.value)))
        return detail::fail(errc::unsupported,
                            "kvslim: rows that share blocks must hold the same tokens");
    }
  }
  detail::meet(exec);
  auto* const all = static_cast<float*>(static_cast<void*>(scratch.data));
  index_t const floats = detail::settle_floats(layout);
  bool const refills = layout.refills();
  exec.for_each(rows, [=](index_t i) {
    index_t const r = first + i;
    if (!detail::is_active(at, e, r)) return;
    if (refills && packed.raw_row(r).holes > 0)
      detail::settle_into_holes(packed, r, all + i * floats);
    else
      detail::settle_blocks(packed, r, all + i * floats);
  });
  exec.for_each(rows, [=](index_t i) {
    if (detail::is_active(at, e, first + i)) detail::settle_counts(packed, first + i);
  });
  return {};
}

KVSLIM_END_NAMESPACE
