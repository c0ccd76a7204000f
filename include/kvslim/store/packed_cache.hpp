// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <cstring>
#include <kvslim/run/plan.hpp>
#include <kvslim/store/packed_side.hpp>
#include <limits>

KVSLIM_BEGIN_NAMESPACE

/// One (sequence, kv_head): where its bytes start and how many tokens it holds. 32 bytes, stored
/// after the header.
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
  std::int32_t geometry[2][6] =
      {};  // K, V: block tokens, block bytes, tail slots, group, state bytes at 1024 tokens
  std::uint64_t checksum = 0;  // filled by serialize
  std::int64_t reserved[3] = {};
};
static_assert(sizeof(packed_header) == 128);

inline constexpr std::uint32_t packed_magic = 0x4d4c534b;  // "KSLM"
inline constexpr std::uint32_t packed_version = 1;

/// A compressed cache in memory that the caller owns. The storage holds no pointers: it may be
/// copied, moved or saved byte for byte. Filled by compress(), grown by append(), read by attend().
template <class Policy, class Space = host_space>
class packed_cache {
 public:
  using policy_type = Policy;
  using space = Space;
  using plan_type = compression_plan<Policy>;

  /// Binds memory of at least plan.packed_bytes(), aligned to alignment_bytes; more is faster.
  /// Checked by compress(). `space` is cuda_space{} for device memory.
  constexpr packed_cache(plan_type const& plan, std::byte* storage, std::size_t bytes,
                         Space = {}) noexcept
      : plan_(plan), storage_(storage), size_(bytes) {}
  template <class Buffer>
  requires requires(Buffer& b) {
    { b.data() } -> std::convertible_to<std::byte*>;
    b.size();
  }
  constexpr packed_cache(plan_type const& plan, Buffer& buffer) noexcept
      : packed_cache(plan, buffer.data(), buffer.size()) {}

  [[nodiscard]] KVSLIM_HD constexpr plan_type const& plan() const noexcept { return plan_; }
  [[nodiscard]] KVSLIM_HD constexpr std::byte* storage() const noexcept { return storage_; }
  [[nodiscard]] KVSLIM_HD constexpr std::size_t size() const noexcept { return size_; }
  [[nodiscard]] KVSLIM_HD packed_header& header() const noexcept {
    return *reinterpret_cast<packed_header*>(storage_);
  }
  [[nodiscard]] KVSLIM_HD packed_row& row(index_t r) const noexcept {
    return reinterpret_cast<packed_row*>(storage_ + 128)[r];
  }
  [[nodiscard]] KVSLIM_HD bool ready() const noexcept {
    return storage_ != nullptr && header().magic == packed_magic;
  }

  /// Bytes held from the start of the storage: header, row table, codes, scales, tails, positions,
  /// weights, reserved room and padding. Storage beyond it is free.
  [[nodiscard]] std::size_t bytes() const noexcept {
    return static_cast<std::size_t>(header().used_bytes);
  }
  /// Bytes that hold tokens now: as bytes(), without blocks and tail slots reserved for appending.
  [[nodiscard]] std::size_t live_bytes() const noexcept {
    index_t sum = plan_.table_bytes();
    for (index_t r = 0; r < plan_.extents().rows(); ++r) sum += plan_.layout(row(r).count, r).bytes;
    return static_cast<std::size_t>(sum);
  }
  /// Tokens held by one row.
  [[nodiscard]] index_t tokens(index_t sequence, index_t kv_head) const noexcept {
    return row(index(sequence, kv_head)).count;
  }
  /// Position that the next appended token has: what its query and key must be rotated by.
  [[nodiscard]] std::int32_t next_position(index_t sequence, index_t kv_head = 0) const noexcept {
    return row(index(sequence, kv_head)).next_position;
  }
  /// Logical position of a held token. Without a selector or merger positions are not stored, and
  /// the held tokens are taken to end at next_position() without gaps.
  [[nodiscard]] std::int32_t position(index_t sequence, index_t kv_head, index_t t) const noexcept {
    return positions(index(sequence, kv_head))[t];
  }
  [[nodiscard]] KVSLIM_HD run_positions positions(index_t r) const noexcept {
    auto const& entry = row(r);
    if constexpr (plan_type::keeps_positions()) return {stored_positions(r), 0};
    return {nullptr, entry.next_position - entry.count};
  }

