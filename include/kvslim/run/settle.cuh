// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/run/device_row.cuh>
#include <kvslim/run/settle.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// Codes slots [half.coded, target), by a team. `rows` holds `floats`.
template <class Team, class Half>
__device__ void settle_half_by_team(Half const& half, index_t target, float* rows, index_t floats) {
  for (index_t slot = half.coded; slot < target;) {
    index_t take = half.in_block(slot, target);
    if (half.sizes.block_tokens < run_tokens)
      take = max(take, min(min(target - slot, run_tokens), floats / half.dim));
    load_slots<Team>(half, slot, take, rows);
    Team::synchronize();
    encode_blocks<Team>(half, slot, take, rows);
    Team::synchronize();
    slot += take;
  }
}

/// drop_oldest(), by a warp: sides move a chunk of 32 slots at a time.
template <class Packed>
__device__ void drop_oldest_by_warp(Packed const& packed, index_t r) {
  packed_row& x = packed.raw_row(r);
  auto const& layout = packed.layout();
  index_t const first = x.key_coded, last = index_t{x.slots} - 1, capacity = x.capacity;
  int const lane = lane_of_warp();
  for (int i = 0; i < static_cast<int>(most_sides); ++i) {
    side const& kind = layout.sides[i];
    if (kind.kind == side_kind::none || kind.unit != 1) continue;
    auto* const words = static_cast<std::uint32_t*>(static_cast<void*>(
        packed.storage() + x.offset + x.sides + layout.side_offset(i, capacity)));
    index_t const each = kind.bytes / 4;
    for (index_t word = 0; word < each; ++word)
      for (index_t begin = first; begin < last; begin += warp_threads) {
        index_t const slot = begin + lane;
        std::uint32_t const next = slot < last ? words[(slot + 1) * each + word] : 0;
        __syncwarp();
        if (slot < last) words[slot * each + word] = next;
        __syncwarp();
      }
  }
  __syncwarp();  // every lane has read the row
  if (lane == 0) {
    --x.slots;
    --x.holes;
    auto const next = [&](std::int32_t head, codec_sizes const& z) {
      return static_cast<std::int32_t>((head + 1) % layout.ring(z, capacity));
    };
    x.key_head = next(x.key_head, layout.key_sizes(capacity));
    x.value_head = next(x.value_head, layout.value_sizes(capacity));
  }
  __syncwarp();
}

/// The first hole among slots [from, end), by a warp; `end`: none.
[[nodiscard]] __device__ inline index_t find_hole(std::int32_t const* positions, index_t from,
                                                  index_t end) {
  for (; from < end; from += warp_threads) {
    index_t const slot = from + lane_of_warp();
    unsigned const holes = __ballot_sync(0xffffffffu, slot < end && positions[slot] == empty_slot);
    if (holes != 0) return from + 31 - __clz(static_cast<int>(holes & (0u - holes)));
  }
  return end;
}

/// close_tail(), by a warp.
template <class Packed>
__device__ void close_tail_by_warp(Packed const& packed, index_t r, float* rows) {
  packed_row& x = packed.raw_row(r);
  std::int32_t* const positions = packed.stored_positions(r);
  int const lane = lane_of_warp();
  for (index_t slot = index_t{x.slots} - 1; slot >= x.key_coded; --slot) {
    if (positions[slot] != empty_slot) continue;
    auto const keys = packed.keys(r);
    auto const values = packed.values(r);
    for (index_t to = slot; to > x.key_coded; --to) {
      load_slots<one_warp>(keys, to - 1, 1, rows);
      load_slots<one_warp>(values, to - 1, 1, rows + keys.dim);
      __syncwarp();
      store_exact(keys, to, rows);
      if constexpr (!Packed::layout_type::shares_keys) store_exact(values, to, rows + keys.dim);
      if (lane == 0) move_sides(packed, r, to - 1, to);
      __syncwarp();
    }
    __syncwarp();
    if (lane == 0) positions[x.key_coded] = empty_slot;
    __syncwarp();
    drop_oldest_by_warp(packed, r);
  }
}

