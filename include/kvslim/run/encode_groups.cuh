// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Encoding by codecs whose blocks several rows share.

#include <kvslim/run/stage_rows.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

inline constexpr int fit_threads = 256;
inline constexpr index_t fit_static_bytes = 5 * 1024;  ///< of shared memory that fits keep, at most

/// The kept tokens of all rows of a group: read one by one by one thread, or by all threads of a
/// block of fit_threads a few tokens at a time, which lie in `staged` [batch, members, dim].
template <bool Keys, class Plan, class Cells, class Packed>
struct group_rows {
  Plan const& plan;
  Cells const& cells;
  keep_set const& keep;
  Packed const& packed;
  row_group group;
  index_t first;  // row of the group
  float* other;   // four rows that reading needs
  float* staged;
  index_t batch;

  [[nodiscard]] __device__ index_t row_of(index_t member) const {
    return group.member_row(plan.extents(), first, member);
  }
  __device__ void operator()(index_t member, index_t i, float* out) const {
    index_t const r = row_of(member);
    packed_row const& entry = packed.raw_row(r);
    float* const rest = Plan::has_merger ? other : nullptr;
    auto const to = entry.next_position - static_cast<std::int32_t>(entry.slots - i);
    float const bias = read_kept(plan, cells, keep, r, i, to, Keys ? out : rest, Keys ? rest : out,
                                 other + plan.wide());
    if constexpr (Plan::has_merger && Keys)
      if (float* const biases = packed.biases(r); biases != nullptr) biases[i] = bias;
  }
  /// Reads n tokens of a member, from token i on: by a warp, merged ones by one of its lanes.
  __device__ void load(index_t member, index_t i, index_t n, float* out) const {
    index_t const r = row_of(member);
    auto const half = half_of<Keys>(packed, r);
    if constexpr (Plan::has_merger) {
      if (lane_of_warp() != 0) return;
      for (index_t j = 0; j < n; ++j) (*this)(member, i + j, out + j * half.dim);
    } else {
      if (stage_rows<Keys>(plan, cells, keep, packed.raw_row(r), half, i, n, out))
        set_failed(packed, r, errc::non_finite);
    }
  }
  template <class Use>
  __device__ void by_block(index_t tokens, Use const& use) const {
    index_t const warp = threadIdx.x / warp_threads, warps = blockDim.x / warp_threads,
                  dim = half_of<Keys>(packed, first).dim;
    for (index_t begin = 0; begin < tokens; begin += batch) {
      index_t const n = min(batch, tokens - begin), each = n * group.size();
      for (index_t at = Plan::has_merger ? (warp == 0 ? 0 : each) : warp; at < each;
           at += Plan::has_merger ? 1 : warps)
        load(at % group.size(), begin + at / group.size(), 1, staged + at * dim);
      __syncthreads();
      use(staged, begin, n);
      __syncthreads();
    }
  }
};

/// Fits the state of every group: one block to its first row.
template <bool Keys, class Plan, class Cells, class Packed>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(fit_threads, 1)
    fit_groups_kernel(Plan plan, Cells cells, keep_set keep, Packed packed, float* staging,
                      index_t staging_floats, index_t batch) {
  KVSLIM_DETAIL_DYNAMIC_SHARED(shared);
  index_t const r = blockIdx.x;
  packed_row const& entry = packed.raw_row(r);
  auto const half = half_of<Keys>(packed, r);
  if (entry.failed != 0 || half.member != 0) return;
  float* const mine = staging + r * staging_floats;
  float* const other = mine + packed.layout().block_floats();
  group_rows<Keys, Plan, Cells, Packed> const read{plan,
                                                   cells,
                                                   keep,
                                                   packed,
                                                   group_of(half.codec),
                                                   r,
                                                   other,
                                                   batch > 0 ? shared : mine,
                                                   max(index_t{1}, batch)};
  site whole = half.whole();
  whole.held = entry.slots;
  using codec = typename std::remove_cvref_t<decltype(half)>::codec_type;
  warp_codec<codec>::fit(half.codec, read, half.coded, whole, half.state, other + 4 * plan.wide());
}

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
  if constexpr (codec::traits.fitted) {
    auto const layout = plan.layout();
    index_t members = 0;
    if constexpr (Keys)
      members = group_of(layout.key).size();
    else
      members = group_of(layout.value).size();
    index_t const token = members * (Keys ? e.head_dim : e.value_width()) *
                          static_cast<index_t>(sizeof(float)),
                  batch = min(run_tokens, (most_shared_bytes - fit_static_bytes) / token);
    if (auto const s = launch(exec, {e.rows(), fit_threads, batch * token},
                              fit_groups_kernel<Keys, Plan, Cells, Packed>, plan, cells, keep,
                              packed, staging, plan.staging_floats(), batch);
        !s)
      return s;
  }
  constexpr int warps = warps_of<codec>;
  return launch(exec, {e.rows(), warps * warp_threads},
                encode_groups_kernel<Keys, warps, Plan, Cells, Packed>, plan, cells, keep, packed,
                staging, plan.staging_floats());
}

KVSLIM_END_CUDA_NAMESPACE