  /// One channel of a held K or V row, decoded. For tests and tools; attention never calls it.
  [[nodiscard]] KVSLIM_HD float key(index_t r, index_t t, index_t d) const noexcept {
    KVSLIM_ASSERT(t >= 0 && t < row(r).count && d >= 0 && d < plan_.extents().head_dim);
    return keys(r).decode(t, d);
  }
  [[nodiscard]] KVSLIM_HD float value(index_t r, index_t t, index_t d) const noexcept {
    KVSLIM_ASSERT(t >= 0 && t < row(r).count && d >= 0 && d < plan_.extents().head_dim);
    return values(r).decode(t, d);
  }
  [[nodiscard]] KVSLIM_HD float log_weight(index_t r, index_t t) const noexcept {
    return plan_.keeps_log_weight() ? stored_weights(r)[t] : 0.0f;
  }

  // For the functions of store/: where the parts of row r lie.
  [[nodiscard]] KVSLIM_HD auto keys(index_t r) const noexcept {
    auto const codec = plan_.key_codec();
    using tail = dense_key<typename decltype(plan_.key_codec())::tail_type>;
    return lane<tail>(codec, r, row(r).key_coded, &detail::row_layout::key_state,
                      &detail::row_layout::key_blocks, &detail::row_layout::key_tail);
  }
  [[nodiscard]] KVSLIM_HD auto values(index_t r) const noexcept {
    auto const codec = plan_.value_codec();
    using tail = dense_value<typename decltype(plan_.value_codec())::tail_type>;
    return lane<tail>(codec, r, row(r).value_coded, &detail::row_layout::value_state,
                      &detail::row_layout::value_blocks, &detail::row_layout::value_tail);
  }
  [[nodiscard]] KVSLIM_HD std::int32_t* stored_positions(index_t r) const noexcept {
    return reinterpret_cast<std::int32_t*>(start(r) + plan_.layout(row(r).capacity, r).positions);
  }
  [[nodiscard]] KVSLIM_HD float* stored_weights(index_t r) const noexcept {
    return reinterpret_cast<float*>(start(r) + plan_.layout(row(r).capacity, r).log_weight);
  }

 private:
  [[nodiscard]] KVSLIM_HD constexpr index_t index(index_t sequence,
                                                  index_t kv_head) const noexcept {
    return sequence * plan_.extents().kv_heads + kv_head;
  }
  [[nodiscard]] KVSLIM_HD std::byte* start(index_t r) const noexcept {
    return storage_ + row(r).offset;
  }
  template <class Tail, class Codec>
  [[nodiscard]] KVSLIM_HD detail::packed_lane<Codec, Tail> lane(
      Codec const& codec, index_t r, index_t coded, index_t detail::row_layout::*state,
      index_t detail::row_layout::*blocks, index_t detail::row_layout::*tail) const noexcept {
    auto const group = group_of(codec);
    index_t const member = group.member(plan_.extents(), r),
                  leader = group.first_row(plan_.extents(), r);
    auto const mine = plan_.layout(row(r).capacity, r);
    auto const shared = member == 0 ? mine : plan_.layout(row(leader).capacity, leader);
    return {codec,
            {},
            fitted_codec<Codec> ? start(leader) + shared.*state : nullptr,
            start(leader) + shared.*blocks,
            start(r) + mine.*tail,
            coded,
            plan_.extents().head_dim,
            r,
            member,
            positions(r)};
  }

  plan_type plan_;
  std::byte* storage_;
  std::size_t size_;
};
template <class Policy, class Buffer>
packed_cache(compression_plan<Policy> const&, Buffer&) -> packed_cache<Policy>;
template <class Policy>
packed_cache(compression_plan<Policy> const&, std::byte*, std::size_t) -> packed_cache<Policy>;
template <class Policy, class Space>
packed_cache(compression_plan<Policy> const&, std::byte*, std::size_t, Space)
    -> packed_cache<Policy, Space>;

namespace detail {

/// What a reader must agree on besides the scheme.
template <class Policy>
[[nodiscard]] KVSLIM_HD constexpr packed_header make_header(
    compression_plan<Policy> const& plan) noexcept {
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
  auto const describe = [&](auto const& codec, std::int32_t(&to)[6]) {
    to[0] = static_cast<std::int32_t>(codec.block_tokens());
    to[1] = static_cast<std::int32_t>(codec.block_bytes(e.head_dim));
    to[2] = static_cast<std::int32_t>(codec.tail_tokens());
    to[3] = static_cast<std::int32_t>(group_of(codec).sequences);
    to[4] = static_cast<std::int32_t>(group_of(codec).kv_heads);
    to[5] = static_cast<std::int32_t>(state_bytes_of(codec, e.head_dim, 1024));
  };
  describe(key, h.geometry[0]);
  describe(value, h.geometry[1]);
  return h;
}

}  // namespace detail

KVSLIM_END_NAMESPACE
