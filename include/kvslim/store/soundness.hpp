// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// What a damaged or hostile buffer could hold must not lead a reader outside it.

#include <kvslim/store/packed_layout.hpp>

#include <cstring>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

[[nodiscard]] inline packed_row read_row(std::byte const* data, index_t row) noexcept {
  packed_row x;
  std::memcpy(&x, data + sizeof(packed_header) + static_cast<std::size_t>(row) * sizeof x,
              sizeof x);
  return x;
}

/// A row table's entry whose bytes start at `begin` and lie within `used`.
template <class Layout>
[[nodiscard]] bool row_is_sound(Layout const& layout, packed_row const& x, index_t row,
                                index_t begin, index_t used) noexcept {
  if (x.offset != begin || x.slots < 0 || x.slots > x.capacity || x.holes < 0 ||
      x.holes > x.slots || x.indexed < 0 || x.indexed > x.slots || x.summarized < 0 ||
      x.summarized > x.slots || x.next_position < 0 || x.observed < 0 ||
      x.observed > x.next_position || x.failed != 0)
    return false;
  // Appending must not overflow positions.
  if (index_t{x.next_position} + x.capacity - x.slots >= (index_t{1} << 31)) return false;
  if (x.capacity > extents::most_tokens || layout.parts(x.capacity, row).bytes > used - begin)
    return false;
  if (x.sides != layout.parts(x.capacity, row).sides[0]) return false;
  if (layout.find(side_kind::position) < 0 && (x.holes != 0 || x.slots > x.next_position))
    return false;
  auto const half = [&](codec_sizes const& z, codec_traits const& t, index_t coded, index_t head) {
    index_t const ring = layout.ring(z, x.capacity);
    return coded >= 0 && coded <= x.slots && coded <= z.coded(x.capacity) &&
           (!t.whole_blocks || coded % z.block_tokens == 0) && x.slots - coded <= ring &&
           head >= 0 && (head < ring || head == 0);
  };
  return half(layout.key_sizes(x.capacity), Layout::key_codec_type::traits, x.key_coded,
              x.key_head) &&
         half(layout.value_sizes(x.capacity), Layout::value_codec_type::traits, x.value_coded,
              x.value_head);
}

/// Stored positions are holes or lie before the next one, and there are as many holes as the row
/// says.
template <class Layout>
[[nodiscard]] bool positions_are_sound(Layout const& layout, packed_row const& x, index_t row,
                                       std::byte const* data) noexcept {
  int const at = layout.find(side_kind::position);
  if (at < 0) return true;
  std::byte const* const from = data + x.offset + layout.parts(x.capacity, row).sides[at];
  index_t holes = 0;
  for (index_t i = 0; i < x.slots; ++i) {
    std::int32_t position;
    std::memcpy(&position, from + i * 4, 4);
    if (position < empty_slot || position >= x.next_position) return false;
    holes += position == empty_slot ? 1 : 0;
  }
  return holes == x.holes;
}

/// Stored pins are 0 or 1.
template <class Layout>
[[nodiscard]] bool pins_are_sound(Layout const& layout, packed_row const& x, index_t row,
                                  std::byte const* data) noexcept {
  int const at = layout.find(side_kind::pin);
  if (at < 0) return true;
  std::byte const* const from = data + x.offset + layout.parts(x.capacity, row).sides[at];
  for (index_t i = 0; i < x.slots; ++i)
    if (from[i] > std::byte{1}) return false;
  return true;
}

/// Rows of a group read their first row's blocks, so they must hold as much as it does.
template <class Layout>
[[nodiscard]] bool agrees_with_group(Layout const& layout, packed_row const& x, index_t row,
                                     std::byte const* data) noexcept {
  auto const agrees = [&](row_group group) {
    packed_row const first = read_row(data, group.first_row(layout.extent, row));
    return x.capacity == first.capacity && x.slots == first.slots &&
           x.key_coded == first.key_coded && x.value_coded == first.value_coded;
  };
  return agrees(group_of(layout.key)) && agrees(group_of(layout.value));
}

/// The row table of a buffer whose header says `layout` and `used` bytes: every row is sound, and
/// they fill the buffer. `data` need not be aligned.
template <class Layout>
[[nodiscard]] bool rows_are_sound(Layout const& layout, std::byte const* data,
                                  index_t used) noexcept {
  index_t begin = layout.table_bytes();
  if (used < begin) return false;
  for (index_t r = 0; r < layout.extent.rows(); ++r) {
    packed_row const x = read_row(data, r);
    if (!row_is_sound(layout, x, r, begin, used) || !positions_are_sound(layout, x, r, data) ||
        !pins_are_sound(layout, x, r, data) || !agrees_with_group(layout, x, r, data))
      return false;
    begin += layout.parts(x.capacity, r).bytes;
  }
  return begin == used;
}

}  // namespace detail

KVSLIM_END_NAMESPACE
