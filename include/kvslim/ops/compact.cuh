// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda.cuh>
#include <kvslim/ops/compact.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

inline constexpr int compact_threads = 256;
inline constexpr index_t compact_slice_bytes = 32;  ///< channels of one block: a sector of memory

/// The channels [first, first + slice) of one row's kept tokens. A chunk is read whole before it is
/// written; targets never overtake sources, so chunks need not wait for each other.
template <class Source, class Target>
struct compact_slice {
  using value = typename Target::value_type;
  Source const& from;
  Target const& to;
  index_t s, h, width, first;
  std::int32_t const* cells;
  index_t count, source_tokens;

  template <class Piece>
  static constexpr index_t in_piece = static_cast<index_t>(sizeof(Piece) / sizeof(value));
  template <class Piece>  // threads beside each other move a token
  static constexpr index_t across = compact_slice_bytes / static_cast<index_t>(sizeof(Piece));
  template <class Piece>  // of a thread before it writes
  static constexpr int loads = in_piece<Piece> > 1 ? 4 : 8;
  template <class Piece>
  static constexpr index_t chunk_tokens = compact_threads / across<Piece>* loads<Piece>;

  __device__ void move() const {
    index_t base = 0;
    while (base < count && move_chunk<uint4>(base)) base += chunk_tokens<uint4>;
    for (; base < count; base += chunk_tokens<value>) move_chunk<value>(base);
  }

 private:
  /// Moves tokens [base, base + chunk_tokens), in pieces; false if a piece of several channels
  /// would not lie at a multiple of its size, and then nothing moved.
  template <class Piece>
  __device__ bool move_chunk(index_t base) const {
    constexpr index_t each = in_piece<Piece>, together = compact_threads / across<Piece>;
    index_t const step = from.layout.channel_stride(), stride = to.layout.channel_stride(),
                  d = first + threadIdx.x % across<Piece> * each;
    value const* source[loads<Piece>];
    bool uneven = step != 1 || stride != 1 || width % each != 0;
    auto const token = [&](int j) { return base + j * together + threadIdx.x / across<Piece>; };
    auto const target = [&](int j) { return to.row(s, h, token(j)) + d * stride; };
    unrolled<loads<Piece>>([&](int j) {
      index_t const cell = token(j) < count ? cells[token(j)] : -1;
      bool const moves = d < width && cell >= 0 && cell < source_tokens;
      source[j] = moves ? from.row(s, h, cell) + d * step : nullptr;
      if (each > 1 && moves)
        uneven = uneven || (reinterpret_cast<std::uintptr_t>(source[j]) |
                            reinterpret_cast<std::uintptr_t>(target(j))) %
                                   sizeof(Piece) !=
                               0;
    });
    if (each > 1 && __syncthreads_or(uneven) != 0) return false;
    Piece held[loads<Piece>];
    unrolled<loads<Piece>>([&](int j) {
      if (source[j] != nullptr)
        held[j] = *static_cast<Piece const*>(static_cast<void const*>(source[j]));
    });
    __syncthreads();
    unrolled<loads<Piece>>([&](int j) {
      if (source[j] != nullptr) *static_cast<Piece*>(static_cast<void*>(target(j))) = held[j];
    });
    return true;
  }
};

/// Slices of a row of `width` channels.
template <class Plane>
[[nodiscard]] KVSLIM_HD constexpr index_t compact_slices(index_t width) noexcept {
  return div_up(width * static_cast<index_t>(sizeof(typename Plane::value_type)),
                compact_slice_bytes);
}

/// Blocks: [row, slice of K, then slice of V].
template <class Source, class Target>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(compact_threads, 2)
    compact_kernel(Source source, Target target, keep_set keep) {
  auto const& e = source.extent;
  index_t const of_k = compact_slices<typename Target::key_plane>(e.head_dim),
                slices = of_k + compact_slices<typename Target::value_plane>(e.value_width());
  for (index_t item = blockIdx.x; item < e.rows() * slices; item += gridDim.x) {
    index_t const r = item / slices, slice = item % slices, s = r / e.kv_heads, h = r % e.kv_heads;
    std::int32_t const* const cells = keep.cells + keep.begins[r];
    index_t const count = min(keep.count(r), target.extent.tokens);
    auto const move = [&]<class From, class To>(From const& from, To const& to, index_t width,
                                                index_t number) {
      constexpr auto bytes = static_cast<index_t>(sizeof(typename To::value_type));
      index_t const first = number * (compact_slice_bytes / bytes);
      compact_slice<From, To>{from, to, s, h, width, first, cells, count, e.tokens}.move();
    };
    if (slice < of_k)
      move(source.k, target.k, e.head_dim, slice);
    else
      move(source.v, target.v, e.value_width(), slice - of_k);
  }
}

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

/// One block per row, K or V, and slice of channels; 16 bytes a move where rows begin at multiples
/// of 16 bytes and channels lie side by side, an element elsewhere. The keep set is device memory
/// and is not checked: entries beyond the target's cells, and cells that do not exist, are not
/// moved.
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
