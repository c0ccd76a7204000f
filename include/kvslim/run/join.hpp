// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/run/append.hpp>

#include <cstring>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Row r as it is before its first token.
template <class Packed>
KVSLIM_HD inline void empty_row(Packed const& packed, index_t r) noexcept {
  packed_row& x = packed.raw_row(r);
  x.slots = x.holes = x.key_coded = x.value_coded = x.key_head = x.value_head = 0;
  x.next_position = x.observed = x.failed = x.indexed = x.summarized = 0;
  int const words = packed.layout().find(side_kind::row_words);
  if (words < 0) return;
  for (index_t i = 0; i < packed.layout().sides[words].bytes / 4; ++i) packed.row_words(r)[i] = 0;
}

/// Copies one half's state, blocks and exact slots. Rings may differ in size, not in content.
template <class Half>
inline void copy_half(Half const& from, Half const& to, index_t slots, float* row) {
  std::memcpy(to.state, from.state, static_cast<std::size_t>(from.sizes.state_bytes));
  index_t const blocks = div_up(from.coded, from.sizes.block_tokens);
  if (blocks > 0)
    std::memcpy(to.blocks, from.blocks, static_cast<std::size_t>(blocks * from.sizes.block_bytes));
  for (index_t slot = from.coded; slot < slots; ++slot) {
    from.load(slot, row);
    to.store(slot, row);
  }
}

/// Row `to` counts what row `from` of another cache does; its memory and capacity stay.
template <class Packed>
KVSLIM_HD inline void copy_counts(Packed const& source, index_t from, Packed const& target,
                                  index_t to) noexcept {
  packed_row const& x = source.raw_row(from);
  packed_row& y = target.raw_row(to);
  empty_row(target, to);
  y.slots = x.slots;
  y.holes = x.holes;
  y.key_coded = x.key_coded;
  y.value_coded = x.value_coded;
  y.next_position = x.next_position;
  y.observed = x.observed;
  y.failed = x.failed;
  y.indexed = x.indexed;
  y.summarized = x.summarized;
}

/// Row `to` becomes what row `from` of another cache is.
template <class Packed>
inline void copy_row(Packed const& source, index_t from, Packed const& target, index_t to,
                     float* row) {
  copy_counts(source, from, target, to);
  packed_row const& x = source.raw_row(from);
  packed_row const& y = target.raw_row(to);
  auto const& layout = target.layout();
  auto const a = layout.parts(x.capacity, from), b = layout.parts(y.capacity, to);
  for (index_t i = 0; i < most_sides; ++i)
    if (index_t const bytes = layout.sides[i].size(x.slots); bytes > 0)
      std::memcpy(target.storage() + y.offset + b.sides[i],
                  source.storage() + x.offset + a.sides[i], static_cast<std::size_t>(bytes));
  copy_half(source.keys(from), target.keys(to), x.slots, row);
  copy_half(source.values(from), target.values(to), x.slots, row);
}

/// Null if row `to` of target has room for row `from` of source.
template <class Packed>
[[nodiscard]] KVSLIM_HD inline char const* fault_of_join(Packed const& source, index_t from,
                                                         Packed const& target,
                                                         index_t to) noexcept {
  packed_row const& x = source.raw_row(from);
  packed_row const& y = target.raw_row(to);
  auto const& layout = target.layout();
  auto const k = layout.key_sizes(y.capacity), v = layout.value_sizes(y.capacity);
  if (x.slots > y.capacity || x.slots - x.key_coded > layout.ring(k, y.capacity) ||
      x.slots - x.value_coded > layout.ring(v, y.capacity) || x.key_coded > k.coded(y.capacity) ||
      x.value_coded > v.coded(y.capacity))
    return "kvslim: the row that joins needs more room than there is";
  if (index_t{x.next_position} + y.capacity - x.slots >= (index_t{1} << 31))
    return "kvslim: positions end at 2^31 - 2";
  return nullptr;
}