/// settle_into_holes(), by a warp.
template <class Packed>
__device__ void settle_into_holes_by_warp(Packed const& packed, index_t r, float* rows) {
  packed_row& x = packed.raw_row(r);
  auto const& layout = packed.layout();
  index_t const keep_exact = layout.key_sizes(x.capacity).keep_exact;
  std::int32_t* const positions = packed.stored_positions(r);
  int const lane = lane_of_warp();
  close_tail_by_warp(packed, r, rows);
  index_t search = 0;  // no hole before it
  for (;;) {
    index_t const oldest = x.key_coded;
    if (x.slots - keep_exact <= oldest) return;
    search = find_hole(positions, search, oldest);
    auto const keys = packed.keys(r);
    auto const values = packed.values(r);
    load_slots<one_warp>(keys, oldest, 1, rows);
    load_slots<one_warp>(values, oldest, 1, rows + keys.dim);
    __syncwarp();
    encode_blocks<one_warp>(keys, search, 1, rows);
    if constexpr (!Packed::layout_type::shares_keys)
      encode_blocks<one_warp>(values, search, 1, rows + keys.dim);
    __syncwarp();
    if (search < oldest) {
      if (lane == 0) move_sides(packed, r, oldest, search);
      __syncwarp();
      drop_oldest_by_warp(packed, r);
      continue;
    }
    if (lane == 0) {
      auto const advance = [&](std::int32_t& head, std::int32_t& coded, codec_sizes const& z) {
        head = static_cast<std::int32_t>((head + 1) % layout.ring(z, x.capacity));
        ++coded;
      };
      advance(x.key_head, x.key_coded, layout.key_sizes(x.capacity));
      advance(x.value_head, x.value_coded, layout.value_sizes(x.capacity));
    }
    __syncwarp();
  }
}

/// Warps that settle a row: as many as one of its codecs employs.
template <class Packed>
inline constexpr int settle_warps =
    warps_of<typename Packed::key_codec_type> > warps_of<typename Packed::value_codec_type>
        ? warps_of<typename Packed::key_codec_type>
        : warps_of<typename Packed::value_codec_type>;

/// One block per row of the step: its team codes what is due; holes are filled one by one, by a
/// warp. Rows are staged in shared memory unless there is `scratch`. Few rows settle at once, so
/// registers come before company.
template <class Packed>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(settle_warps<Packed>* warp_threads, 1)
    settle_kernel(Packed packed, float* scratch, step at) {
  KVSLIM_DETAIL_DYNAMIC_SHARED(shared);
  using team = warp_team<settle_warps<Packed>>;
  auto const& e = packed.extents();
  auto const& layout = packed.layout();
  index_t const r = at.first_sequence * e.kv_heads + blockIdx.x;
  if (!is_filled(packed) || !is_active(at, e, r)) return;
  index_t const floats = settle_floats(layout);
  float* const rows = scratch != nullptr ? scratch + blockIdx.x * floats : shared;
  bool const fills = layout.refills() && packed.raw_row(r).holes > 0;
  index_t key = 0, value = 0;
  settle_targets(packed, r, key, value);
  auto const keys = packed.keys(r);
  [[maybe_unused]] auto const values = packed.values(r);
  team::synchronize();  // everyone has read the row
  if (fills) {
    if (team::warp() == 0) settle_into_holes_by_warp(packed, r, rows);
    return;
  }
  settle_half_by_team<team>(keys, key, rows, floats);
  if constexpr (!Packed::layout_type::shares_keys)
    settle_half_by_team<team>(values, value, rows, floats);
  if (team::thread() == 0) settle_counts(packed, r);
}

/// Whether rows that share blocks hold the same tokens.
template <class Packed>
[[nodiscard]] __device__ bool rows_agree(Packed const& packed, step const& at, index_t r,
                                         row_group const& group) {
  auto const& e = packed.extents();
  index_t const first = group.first_row(e, r);
  bool same = true;
  for (index_t m = 0; m < group.size(); ++m) {
    index_t const other = group.member_row(e, first, m);
    same = same && packed.raw_row(other).slots == packed.raw_row(first).slots &&
           packed.raw_row(other).capacity == packed.raw_row(first).capacity &&
           is_active(at, e, other) == is_active(at, e, first);
  }
  return same;
}

/// settle_half(), by a team.
template <class Team, class Half, class HalfOf>
__device__ void settle_group_by_team(Half const& half, HalfOf const& half_of, extents const& e,
                                     index_t target, float* rows) {
  for (index_t slot = half.coded; slot < target;) {
    index_t const take = half.in_block(slot, target);
    for (index_t m = 0; m < half.members(); ++m)
      load_slots<Team>(half_of(group_of(half.codec).member_row(e, half.row, m)), slot, take,
                       rows + m * take * half.dim);
    Team::synchronize();
    encode_blocks<Team>(half, slot, take, rows);
    Team::synchronize();
    slot += take;
  }
}

