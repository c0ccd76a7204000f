// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// How blocks of threads read the kept tokens of a row, or of all rows of a group, a few at a time.

#include <kvslim/run/stage_rows.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

inline constexpr int fit_threads = 256;

/// How a fit reads the kept tokens of a row: one thread by itself, or all threads of a block of
/// fit_threads a few tokens at a time, which lie in `staged` [batch, dim].
template <bool Keys, class Plan, class Cells, class Half>
struct kept_rows {
  Plan const& plan;
  Cells const& cells;
  keep_set const& keep;
  packed_row const& entry;
  Half const& half;
  float* other;   // what one thread merges in
  float* others;  // likewise, all that merge together
  float* staged;
  index_t batch, readers;

  __device__ void operator()(index_t, index_t i, float* out) const {
    float* const rest = Plan::has_merger ? other : nullptr;
    auto const to = entry.next_position - static_cast<std::int32_t>(entry.slots - i);
    static_cast<void>(read_kept(plan, cells, keep, half.row, i, to, Keys ? out : rest,
                                Keys ? rest : out, other + plan.wide()));
  }
  template <class Use>
  __device__ void by_block(index_t begin, index_t end, Use const& use) const {
    for (index_t first = begin; first < end; first += batch) {
      index_t const n = min(batch, end - first);
      static_cast<void>(stage_slots<Keys, fit_threads / warp_threads>(
          plan, cells, keep, entry, nullptr, half, first, n, staged, others, readers));
      __syncthreads();
      use(staged, first, n);
      __syncthreads();
    }
  }
};

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
  __device__ void by_block(index_t from, index_t to, Use const& use) const {
    index_t const warp = threadIdx.x / warp_threads, warps = blockDim.x / warp_threads,
                  dim = half_of<Keys>(packed, first).dim;
    for (index_t begin = from; begin < to; begin += batch) {
      index_t const n = min(batch, to - begin), each = n * group.size();
      for (index_t at = Plan::has_merger ? (warp == 0 ? 0 : each) : warp; at < each;
           at += Plan::has_merger ? 1 : warps)
        load(at % group.size(), begin + at / group.size(), 1, staged + at * dim);
      __syncthreads();
      use(staged, begin, n);
      __syncthreads();
    }
  }
};

KVSLIM_END_CUDA_NAMESPACE
