// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/ops/rope.hpp>
#include <kvslim/store/plan.hpp>

#include <cstring>
#include <limits>

KVSLIM_BEGIN_NAMESPACE

/// One (sequence, kv_head): where its bytes start and how many tokens it holds. 32 bytes, stored after the header.
struct packed_row {
  std::int64_t offset = 0;         // bytes from the start of the storage
  std::int32_t capacity = 0;       // tokens
  std::int32_t count = 0;          // tokens held: blocks and tail
  std::int32_t key_coded = 0;      // tokens of K in blocks; the rest are in the exact tail
  std::int32_t value_coded = 0;    // tokens of V in blocks
  std::int32_t next_position = 0;  // logical position of the next token
  std::int32_t reserved = 0;
};
static_assert(sizeof(packed_row) == 32);

/// First 128 bytes of the storage. Layout in store/README.md.
struct packed_header {
  std::uint32_t magic = 0, version = 0, scheme = 0, flags = 0;
  std::int64_t sequences = 0, kv_heads = 0, head_dim = 0, used_bytes = 0;
  std::int64_t parameters[6] = {};  // codec geometry: a reader with other options refuses
  std::uint64_t checksum = 0;       // filled by serialize
  std::int64_t reserved[1] = {};
};
static_assert(sizeof(packed_header) == 112 && sizeof(packed_header) <= 128);

inline constexpr std::uint32_t packed_magic = 0x4d4c534b;  // "KSLM"
inline constexpr std::uint32_t packed_version = 1;

/// A compressed cache in memory that the caller owns. The storage holds no pointers: it may be copied, moved or saved
/// byte for byte. Filled by compress(), grown by append(), read by attend().
template <class Policy, class Space = host_space>
class packed_cache {
 public:
  using policy_type = Policy;
  using space = Space;
  using plan_type = compression_plan<Policy>;

  /// Binds memory of at least plan.packed_bytes(), aligned to alignment_bytes; more is faster. Checked by compress().
  constexpr packed_cache(plan_type const& plan, std::byte* storage, index_t bytes) noexcept
      : plan_(plan), storage_(storage), size_(bytes) {}
  template <class Buffer>
    requires requires(Buffer& b) {
      { b.data() } -> std::convertible_to<std::byte*>;
      b.size();
    }
  constexpr packed_cache(plan_type const& plan, Buffer& buffer) noexcept
      : packed_cache(plan, buffer.data(), static_cast<index_t>(buffer.size())) {}

  [[nodiscard]] KVSLIM_HD constexpr plan_type const& plan() const noexcept { return plan_; }
  [[nodiscard]] KVSLIM_HD constexpr std::byte* storage() const noexcept { return storage_; }
  [[nodiscard]] KVSLIM_HD constexpr index_t size() const noexcept { return size_; }
  [[nodiscard]] KVSLIM_HD packed_header& header() const noexcept { return *reinterpret_cast<packed_header*>(storage_); }
  [[nodiscard]] KVSLIM_HD packed_row& row(index_t r) const noexcept {
    return reinterpret_cast<packed_row*>(storage_ + 128)[r];
  }
  [[nodiscard]] KVSLIM_HD bool ready() const noexcept { return storage_ != nullptr && header().magic == packed_magic; }

  /// Bytes held from the start of the storage: header, row table, codes, scales, tails, positions, weights, reserved room
  /// and padding. Storage beyond it is free.
  [[nodiscard]] index_t bytes() const noexcept { return header().used_bytes; }
  /// Bytes that hold tokens now: as bytes(), without blocks and tail slots reserved for appending.
  [[nodiscard]] index_t live_bytes() const noexcept {
    index_t sum = plan_.table_bytes();
    for (index_t r = 0; r < plan_.extents().rows(); ++r) sum += plan_.layout(row(r).count).bytes;
    return sum;
  }
  /// Tokens held by one row.
  [[nodiscard]] index_t tokens(index_t sequence, index_t kv_head) const noexcept { return row(index(sequence, kv_head)).count; }
  /// Position that the next appended token has: what its query and key must be rotated by.
  [[nodiscard]] std::int32_t next_position(index_t sequence, index_t kv_head = 0) const noexcept {
    return row(index(sequence, kv_head)).next_position;
  }
  /// Logical position of a held token. Without a selector or merger positions are not stored, and the held tokens are taken to end at
  /// next_position() without gaps.
  [[nodiscard]] std::int32_t position(index_t sequence, index_t kv_head, index_t t) const noexcept {
    auto const& entry = row(index(sequence, kv_head));
    if constexpr (plan_type::keeps_positions())
      return reinterpret_cast<std::int32_t const*>(storage_ + entry.offset + plan_.layout(entry.capacity).positions)[t];
    return static_cast<std::int32_t>(entry.next_position - entry.count + t);
  }

