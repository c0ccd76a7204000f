// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/store/packed_cache.hpp>
#include <kvslim/store/soundness.hpp>

#include <cstring>

KVSLIM_BEGIN_NAMESPACE

/// What a buffer holds, before any type is named.
struct inspected {
  form key = {}, value = {};
  kvslim::extents extent = {};  ///< tokens: the longest row's
  std::size_t bytes = 0;
  std::uint64_t fingerprint = 0;
};

/// Reads the header and the row table of a stored or serialized cache. Nothing in it is trusted:
/// what does not add up is corrupt; contents are checked by deserialize(). Returns:
/// invalid_pointer, corrupt (short, damaged), foreign (not kvslim's, another version).
[[nodiscard]] inline status inspect(std::byte const* data, std::size_t bytes,
                                    inspected& out) noexcept {
  if (data == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: inspect was given a null pointer");
  packed_header h;
  if (bytes < sizeof h)
    return detail::fail(errc::corrupt, "kvslim: the cache is shorter than its header");
  std::memcpy(&h, data, sizeof h);
  if (h.magic != packed_magic)
    return detail::fail(errc::foreign, "kvslim: this is not a kvslim cache");
  if (h.version != packed_version || h.header_bytes != sizeof h ||
      h.row_bytes != sizeof(packed_row))
    return detail::fail(errc::foreign, "kvslim: the cache has another format version");
  inspected found{h.key,
                  h.value,
                  {h.sequences, h.kv_heads, 0, h.head_dim, h.value_dim},
                  static_cast<std::size_t>(h.used_bytes),
                  h.fingerprint};
  if (!detail::check_extents(found.extent) || h.used_bytes < 0 || found.bytes > bytes ||
      static_cast<std::size_t>(found.extent.rows()) * sizeof(packed_row) + sizeof h > found.bytes)
    return detail::fail(errc::corrupt, "kvslim: the cache is truncated or its header damaged");
  for (index_t r = 0; r < found.extent.rows(); ++r) {
    packed_row x;
    std::memcpy(&x, data + sizeof h + static_cast<std::size_t>(r) * sizeof x, sizeof x);
    if (x.slots < 0 || x.slots > x.capacity || x.holes < 0 || x.holes > x.slots)
      return detail::fail(errc::corrupt, "kvslim: the cache's row table does not add up");
    found.extent.tokens = detail::max(found.extent.tokens, x.tokens());
  }
  out = found;
  return {};
}

/// A pair of codecs that a reader knows.
template <class Key, class Value>
struct stored_as {};

/// A stored cache whose codecs are named at run time, from a closed list: `visit(f)` calls
/// f(packed_cache<Key, Value>) with the pair that the buffer's header names.
template <class... Forms>
class any_cache;

template <class... Key, class... Value>
class any_cache<stored_as<Key, Value>...> {
 public:
  constexpr any_cache(std::byte* storage, std::size_t bytes, codec_tables tables = {}) noexcept
      : storage_(storage), bytes_(bytes), tables_(tables) {}

  /// Returns what f returns; foreign if no pair of the list matches, corrupt if the header or the
  /// row table is damaged: f then is not called. Codes and checksum are not looked at;
  /// deserialize() does. Cost: one read of the row table and the positions.
  template <class F>
  status visit(F const& f) const {
    if (storage_ == nullptr || bytes_ < sizeof(packed_header) || !detail::is_aligned(storage_))
      return detail::fail(errc::invalid_pointer, "kvslim: any_cache has no buffer, or misaligned");
    status out = detail::fail(errc::foreign, "kvslim: no form of this list matches the buffer");
    static_cast<void>((one<Key, Value>(f, out) || ...));
    return out;
  }

 private:
  template <class K, class V, class F>
  bool one(F const& f, status& out) const {
    packed_header h;
    std::memcpy(&h, storage_, sizeof h);
    packed_layout<K, V> layout{};
    auto const read = packed_layout<K, V>::read(h, layout);
    if (!read) {
      if (read.code != errc::foreign) out = read;
      return false;
    }
    packed_cache<K, V> packed(layout, storage_, bytes_);
    packed.bind(tables_);
    out = packed.ready() && detail::rows_are_sound(layout, storage_, h.used_bytes)
              ? f(packed)
              : detail::fail(errc::corrupt,
                             "kvslim: the cache's header or row table does not add up");
    return true;
  }

  std::byte* storage_;
  std::size_t bytes_;
  codec_tables tables_;
};

KVSLIM_END_NAMESPACE
