// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/run/append.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Whether slots that are coded may be taken back: the row is then as if they had never come.
[[nodiscard]] KVSLIM_HD constexpr bool can_uncode(codec_sizes const& z,
                                                  codec_traits const& t) noexcept {
  return !t.whole_blocks && z.keep_exact == 0 && z.settle_by == 1;
}

/// Slots of row r whose position is at least `cut`, the last one first; `use` may stop with false.
template <class Packed, class Use>
void newest_slots(Packed const& packed, index_t r, std::int32_t cut, Use const& use) {
  auto const positions = packed.positions(r);
  for (index_t slot = index_t{packed.raw_row(r).slots} - 1; slot >= 0; --slot) {
    if (positions[slot] >= cut && !use(slot)) return;
    if (positions.list == nullptr && positions[slot] < cut) return;
  }
}

}  // namespace detail

/// Drops the newest `positions` positions of every row of the step (rejected drafts), held or not.
/// Tokens that were evicted meanwhile do not come back. Tokens in the exact tail can always be
/// dropped; coded ones only where a codec keeps nothing exact.
/// Returns: invalid_option (negative, or before position 0, or, where positions are not stored,
/// before the first held token), unsupported (behind the exact tail of a quantized half), corrupt;
/// then nothing changed. Cost: one pass over the positions.
template <class Key, class Value>
status rewind(packed_cache<Key, Value, host_space> const& packed, index_t positions, step at = {}) {
  if (!packed.ready())
    return detail::fail(errc::corrupt, "kvslim: the packed cache was never filled");
  auto const& e = packed.extents();
  auto const& layout = packed.layout();
  if (auto const s = detail::resolve(at, e); !s) return s;
  if (positions < 0)
    return detail::fail(errc::invalid_option, "kvslim: rewind needs a count of at least 0");
  bool const stored = layout.find(side_kind::position) >= 0;
  index_t const first = at.first_sequence * e.kv_heads, end = first + at.sequences * e.kv_heads;
  for (index_t r = first; r < end; ++r) {
    if (!detail::is_active(at, e, r)) continue;
    packed_row const& x = packed.raw_row(r);
    if (positions > x.next_position || (!stored && positions > x.slots))
      return detail::fail(errc::invalid_option,
                          "kvslim: rewind asks for more positions than a row has");
    auto const cut = static_cast<std::int32_t>(x.next_position - positions);
    bool const keys = detail::can_uncode(layout.key_sizes(x.capacity), Key::traits);
    bool const values = detail::can_uncode(layout.value_sizes(x.capacity), Value::traits);
    bool possible = true;
    detail::newest_slots(packed, r, cut, [&](index_t slot) {
      return possible = (slot >= x.key_coded || keys) && (slot >= x.value_coded || values);
    });
    if (!possible)
      return detail::fail(errc::unsupported,
                          "kvslim: rewind reaches behind the exact tail of a quantized half");
  }
  for (index_t r = first; r < end; ++r) {
    if (!detail::is_active(at, e, r)) continue;
    packed_row& x = packed.raw_row(r);
    auto const cut = static_cast<std::int32_t>(x.next_position - positions);
    if (std::int32_t* const list = packed.stored_positions(r); list != nullptr) {
      detail::newest_slots(packed, r, cut, [&](index_t slot) {
        list[slot] = empty_slot;
        ++x.holes;
        return true;
      });
      // Blocks that are only written whole keep the holes that evictions left at their end.
      std::int32_t const keys =
          detail::can_uncode(layout.key_sizes(x.capacity), Key::traits) ? 0 : x.key_coded;
      std::int32_t const values =
          detail::can_uncode(layout.value_sizes(x.capacity), Value::traits) ? 0 : x.value_coded;
      while (x.slots > keys && x.slots > values && list[x.slots - 1] == empty_slot) {
        --x.slots;
        --x.holes;
      }
    } else {
      x.slots -= static_cast<std::int32_t>(positions);
    }
    x.key_coded = x.key_coded < x.slots ? x.key_coded : x.slots;
    x.value_coded = x.value_coded < x.slots ? x.value_coded : x.slots;
    x.next_position = cut;
    x.observed = x.observed < cut ? x.observed : cut;
    x.indexed = x.indexed < x.slots ? x.indexed : x.slots;
    x.summarized = x.summarized < x.slots ? x.summarized : x.slots;
  }
  return {};
}

KVSLIM_END_NAMESPACE
