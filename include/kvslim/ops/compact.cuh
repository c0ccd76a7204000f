// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda.cuh>
#include <kvslim/ops/compact.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

inline constexpr int compact_threads = 256;
inline constexpr index_t compact_slice_bytes = 32;  ///< channels of one block: a sector of memory
inline constexpr int compact_loads = 8;             ///< of a thread before it writes

/// Moves the channels [first, first + slice) of one row's kept tokens. A chunk is read whole before
/// it is written; targets never overtake sources, so chunks need not wait for each other.
template <class Source, class Target>
__device__ void compact_slice(Source const& from, Target const& to, index_t s, index_t h,
                              index_t width, index_t first, std::int32_t const* cells,
                              index_t count, index_t source_tokens) {
  using value = typename Target::value_type;
  constexpr index_t slice = compact_slice_bytes / static_cast<index_t>(sizeof(value));
  constexpr index_t together = compact_threads / slice;  // tokens
  index_t const d = first + threadIdx.x % slice;
  for (index_t base = 0; base < count; base += together * compact_loads) {
    value held[compact_loads];
    bool moves[compact_loads];
    unrolled<compact_loads>([&](int j) {
      index_t const i = base + j * together + threadIdx.x / slice;
      index_t const cell = i < count ? cells[i] : -1;
      moves[j] = d < width && cell >= 0 && cell < source_tokens;
      if (moves[j]) held[j] = from.at(s, h, cell, d);
    });
    __syncthreads();
    unrolled<compact_loads>([&](int j) {
      if (moves[j]) to.at(s, h, base + j * together + threadIdx.x / slice, d) = held[j];
    });
  }
}

/// Slices of a row of `width` channels.
template <class Plane>
[[nodiscard]] KVSLIM_HD constexpr index_t compact_slices(index_t width) noexcept {
  return div_up(width * static_cast<index_t>(sizeof(typename Plane::value_type)),
                compact_slice_bytes);
}

/// Blocks: [row, slice of K, then slice of V].
template <class Source, class Target>
KVSLIM_DETAIL_KERNEL void compact_kernel(Source source, Target target, keep_set keep) {
  auto const& e = source.extent;
  index_t const of_k = compact_slices<typename Target::key_plane>(e.head_dim),
                slices = of_k + compact_slices<typename Target::value_plane>(e.value_width());
  for (index_t item = blockIdx.x; item < e.rows() * slices; item += gridDim.x) {
    index_t const r = item / slices, slice = item % slices, s = r / e.kv_heads, h = r % e.kv_heads;
    std::int32_t const* const cells = keep.cells + keep.begins[r];
    index_t const count = min(keep.count(r), target.extent.tokens);
    auto const first = [](index_t number, std::size_t bytes) {
      return number * (compact_slice_bytes / static_cast<index_t>(bytes));
    };
    if (slice < of_k)
      compact_slice(source.k, target.k, s, h, e.head_dim,
                    first(slice, sizeof(typename Target::key_plane::value_type)), cells, count,
                    e.tokens);
    else
      compact_slice(source.v, target.v, s, h, e.value_width(),
                    first(slice - of_k, sizeof(typename Target::value_plane::value_type)), cells,
                    count, e.tokens);
  }
}

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

/// One block per row, K or V, and slice of channels. The keep set is device memory and is not
/// checked: entries beyond the target's cells, and cells that do not exist, are not moved.
template <>
struct implementation<ops::compact_op, cuda> {
  template <class Source, class Target>
  static status run(cuda exec, Source const& source, Target const& target, keep_set const& keep) {
    static_assert(std::same_as<typename Source::space, cuda_space> &&
                      std::same_as<typename Target::space, cuda_space>,
                  "kvslim: a CUDA executor was given a host view: view device memory with "
                  "kvslim::cuda_space");
    if (auto const s = ops::check_compact(source, target, keep); !s) return s;
    auto const& e = source.extent;
    index_t const slices = detail::compact_slices<typename Target::key_plane>(e.head_dim) +
                           detail::compact_slices<typename Target::value_plane>(e.value_width());
    return detail::launch(exec, {detail::blocks_for(e.rows() * slices), detail::compact_threads},
                          detail::compact_kernel<Source, Target>, source, target, keep);
  }
};

KVSLIM_END_NAMESPACE