  /// One channel of a held K or V row, decoded. For tests and tools; attention never calls it.
  [[nodiscard]] KVSLIM_HD float key(index_t r, index_t t, index_t d) const noexcept {
    auto const& entry = row(r);
    auto const at = plan_.layout(entry.capacity);
    return value_at(plan_.key_codec(), dense_key<typename decltype(plan_.key_codec())::tail_type>{}, entry, entry.key_coded,
                    at.key_blocks, at.key_tail, t, d);
  }
  [[nodiscard]] KVSLIM_HD float value(index_t r, index_t t, index_t d) const noexcept {
    auto const& entry = row(r);
    auto const at = plan_.layout(entry.capacity);
    return value_at(plan_.value_codec(), dense_value<typename decltype(plan_.value_codec())::tail_type>{}, entry,
                    entry.value_coded, at.value_blocks, at.value_tail, t, d);
  }
  [[nodiscard]] KVSLIM_HD float log_weight(index_t r, index_t t) const noexcept {
    if (!plan_.keeps_log_weight()) return 0.0f;
    auto const& entry = row(r);
    return reinterpret_cast<float const*>(storage_ + entry.offset + plan_.layout(entry.capacity).log_weight)[t];
  }

 private:
  [[nodiscard]] KVSLIM_HD constexpr index_t index(index_t sequence, index_t kv_head) const noexcept {
    return sequence * plan_.extents().kv_heads + kv_head;
  }
  template <class Codec, class Tail>
  [[nodiscard]] KVSLIM_HD float value_at(Codec const& codec, Tail const& tail, packed_row const& entry, index_t coded,
                                         index_t blocks, index_t tail_at, index_t t, index_t d) const noexcept {
    KVSLIM_ASSERT(t >= 0 && t < entry.count && d >= 0 && d < plan_.extents().head_dim);
    index_t const dim = plan_.extents().head_dim;
    if (t < coded) {
      index_t const b = t / codec.block_tokens();
      return codec.decode(storage_ + entry.offset + blocks + b * codec.block_bytes(dim), t % codec.block_tokens(), d, dim);
    }
    index_t const slot = t % codec.tail_tokens(), b = slot / tail.block_tokens();
    return tail.decode(storage_ + entry.offset + tail_at + b * tail.block_bytes(dim), slot % tail.block_tokens(), d, dim);
  }

  plan_type plan_;
  std::byte* storage_;
  index_t size_;
};
template <class Policy, class Buffer>
packed_cache(compression_plan<Policy> const&, Buffer&) -> packed_cache<Policy>;
template <class Policy>
packed_cache(compression_plan<Policy> const&, std::byte*, index_t) -> packed_cache<Policy>;

namespace detail {

/// What a reader must agree on besides the scheme.
template <class Policy>
[[nodiscard]] KVSLIM_HD constexpr packed_header make_header(compression_plan<Policy> const& plan) noexcept {
  auto const key = plan.key_codec();
  auto const value = plan.value_codec();
  auto const& e = plan.extents();
  packed_header h{};
  h.magic = packed_magic;
  h.version = packed_version;
  h.scheme = plan.scheme();
  h.flags = (plan.keeps_positions() ? 1u : 0u) | (plan.keeps_log_weight() ? 2u : 0u);
  h.sequences = e.sequences;
  h.kv_heads = e.kv_heads;
  h.head_dim = e.head_dim;
  h.parameters[0] = key.block_tokens();
  h.parameters[1] = key.block_bytes(e.head_dim);
  h.parameters[2] = key.tail_tokens();
  h.parameters[3] = value.block_tokens();
  h.parameters[4] = value.block_bytes(e.head_dim);
  h.parameters[5] = value.tail_tokens();
  return h;
}

/// Writes rows [first, first + n) of a lane that are to stand in blocks.
template <class Codec>
KVSLIM_HD inline void encode_blocks(Codec const& codec, std::byte* blocks, index_t first, index_t n, index_t dim,
                                    float const* rows) noexcept {
  for (index_t done = 0; done < n;) {
    index_t const t = first + done, b = t / codec.block_tokens(), inside = t % codec.block_tokens();
    index_t const take = min(n - done, codec.block_tokens() - inside);
    codec.encode(rows + done * dim, inside, take, dim, blocks + b * codec.block_bytes(dim));
    done += take;
  }
}

/// Writes one token into a lane's ring-shaped exact tail.
template <class Dense>
KVSLIM_HD inline void store_tail(Dense const& tail, std::byte* base, index_t slots, index_t t, index_t dim, float const* row) noexcept {
  index_t const slot = t % slots;
  tail.encode(row, slot % tail.block_tokens(), 1, dim, base + slot / tail.block_tokens() * tail.block_bytes(dim));
}

}  // namespace detail

KVSLIM_END_NAMESPACE
