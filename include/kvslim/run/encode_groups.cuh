// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Encoding by codecs whose blocks several rows share.

#include <kvslim/run/fit.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// Encodes K or V of every row: a block each. Those of a group take the blocks that they share in
/// turn, each with its row's workspace, then what is exact of their own row.
template <bool Keys, int Warps, class Plan, class Cells, class Packed>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(Warps* warp_threads, 1)
    encode_groups_kernel(Plan plan, Cells cells, keep_set keep, Packed packed, float* staging,
                         index_t staging_floats) {
  using team = warp_team<Warps>;
  index_t const r = blockIdx.x, slots = packed.raw_row(r).slots;
  float* const rows = staging + r * staging_floats;
  float* const other = rows + packed.layout().block_floats();
  auto const half = half_of<Keys>(packed, r);
  using codec = typename std::remove_cvref_t<decltype(half)>::codec_type;
  auto const group = group_of(half.codec);
  index_t const first = group.first_row(plan.extents(), r);
  group_rows<Keys, Plan, Cells, Packed> const read{plan,  cells, keep,    packed, group,
                                                   first, other, nullptr, 0};
  auto const shared_half = half_of<Keys>(packed, first);
  for (index_t slot = 0, turn = 0; slot < half.coded; turn = (turn + 1) % group.size()) {
    index_t const take = shared_half.in_block(slot, half.coded);
    if (turn == half.member) {
      if constexpr (Plan::has_merger) {
        for (index_t m = 0; m < group.size() && team::warp() == 0; ++m)
          read.load(m, slot, take, rows + m * take * half.dim);
      } else {
        index_t const share = div_up(take, Warps), from = team::warp() * share;
        for (index_t m = 0; m < group.size() && from < take; ++m)
          read.load(m, slot + from, min(share, take - from), rows + (m * take + from) * half.dim);
      }
      team::synchronize();
      encode_by<team, warp_codec<codec>>(half.codec, rows,
                                         shared_half.at(slot % half.sizes.block_tokens, take, slot),
                                         shared_half.block(slot));
      team::synchronize();
    }
    slot += take;
  }
  index_t const room = max(index_t{1}, packed.layout().block_floats() / plan.wide());
  for (index_t slot = half.coded; slot < slots; slot += room) {
    index_t const n = min(room, slots - slot), share = div_up(n, Warps),
                  from = team::warp() * share;
    if constexpr (Plan::has_merger) {
      if (team::warp() == 0) read.load(half.member, slot, n, rows);
    } else if (from < n) {
      read.load(half.member, slot + from, min(share, n - from), rows + from * half.dim);
    }
    team::synchronize();
    encode_slots<team>(half, slot, n, rows);
    team::synchronize();
  }
}

/// Fits and encodes K or V where rows share blocks. `staging` is of plan.encode_bytes().
template <bool Keys, class Plan, class Cells, class Packed>
[[nodiscard]] status launch_encode_groups(cuda exec, Plan const& plan, Cells const& cells,
                                          keep_set const& keep, Packed const& packed,
                                          float* staging) {
  using codec =
      std::conditional_t<Keys, typename Packed::key_codec_type, typename Packed::value_codec_type>;
  auto const& e = plan.extents();
  if constexpr (codec::traits.fitted)
    if (auto const s = launch_fit<Keys>(exec, plan, cells, keep, packed, staging); !s) return s;
  constexpr int warps = warps_of<codec>;
  return launch(exec, {e.rows(), warps * warp_threads},
                encode_groups_kernel<Keys, warps, Plan, Cells, Packed>, plan, cells, keep, packed,
                staging, plan.staging_floats());
}

KVSLIM_END_CUDA_NAMESPACE