/// Where rows share blocks, a block of threads per row of the step codes what it leads.
template <class Packed>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(settle_warps<Packed>* warp_threads, 1)
    settle_groups_kernel(Packed packed, float* scratch, step at) {
  using team = warp_team<settle_warps<Packed>>;
  auto const& e = packed.extents();
  auto const& layout = packed.layout();
  index_t const r = at.first_sequence * e.kv_heads + blockIdx.x;
  if (!is_filled(packed) || !is_active(at, e, r)) return;
  if (!rows_agree(packed, at, r, group_of(layout.key)) ||
      !rows_agree(packed, at, r, group_of(layout.value))) {
    if (team::thread() == 0) set_failed(packed, r, errc::unsupported);
    return;
  }
  float* const rows = scratch + blockIdx.x * settle_floats(layout);
  index_t key = 0, value = 0;
  settle_targets(packed, r, key, value);
  if (auto const half = packed.keys(r); half.member == 0)
    settle_group_by_team<team>(
        half, [&](index_t i) { return packed.keys(i); }, e, key, rows);
  if constexpr (!Packed::layout_type::shares_keys)
    if (auto const half = packed.values(r); half.member == 0)
      settle_group_by_team<team>(
          half, [&](index_t i) { return packed.values(i); }, e, value, rows);
}
/// Counts what settle_groups_kernel coded, a thread per row.
template <class Packed>
struct settle_counts_body {
  Packed packed;
  step at;

  __device__ void operator()(index_t i) const {
    auto const& e = packed.extents();
    auto const& layout = packed.layout();
    index_t const r = at.first_sequence * e.kv_heads + i;
    if (is_filled(packed) && is_active(at, e, r) &&
        rows_agree(packed, at, r, group_of(layout.key)) &&
        rows_agree(packed, at, r, group_of(layout.value)))
      settle_counts(packed, r);
  }
};

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

/// settle() on a stream: one block per row, of four warps where a codec encodes by as many and of
/// one elsewhere. Rows that share blocks and do not hold the same tokens stay as they are;
/// packed_row::failed says unsupported. Scratch: settle_bytes(layout).
template <class Key, class Value>
status settle(cuda exec, packed_cache<Key, Value, cuda_space> const& packed, workspace scratch,
              step at = {}) {
  using packed_type = packed_cache<Key, Value, cuda_space>;
  if (packed.storage() == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: settle was given a null pointer");
  if (auto const s = detail::check_tables(packed); !s) return s;
  auto const& e = packed.extents();
  auto const& layout = packed.layout();
  if (auto const s = layout.check(); !s) return s;
  if (auto const s = detail::resolve(at, e); !s) return s;
  if (auto const s = detail::check_workspace(scratch, settle_bytes(layout)); !s) return s;
  auto const whole = [&](row_group g) {
    return at.first_sequence % g.sequences == 0 && at.sequences % g.sequences == 0;
  };
  if (!whole(detail::group_of(layout.key)) || !whole(detail::group_of(layout.value)))
    return detail::fail(errc::invalid_shape,
                        "kvslim: rows that share blocks settle together: name whole groups");
  auto* const floats = static_cast<float*>(static_cast<void*>(scratch.data));
  index_t const rows = at.sequences * e.kv_heads;
  if constexpr (Key::traits.grouped || Value::traits.grouped) {
    if (auto const s =
            detail::launch(exec, {rows, detail::settle_warps<packed_type> * detail::warp_threads},
                           detail::settle_groups_kernel<packed_type>, packed, floats, at);
        !s)
      return s;
    return detail::launch_for_each(exec, rows, detail::settle_counts_body<packed_type>{packed, at});
  } else {
    index_t const bytes = detail::settle_floats(layout) * static_cast<index_t>(sizeof(float));
    bool const fits = bytes <= detail::most_shared_bytes;
    return detail::launch(
        exec, {rows, detail::settle_warps<packed_type> * detail::warp_threads, fits ? bytes : 0},
        detail::settle_kernel<packed_type>, packed, fits ? nullptr : floats, at);
  }
}

KVSLIM_END_NAMESPACE
