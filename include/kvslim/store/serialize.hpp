// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/store/packed_cache.hpp>

#include <cstring>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// FNV-1a over 8-byte words, then the tail bytes: one multiply per word. Detects damage, not
/// malice.
[[nodiscard]] inline std::uint64_t checksum(std::byte const* data, index_t bytes,
                                            std::uint64_t hash) noexcept {
  constexpr std::uint64_t prime = 0x100000001b3u;
  index_t i = 0;
  for (; i + 8 <= bytes; i += 8) {
    std::uint64_t word;
    std::memcpy(&word, data + i, 8);
    hash = (hash ^ word) * prime;
    hash ^= hash >> 29;
  }
  for (; i < bytes; ++i) hash = (hash ^ static_cast<std::uint64_t>(data[i])) * prime;
  return hash;
}

/// Checksum of a serialized cache, the checksum field itself taken as zero.
[[nodiscard]] inline std::uint64_t cache_checksum(std::byte const* data,
                                                  packed_header header) noexcept {
  constexpr auto header_size = static_cast<index_t>(sizeof header);
  constexpr std::uint64_t seed = 0xcbf29ce484222325u;
  header.checksum = 0;
  std::byte bytes[sizeof header];
  std::memcpy(bytes, &header, sizeof header);
  return checksum(data + header_size, header.used_bytes - header_size,
                  checksum(bytes, header_size, seed));
}

[[nodiscard]] inline packed_row read_row(std::byte const* data, index_t row) noexcept {
  packed_row x;
  std::memcpy(&x, data + sizeof(packed_header) + static_cast<std::size_t>(row) * sizeof x,
              sizeof x);
  return x;
}

/// Row table entries that a damaged or hostile buffer could hold must not lead a reader outside it.
template <class Layout>
[[nodiscard]] bool row_is_sound(Layout const& layout, packed_row const& x, index_t row,
                                index_t begin, index_t used) noexcept {
  if (x.offset != begin || x.slots < 0 || x.slots > x.capacity || x.holes < 0 ||
      x.holes > x.slots || x.next_position < 0 || x.observed < 0 || x.observed > x.next_position ||
      x.failed != 0)
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

}  // namespace detail

/// Bytes that serialize() writes; 0 before the cache was filled.
template <class Key, class Value>
[[nodiscard]] std::size_t serialized_bytes(
    packed_cache<Key, Value, host_space> const& packed) noexcept {
  return packed.bytes();
}

/// Writes a stored cache with its codecs, shapes, version and checksum. The form is the storage
/// itself, so reading needs no decode. Little-endian. Requires: memory that does not overlap, of at
/// least serialized_bytes (buffer_too_small). Cost: one copy and one checksum pass.
template <class Key, class Value>
status serialize(packed_cache<Key, Value, host_space> const& packed, std::byte* out,
                 std::size_t bytes) {
  if (!packed.ready())
    return detail::fail(errc::corrupt, "kvslim: the packed cache was never filled");
  if (out == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: serialize was given a null pointer");
  std::size_t const size = packed.bytes();
  if (bytes < size)
    return detail::fail(errc::buffer_too_small, "kvslim: the buffer is below serialized_bytes()");
  if (detail::overlap(out, size, packed.storage(), size))
    return detail::fail(errc::invalid_pointer, "kvslim: serialize's buffer overlaps the cache");
  packed_header header = packed.raw_header();
  std::memcpy(out, packed.storage(), size);
  header.checksum = detail::cache_checksum(packed.storage(), header);
  std::memcpy(out, &header, sizeof header);
  return {};
}

/// Reads a cache written by serialize() under the same layout into `packed`'s storage.
/// Returns: foreign (not kvslim's, other version, other codecs, shapes or options), corrupt
/// (truncated, damaged, or a row table that does not add up), invalid_pointer (misaligned or
/// overlapping memory), buffer_too_small; then `packed` was not written. Cost: one checksum pass
/// and one copy.
template <class Key, class Value>
status deserialize(std::byte const* data, std::size_t bytes,
                   packed_cache<Key, Value, host_space> const& packed) {
  if (data == nullptr || packed.storage() == nullptr || !detail::is_aligned(packed.storage()))
    return detail::fail(errc::invalid_pointer,
                        "kvslim: deserialize was given a null or misaligned pointer");
  auto const& layout = packed.layout();
  if (auto const s = layout.check(); !s) return s;
  packed_header header;
  if (bytes < sizeof header)
    return detail::fail(errc::corrupt, "kvslim: the serialized cache is shorter than its header");
  std::memcpy(&header, data, sizeof header);
  auto expected = layout.header();
  expected.used_bytes = header.used_bytes;
  expected.checksum = header.checksum;
  if (header.magic != expected.magic)
    return detail::fail(errc::foreign, "kvslim: this is not a serialized kvslim cache");
  if (header.version != expected.version)
    return detail::fail(errc::foreign, "kvslim: the serialized cache has another format version");
  if (!(header.key == expected.key) || !(header.value == expected.value))
    return detail::fail(errc::foreign, "kvslim: the serialized cache was stored by other codecs");
  if (std::memcmp(&header, &expected, sizeof header) != 0)
    return detail::fail(errc::foreign,
                        "kvslim: the serialized cache has other shapes, sides or tables");
  index_t const used = header.used_bytes;
  if (used < layout.table_bytes() || static_cast<std::size_t>(used) > bytes)
    return detail::fail(errc::corrupt, "kvslim: the serialized cache is truncated");
  if (header.checksum != detail::cache_checksum(data, header))
    return detail::fail(errc::corrupt, "kvslim: the serialized cache's checksum is wrong");
  index_t begin = layout.table_bytes();
  for (index_t r = 0; r < layout.extent.rows(); ++r) {
    packed_row const x = detail::read_row(data, r);
    if (!detail::row_is_sound(layout, x, r, begin, used) ||
        !detail::positions_are_sound(layout, x, r, data) ||
        !detail::agrees_with_group(layout, x, r, data))
      return detail::fail(errc::corrupt,
                          "kvslim: the serialized cache's row table does not add up");
    begin += layout.parts(x.capacity, r).bytes;
  }
  if (begin != used)
    return detail::fail(errc::corrupt, "kvslim: the serialized cache's row table does not add up");
  if (packed.size() < static_cast<std::size_t>(used))
    return detail::fail(errc::buffer_too_small,
                        "kvslim: the packed storage is below the serialized size");
  if (detail::overlap(data, static_cast<std::size_t>(used), packed.storage(), packed.size()))
    return detail::fail(errc::invalid_pointer, "kvslim: deserialize's buffer overlaps the cache");
  std::memcpy(packed.storage(), data, static_cast<std::size_t>(used));
  header.checksum = 0;
  std::memcpy(packed.storage(), &header, sizeof header);
  return {};
}

KVSLIM_END_NAMESPACE