/// What both backends check before anything is copied.
template <class Packed>
[[nodiscard]] status check_join(Packed const& source, index_t from, Packed const& target,
                                index_t to, workspace const& scratch) noexcept {
  auto const& a = source.extents();
  auto const& b = target.extents();
  if (from < 0 || from >= a.sequences || to < 0 || to >= b.sequences || a.kv_heads != b.kv_heads ||
      a.head_dim != b.head_dim || a.value_width() != b.value_width())
    return fail(errc::invalid_shape,
                "kvslim: join needs a sequence of either cache, of equal heads and widths");
  packed_header mine = source.layout().header(), other = target.layout().header();
  mine.sequences = other.sequences = 0;
  if (__builtin_memcmp(&mine, &other, sizeof mine) != 0)
    return fail(errc::foreign, "kvslim: join needs caches of one layout");
  if (target.layout().grouped())
    return fail(errc::unsupported, "kvslim: rows that share blocks join only together");
  if (overlap(source.storage(), source.size(), target.storage(), target.size()))
    return fail(errc::invalid_pointer, "kvslim: join's caches overlap");
  return check_workspace(scratch, append_bytes(target.layout()));
}

}  // namespace detail

/// Empties the rows of the step: their sequences leave a running batch. Their room stays reserved,
/// for append() or join(); the others are not touched.
///
/// Returns: corrupt (never filled), invalid_shape, unsupported (rows that share blocks); then
/// nothing was changed. Cost: a row table entry each.
template <class Key, class Value>
status leave(packed_cache<Key, Value, host_space> const& packed, step at = {}) {
  if (!packed.ready())
    return detail::fail(errc::corrupt, "kvslim: the packed cache was never filled");
  if (packed.layout().grouped())
    return detail::fail(errc::unsupported, "kvslim: rows that share blocks leave only together");
  auto const& e = packed.extents();
  if (auto const s = detail::resolve(at, e); !s) return s;
  index_t const first = at.first_sequence * e.kv_heads, rows = at.sequences * e.kv_heads;
  for (index_t r = first; r < first + rows; ++r)
    if (detail::is_active(at, e, r)) detail::empty_row(packed, r);
  return {};
}

/// Puts sequence `from` of one stored cache in the place of sequence `to` of another: a prompt that
/// was compressed by itself joins a running batch. Codes are copied, never decoded.
///
/// Requires: layouts that are equal but for the number of sequences, rows of `target` with enough
/// capacity, memory that does not overlap, scratch of append_bytes(target.layout()).
/// Returns: invalid_pointer, invalid_shape (no such sequence, other heads or widths), foreign
/// (other codecs, sides or options), capacity_exceeded, buffer_too_small, corrupt, unsupported
/// (rows that share blocks); then nothing was written. Cost: one read and write of the sequence's
/// bytes.
template <host_executor Exec, class Key, class Value>
status join(Exec const& exec, packed_cache<Key, Value, host_space> const& source, index_t from,
            packed_cache<Key, Value, host_space> const& target, index_t to, workspace scratch) {
  if (!source.ready() || !target.ready())
    return detail::fail(errc::corrupt, "kvslim: the packed cache was never filled");
  if (auto const s = detail::check_join(source, from, target, to, scratch); !s) return s;
  auto const& e = target.extents();
  index_t const heads = e.kv_heads;
  for (index_t h = 0; h < heads; ++h)
    if (char const* const fault =
            detail::fault_of_join(source, from * heads + h, target, to * heads + h);
        fault != nullptr)
      return detail::fail(errc::capacity_exceeded, fault);
  auto* const all = static_cast<float*>(static_cast<void*>(scratch.data));
  index_t const floats = detail::round_up(e.head_dim + e.value_width(), 16);
  exec.for_each(heads, [=](index_t h) {
    detail::copy_row(source, from * heads + h, target, to * heads + h, all + h * floats);
  });
  return {};
}

KVSLIM_END_NAMESPACE
