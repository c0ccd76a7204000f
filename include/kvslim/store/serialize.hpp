// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/isa/checksum.hpp>
#include <kvslim/store/packed_cache.hpp>
#include <kvslim/store/soundness.hpp>

#include <cstring>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Checksum of a header, its checksum field taken as zero; that of the bytes behind goes on.
[[nodiscard]] inline std::uint64_t header_checksum(packed_header header) noexcept {
  constexpr std::uint64_t seed = 0xcbf29ce484222325u;
  header.checksum = 0;
  std::byte bytes[sizeof header];
  std::memcpy(bytes, &header, sizeof header);
  return checksum(bytes, static_cast<index_t>(sizeof header), seed);
}

/// Checksum of a serialized cache.
[[nodiscard]] inline std::uint64_t cache_checksum(std::byte const* data,
                                                  packed_header const& header) noexcept {
  constexpr auto header_size = static_cast<index_t>(sizeof header);
  return checksum(data + header_size, header.used_bytes - header_size, header_checksum(header));
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
/// least serialized_bytes (buffer_too_small). Cost: one copy.
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
  header.checksum = detail::copy_with_checksum(
      packed.storage() + sizeof header, static_cast<index_t>(size - sizeof header),
      detail::header_checksum(header), out + sizeof header);
  std::memcpy(out, &header, sizeof header);
  return {};
}

/// Reads a cache written by serialize() under the same layout into `packed`'s storage.
/// Returns: foreign (not kvslim's, other version, other codecs, shapes or options), corrupt
/// (truncated, damaged, or a row table that does not add up), invalid_pointer (misaligned or
/// overlapping memory), buffer_too_small; then `packed` was not written. Cost: one read and one
/// copy.
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
  if (!detail::rows_are_sound(layout, data, used))
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
