// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <cstring>
#include <kvslim/store/packed_cache.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// FNV-1a over 8-byte words, then the tail bytes: one multiply per word. Detects damage, not
/// malice.
[[nodiscard]] inline std::uint64_t checksum(std::byte const* data, index_t bytes,
                                            std::uint64_t hash) noexcept {
  index_t i = 0;
  for (; i + 8 <= bytes; i += 8) {
    std::uint64_t word;
    std::memcpy(&word, data + i, 8);
    hash = (hash ^ word) * 0x100000001b3u;
    hash ^= hash >> 29;
  }
  for (; i < bytes; ++i) hash = (hash ^ static_cast<std::uint64_t>(data[i])) * 0x100000001b3u;
  return hash;
}

/// Checksum of a serialized cache, the checksum field itself taken as zero.
[[nodiscard]] inline std::uint64_t cache_checksum(std::byte const* data,
                                                  packed_header header) noexcept {
  header.checksum = 0;
  auto const seed =
      checksum(reinterpret_cast<std::byte const*>(&header), sizeof header, 0xcbf29ce484222325u);
  return checksum(data + sizeof header, header.used_bytes - static_cast<index_t>(sizeof header),
                  seed);
}

/// Row table entries that a damaged or hostile buffer could hold must not lead a reader outside it.
template <class Plan>
[[nodiscard]] bool row_is_sound(Plan const& plan, packed_row const& entry, index_t row,
                                index_t begin, index_t used) noexcept {
  auto const sound = [&](auto const& codec, index_t coded) {
    if (coded < 0 || coded > entry.count || coded > codec.coded(entry.capacity)) return false;
    if (codec.whole_blocks() && coded % codec.block_tokens() != 0) return false;
    index_t const tail = entry.count - coded;
    return tail == 0 || tail <= codec.tail_tokens();
  };
  constexpr index_t most = index_t{1} << 31;
  if (entry.offset != begin || entry.capacity < 0 || entry.count < 0 ||
      entry.count > entry.capacity || entry.next_position < 0)
    return false;
  if (index_t{entry.next_position} + entry.capacity - entry.count >= most)
    return false;  // appending must not overflow it
  if (entry.capacity >= most || plan.layout(entry.capacity, row).bytes > used - begin) return false;
  return sound(plan.key_codec(), entry.key_coded) && sound(plan.value_codec(), entry.value_coded);
}

/// Rows of a group read their first row's blocks, so they must hold as much as it does.
template <class Plan>
[[nodiscard]] bool agrees_with_group(Plan const& plan, packed_row const& entry, index_t row,
                                     std::byte const* data) noexcept {
  auto const agrees = [&](auto const& codec) {
    packed_row first;
    std::memcpy(&first, data + 128 + group_of(codec).first_row(plan.extents(), row) * 32,
                sizeof first);
    return entry.capacity == first.capacity && entry.count == first.count &&
           entry.key_coded == first.key_coded && entry.value_coded == first.value_coded;
  };
  return agrees(plan.key_codec()) && agrees(plan.value_codec());
}

}  // namespace detail

/// Bytes that serialize() writes.
template <class Policy>
[[nodiscard]] std::size_t serialized_bytes(
    packed_cache<Policy, host_space> const& packed) noexcept {
  return packed.ready() ? packed.bytes() : 0;
}

/// Writes a packed cache with scheme, shapes, version and checksum. The form is the storage itself,
/// so reading needs no decode. Little-endian. Requires: `bytes` of at least serialized_bytes
/// (buffer_too_small). Cost: one copy.
template <class Policy>
status serialize(packed_cache<Policy, host_space> const& packed, std::byte* out,
                 std::size_t bytes) {
  if (!packed.ready())
    return detail::fail(errc::corrupt, "kvslim: the packed cache was never filled");
  if (out == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: serialize was given a null pointer");
  if (bytes < packed.bytes())
    return detail::fail(errc::buffer_too_small, "kvslim: the buffer is below serialized_bytes()");
  std::memcpy(out, packed.storage(), packed.bytes());
  packed_header header = packed.header();
  header.checksum = detail::cache_checksum(out, header);
  std::memcpy(out, &header, sizeof header);
  return {};
}

/// Reads a cache written by serialize() under the same policy and extents into `packed`'s storage.
/// Returns: foreign (not kvslim's, other version, other scheme, shape or options), corrupt
/// (truncated, damaged, or a row table that does not add up), buffer_too_small; then `packed` was
/// not written. Cost: one checksum pass and one copy.
template <class Policy>
status deserialize(std::byte const* data, std::size_t bytes,
                   packed_cache<Policy, host_space> const& packed) {
  if (data == nullptr || packed.storage() == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: deserialize was given a null pointer");
  auto const& plan = packed.plan();
  if (auto const s = plan.check(); !s) return s;
  packed_header header;
  if (bytes < sizeof header)
    return detail::fail(errc::corrupt, "kvslim: the serialized cache is shorter than its header");
  std::memcpy(&header, data, sizeof header);
  auto const expected = detail::make_header(plan);
  if (header.magic != expected.magic)
    return detail::fail(errc::foreign, "kvslim: this is not a serialized kvslim cache");
  if (header.version != expected.version)
    return detail::fail(errc::foreign, "kvslim: the serialized cache has another format version");
  if (header.scheme != expected.scheme || header.flags != expected.flags)
    return detail::fail(errc::foreign, "kvslim: the serialized cache was stored by another scheme");
  if (header.sequences != expected.sequences || header.kv_heads != expected.kv_heads ||
      header.head_dim != expected.head_dim ||
      std::memcmp(header.geometry, expected.geometry, sizeof header.geometry) != 0)
    return detail::fail(errc::foreign, "kvslim: the serialized cache has other shapes or options");
  index_t const used = header.used_bytes;
  if (used < plan.table_bytes() || static_cast<std::size_t>(used) > bytes)
    return detail::fail(errc::corrupt, "kvslim: the serialized cache is truncated");
  if (header.checksum != detail::cache_checksum(data, header))
    return detail::fail(errc::corrupt, "kvslim: the serialized cache's checksum is wrong");
  index_t begin = plan.table_bytes();
  for (index_t r = 0; r < plan.extents().rows(); ++r) {
    packed_row entry;
    std::memcpy(&entry, data + 128 + r * 32, sizeof entry);
    if (!detail::row_is_sound(plan, entry, r, begin, used) ||
        !detail::agrees_with_group(plan, entry, r, data))
      return detail::fail(errc::corrupt,
                          "kvslim: the serialized cache's row table does not add up");
    begin += plan.layout(entry.capacity, r).bytes;
  }
  if (begin != used)
    return detail::fail(errc::corrupt, "kvslim: the serialized cache's row table does not add up");
  if (packed.size() < static_cast<std::size_t>(used))
    return detail::fail(errc::buffer_too_small,
                        "kvslim: the packed storage is below the serialized size");
  std::memcpy(packed.storage(), data, static_cast<std::size_t>(used));
  return {};
}

KVSLIM_END_NAMESPACE
