// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// How blocks of threads read the tokens of a keep list as float rows, merged or as they are.

#include <kvslim/run/device_row.cuh>
#include <kvslim/run/encode.hpp>
#include <kvslim/run/stage_octets.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// What a thread that merges rows works in.
template <class Plan>
[[nodiscard]] KVSLIM_HD constexpr index_t reader_floats(Plan const& plan) noexcept {
  return Plan::has_merger ? 4 * plan.wide() : 0;
}
inline constexpr int stage_loads = 8;  ///< of a lane before it stores

/// Reads and merges slots [first, first + n) of a row, by the first `readers` threads of a block;
/// true if this one met a value that the codec cannot hold. `other` is of all readers.
template <bool Keys, class Plan, class Cells, class Half>
[[nodiscard]] __device__ bool stage_merged(Plan const& plan, Cells const& cells,
                                           keep_set const& keep, packed_row const& entry,
                                           float* biases, Half const& half, index_t first,
                                           index_t n, float* rows, float* other, index_t readers) {
  index_t const me = threadIdx.x, dim = half.dim;
  if (me >= readers) return false;
  float const limit = half.codec.limit();
  float* const rest = other + me * reader_floats(plan);
  bool bad = false;
  for (index_t i = me; i < n; i += readers) {
    float* const mine = rows + i * dim;
    auto const to = entry.next_position - static_cast<std::int32_t>(entry.slots - first - i);
    float const bias = read_kept(plan, cells, keep, half.row, first + i, to, Keys ? mine : rest,
                                 Keys ? rest : mine, rest + plan.wide());
    if (Keys && biases != nullptr) biases[first + i] = bias;
    for (index_t d = 0; d < dim; ++d) bad = bad || !(fabsf(mine[d]) <= limit);
  }
  return bad;
}

/// Stages slots [first, first + n) of a row, by a warp, as they are; true if a lane met a value
/// that the codec cannot hold.
template <bool Keys, class Plan, class Cells, class Half>
[[nodiscard]] __device__ bool stage_rows(Plan const& plan, Cells const& cells, keep_set const& keep,
                                         packed_row const& entry, Half const& half, index_t first,
                                         index_t n, float* rows) {
  auto const& e = plan.extents();
  index_t const r = half.row, s = r / e.kv_heads, h = r % e.kv_heads, dim = half.dim;
  int const lane = static_cast<int>(threadIdx.x) % warp_threads;
  bool bad = false;
  // Rotation can move all of a pair's length into one channel.
  float const limit = half.codec.limit() * (Plan::has_mover && Keys ? 0.70710677f : 1.0f);
  std::int32_t const* const kept = keep.cells + keep.begins[r] + first;
  auto const row_of = [&](index_t i) {
    if constexpr (Keys)
      return cells.key(s, h, kept[i]);
    else
      return cells.value(s, h, kept[i]);
  };
  bool const staged = stage_by_octets(row_of, n, dim, limit, rows, bad);
  for (index_t i = 0; i < n && !staged; i += stage_loads)
    for (index_t d = lane; d < dim; d += warp_threads) {
      float x[stage_loads];
      unrolled<stage_loads>([&](int j) { x[j] = i + j < n ? row_of(i + j)[d] : 0.0f; });
      unrolled<stage_loads>([&](int j) {
        bad = bad || !(fabsf(x[j]) <= limit);
        if (i + j < n) rows[(i + j) * dim + d] = x[j];
      });
    }
  __syncwarp();
  if constexpr (Plan::has_mover && Keys) {
    for (index_t i = lane; i < n; i += warp_threads)
      plan.template stage<position_tag>().move(
          rows + i * dim, dim, cells.position(s, h, kept[i]),
          entry.next_position - static_cast<std::int32_t>(entry.slots - first - i));
    __syncwarp();
  }
  return bad;
}

/// Stages slots [first, first + n) of a row, by all Warps of a block; the caller synchronises.
template <bool Keys, int Warps, class Plan, class Cells, class Half>
[[nodiscard]] __device__ bool stage_slots(Plan const& plan, Cells const& cells,
                                          keep_set const& keep, packed_row const& entry,
                                          float* biases, Half const& half, index_t first, index_t n,
                                          float* rows, float* other, index_t readers) {
  if constexpr (Plan::has_merger) {
    return stage_merged<Keys>(plan, cells, keep, entry, biases, half, first, n, rows, other,
                              readers);
  } else {
    index_t const share = div_up(n, Warps),
                  from = static_cast<int>(threadIdx.x) / warp_threads * share;
    return from < n && stage_rows<Keys>(plan, cells, keep, entry, half, first + from,
                                        min(share, n - from), rows + from * half.dim);
  }
}

KVSLIM_END_CUDA_NAMESPACE
