// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// The fixed-size records of the stored form, version 3. README.md in this folder has the bytes.

#include <kvslim/core/codec.hpp>
#include <kvslim/core/logit.hpp>

KVSLIM_BEGIN_NAMESPACE

/// What a side holds: everything a stored cache keeps beside K and V.
enum class side_kind : std::uint32_t {
  none = 0,
  position = 1,   ///< i32 logical position of each slot; empty_slot marks a hole
  bias = 2,       ///< f32 logit bias of each slot
  column = 3,     ///< a scorer's record of each slot
  page = 4,       ///< an index's metadata of `unit` slots together; `meaning` is its id
  row_words = 5,  ///< what a method remembers of the row; `meaning` is its id
  pin = 6,        ///< u8 of each slot: 1 where the token is pinned, else 0
};

/// One side: `bytes` for every `unit` slots (0: once per row). Equal layouts have equal sides.
struct side {
  side_kind kind = side_kind::none;
  std::uint32_t meaning = 0;  ///< what the bytes are, for readers that must agree
  std::int32_t unit = 1;
  std::int32_t bytes = 4;
  friend constexpr bool operator==(side const&, side const&) = default;

  /// What the verbs read has a fixed shape: 4 bytes a slot for positions and biases, one for pins,
  /// a record a slot for columns, one a row for words.
  [[nodiscard]] KVSLIM_HD constexpr bool is_read_as_meant() const noexcept {
    if (kind == side_kind::position || kind == side_kind::bias) return unit == 1 && bytes == 4;
    if (kind == side_kind::pin) return unit == 1 && bytes == 1;
    if (kind == side_kind::page) return unit >= 1;
    if (kind == side_kind::row_words) return unit == 0;
    return kind != side_kind::column || unit == 1;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t size(index_t slots) const noexcept {
    if (kind == side_kind::none) return 0;
    return (unit == 0 ? 1 : detail::div_up(slots, unit)) * bytes;
  }
};

inline constexpr index_t most_sides = 8;

/// Position of a slot whose token has left: attention skips it, settle fills it again.
inline constexpr std::int32_t empty_slot = -1;

/// One (sequence, kv_head): where its bytes start and what it holds. Physical slots are [0, slots):
/// of each side, the first `coded` are in blocks, the rest in a ring of exact ones.
struct packed_row {
  std::int64_t offset = 0;         ///< bytes from the start of the storage
  std::int64_t sides = 0;          ///< bytes from the row's start to its sides
  std::int32_t capacity = 0;       ///< slots there is memory for
  std::int32_t slots = 0;          ///< slots in use, holes included
  std::int32_t holes = 0;          ///< slots whose token has left
  std::int32_t key_coded = 0;      ///< slots of K in blocks
  std::int32_t value_coded = 0;    ///< slots of V in blocks
  std::int32_t key_head = 0;       ///< ring place of K's first exact slot
  std::int32_t value_head = 0;     ///< ring place of V's first exact slot
  std::int32_t next_position = 0;  ///< logical position of the next token
  std::int32_t observed = 0;       ///< positions below it have a column; newer ones are born next
  std::int32_t failed = 0;         ///< errc of what only the device could see; 0: nothing
  std::int32_t indexed = 0;        ///< slots below it are in pages summarised for good
  std::int32_t summarized = 0;     ///< slots that some summary has seen

  [[nodiscard]] KVSLIM_HD constexpr index_t tokens() const noexcept { return slots - holes; }
};
static_assert(sizeof(packed_row) == 64);

/// First bytes of the storage.
struct packed_header {
  std::uint32_t magic = 0, version = 0, header_bytes = 0, row_bytes = 0;
  std::int64_t sequences = 0, kv_heads = 0, head_dim = 0, value_dim = 0;
  std::int64_t used_bytes = 0;
  std::int64_t draft_tokens = 0;
  form key = {}, value = {};
  side sides[most_sides] = {};
  logit_rule logit = {};
  std::uint64_t fingerprint = 0;  ///< of what readers must agree on: rope, codebooks, bases
  std::uint64_t checksum = 0;     ///< filled by serialize
  std::uint64_t reserved[5] = {};
};
static_assert(sizeof(packed_header) == 320);

inline constexpr std::uint32_t packed_magic = 0x4d4c534b;  // "KSLM"
inline constexpr std::uint32_t packed_version = 3;

KVSLIM_END_NAMESPACE
