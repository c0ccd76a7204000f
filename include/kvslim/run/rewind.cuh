// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/run/device_row.cuh>
#include <kvslim/run/rewind.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// One warp per row of the step: a row that cannot go back so far stays as it is.
template <class Packed>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(warp_threads)
    rewind_kernel(Packed packed, index_t positions, step at) {
  auto const& e = packed.extents();
  auto const& layout = packed.layout();
  index_t const r = at.first_sequence * e.kv_heads + blockIdx.x;
  if (!is_filled(packed) || !is_active(at, e, r)) return;
  packed_row& x = packed.raw_row(r);
  std::int32_t* const list = packed.stored_positions(r);
  int const lane = lane_of_warp();
  if (positions > x.next_position || (list == nullptr && positions > x.slots)) {
    if (lane == 0) set_failed(packed, r, errc::invalid_option);
    return;
  }
  auto const cut = static_cast<std::int32_t>(x.next_position - positions);
  index_t const slots = x.slots, key_coded = x.key_coded, value_coded = x.value_coded;
  constexpr codec_traits key_traits = Packed::key_codec_type::traits;
  constexpr codec_traits value_traits = Packed::value_codec_type::traits;
  bool const keys = can_uncode(layout.key_sizes(x.capacity), key_traits);
  bool const values = can_uncode(layout.value_sizes(x.capacity), value_traits);
  auto const sum = [](index_t a, index_t b) { return a + b; };
  auto const larger = [](index_t a, index_t b) { return max(a, b); };
  auto const stuck = [&](index_t slot) {
    return !((slot >= key_coded || keys) && (slot >= value_coded || values));
  };
  bool impossible = list == nullptr && positions > 0 && stuck(slots - positions);
  for (index_t slot = lane; slot < slots && list != nullptr; slot += warp_threads)
    impossible = impossible || (list[slot] >= cut && stuck(slot));
  if (__any_sync(0xffffffffu, impossible) != 0) {
    if (lane == 0) set_failed(packed, r, errc::unsupported);
    return;
  }
  index_t left = slots - positions, emptied = 0;  // slots that stay; without a list, holes too
  if (list != nullptr) {
    left = 0;
    for (index_t slot = lane; slot < slots; slot += warp_threads) {
      if (list[slot] >= cut) {
        list[slot] = empty_slot;
        ++emptied;
      }
      if (list[slot] != empty_slot) left = slot + 1;
    }
    emptied = over_warp(emptied, sum);
    left = over_warp(left, larger);
    // Blocks that are only written whole keep the holes that evictions left at their end.
    left = max(left, max(keys ? 0 : key_coded, values ? 0 : value_coded));
  }
  __syncwarp();
  if (lane != 0) return;
  if (list != nullptr) x.holes += static_cast<std::int32_t>(emptied - (slots - left));
  x.slots = static_cast<std::int32_t>(left);
  x.key_coded = x.key_coded < x.slots ? x.key_coded : x.slots;
  x.value_coded = x.value_coded < x.slots ? x.value_coded : x.slots;
  x.next_position = cut;
  x.observed = x.observed < cut ? x.observed : cut;
  x.indexed = x.indexed < x.slots ? x.indexed : x.slots;
  x.summarized = x.summarized < x.slots ? x.summarized : x.slots;
}

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

/// rewind() on a stream: one warp per row. A row that has fewer positions, or whose coded tokens
/// cannot be taken back, stays as it is; packed_row::failed then says invalid_option or
/// unsupported.
template <class Key, class Value>
status rewind(cuda exec, packed_cache<Key, Value, cuda_space> const& packed, index_t positions,
              step at = {}) {
  if (packed.storage() == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: rewind was given a null pointer");
  auto const& e = packed.extents();
  if (auto const s = packed.layout().check(); !s) return s;
  if (auto const s = detail::resolve(at, e); !s) return s;
  if (positions < 0)
    return detail::fail(errc::invalid_option, "kvslim: rewind needs a count of at least 0");
  return detail::launch(exec, {at.sequences * e.kv_heads, detail::warp_threads},
                        detail::rewind_kernel<packed_cache<Key, Value, cuda_space>>, packed,
                        positions, at);
}

KVSLIM_END_NAMESPACE
