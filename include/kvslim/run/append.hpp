// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cpu.hpp>
#include <kvslim/run/given_rows.hpp>
#include <kvslim/store/packed_cache.hpp>

#include <cstring>

KVSLIM_BEGIN_NAMESPACE

/// Which rows a step of decoding is about.
struct step {
  index_t first_sequence = 0;            ///< of the cache: one layer of several, say
  index_t sequences = -1;                ///< how many; -1: all from there on
  std::uint8_t const* active = nullptr;  ///< [sequences]: 0 leaves a sequence as it is
};

namespace detail {

[[nodiscard]] inline status resolve(step& at, extents const& e) noexcept {
  if (at.sequences == -1) at.sequences = e.sequences - at.first_sequence;
  if (at.first_sequence < 0 || at.sequences < 0 || at.sequences > e.sequences - at.first_sequence)
    return fail(errc::invalid_shape, "kvslim: a step's sequences are not those of the cache");
  return {};
}
[[nodiscard]] KVSLIM_HD inline bool is_active(step const& at, extents const& e,
                                              index_t row) noexcept {
  return at.active == nullptr || at.active[row / e.kv_heads - at.first_sequence] != 0;
}

/// Null if row r can take n more tokens now.
template <class Packed>
[[nodiscard]] KVSLIM_HD inline char const* fault_of_append(Packed const& packed, index_t r,
                                                           index_t n) noexcept {
  packed_row const& x = packed.raw_row(r);
  auto const& layout = packed.layout();
  if (n > x.capacity - x.slots) return "kvslim: a row is full: plan with more append_tokens";
  if (n > (index_t{1} << 31) - 2 - x.next_position)
    return "kvslim: positions end at 2^31 - 2: recompress with rerotate";
  index_t const key_room = layout.ring(layout.key_sizes(x.capacity), x.capacity);
  index_t const value_room = layout.ring(layout.value_sizes(x.capacity), x.capacity);
  if (x.slots - x.key_coded + n > key_room || x.slots - x.value_coded + n > value_room)
    return "kvslim: the exact tail is full: call settle(), or plan with more draft_tokens";
  return nullptr;
}

/// Puts one token into row r's tail: k and v as floats.
template <class Packed>
KVSLIM_HD inline void append_row(Packed const& packed, index_t r, float const* k, float const* v) {
  packed_row& x = packed.raw_row(r);
  index_t const slot = x.slots;
  packed.keys(r).store(slot, k);
  packed.values(r).store(slot, v);
  if (std::int32_t* const positions = packed.stored_positions(r); positions != nullptr)
    positions[slot] = x.next_position;
  if (float* const biases = packed.biases(r); biases != nullptr) biases[slot] = 0.0f;
  if (std::uint8_t* const pins = packed.pins(r); pins != nullptr) pins[slot] = 0;
  ++x.slots;
  ++x.next_position;
}

/// Floats of a token's K and V.
template <class Layout>
[[nodiscard]] KVSLIM_HD constexpr index_t append_floats(Layout const& layout) noexcept {
  return round_up(layout.extent.head_dim + layout.extent.value_width(), 16);
}

}  // namespace detail

/// Bytes of scratch for append.
template <class Layout>
[[nodiscard]] constexpr std::size_t append_bytes(Layout const& layout) noexcept {
  if (!layout.check()) return 0;
  return static_cast<std::size_t>(layout.extent.rows() * detail::append_floats(layout)) *
         sizeof(float);
}

/// Adds one or more tokens to every row of the step, at next_position(). They go to the exact tail;
/// nothing is coded until settle(), so that rejected drafts can be taken back.
///
/// Shapes: k [sequence, kv_head, n, head_dim] and v [.., value_dim] of any element type, K rotated
/// for its position; scratch append_bytes(layout). Returns: invalid_pointer, invalid_shape,
/// capacity_exceeded, non_finite, corrupt; then no row was changed. Cost: one write of the tokens.
template <host_executor Exec, class Key, class Value>
status append(Exec const& exec, packed_cache<Key, Value, host_space> const& packed,
              rows<host_space> const& k, rows<host_space> const& v, workspace scratch,
              step at = {}) {
  auto const& e = packed.extents();
  if (k.data == nullptr || v.data == nullptr || packed.storage() == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: append was given a null pointer");
  if (!packed.ready())
    return detail::fail(errc::corrupt, "kvslim: the packed cache was never filled");
  if (auto const s = detail::resolve(at, e); !s) return s;
  index_t const n = k.tokens;
  if (n < 1 || !k.has_shape(at.sequences, e.kv_heads, n, e.head_dim) ||
      !v.has_shape(at.sequences, e.kv_heads, n, e.value_width()))
    return detail::fail(errc::invalid_shape,
                        "kvslim: append needs k and v as [sequences, kv_heads, tokens, dim]");
  if (auto const s = detail::check_workspace(scratch, append_bytes(packed.layout())); !s) return s;
  index_t const first = at.first_sequence * e.kv_heads, rows = at.sequences * e.kv_heads;
  float const key_limit = packed.layout().key.limit(), value_limit = packed.layout().value.limit();
  for (index_t i = 0; i < rows; ++i) {
    if (!detail::is_active(at, e, first + i)) continue;
    if (char const* const fault = detail::fault_of_append(packed, first + i, n); fault != nullptr)
      return detail::fail(errc::capacity_exceeded, fault);
    for (index_t t = 0; t < n; ++t)
      if (!detail::given_within(k, i / e.kv_heads, i % e.kv_heads, t, key_limit) ||
          !detail::given_within(v, i / e.kv_heads, i % e.kv_heads, t, value_limit))
        return detail::fail(errc::non_finite,
                            "kvslim: the new token holds NaN, infinity or a value beyond the "
                            "storage type's range");
  }
  detail::meet(exec);
  auto* const all = static_cast<float*>(static_cast<void*>(scratch.data));
  index_t const floats = detail::round_up(e.head_dim + e.value_width(), 16);
  exec.for_each(rows, [=](index_t i) {
    if (!detail::is_active(at, e, first + i)) return;
    float* const row = all + i * floats;
    for (index_t t = 0; t < n; ++t) {
      detail::load_given(k, i / e.kv_heads, i % e.kv_heads, t, row);
      detail::load_given(v, i / e.kv_heads, i % e.kv_heads, t, row + e.head_dim);
      detail::append_row(packed, first + i, row, row + e.head_dim);
    }
  });
  return {};
}

KVSLIM_END_NAMESPACE
