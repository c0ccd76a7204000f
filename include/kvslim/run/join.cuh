// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/run/device_row.cuh>
#include <kvslim/run/join.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

inline constexpr int join_threads = 256;

/// Copies n bytes by all threads of a block. Both ends begin at a multiple of 16.
__device__ inline void copy_by_block(std::byte* to, std::byte const* from, index_t n) {
  auto* const words = static_cast<uint4*>(static_cast<void*>(to));
  auto const* const other = static_cast<uint4 const*>(static_cast<void const*>(from));
  for (index_t i = threadIdx.x; i < n / 16; i += join_threads) words[i] = other[i];
  for (index_t i = n / 16 * 16 + threadIdx.x; i < n; i += join_threads) to[i] = from[i];
}

/// copy_half(), by a block: its first warp moves the exact slots, one row of scratch at a time.
template <class Half>
__device__ void copy_half_by_block(Half const& from, Half const& to, index_t slots, float* row) {
  copy_by_block(to.state, from.state, from.sizes.state_bytes);
  copy_by_block(to.blocks, from.blocks,
                div_up(from.coded, from.sizes.block_tokens) * from.sizes.block_bytes);
  if (threadIdx.x >= warp_threads) return;
  for (index_t slot = from.coded; slot < slots; ++slot) {
    load_slots<one_warp>(from, slot, 1, row);
    __syncwarp();
    store_exact(to, slot, row);
    __syncwarp();
  }
}

/// One block per head of the sequence. Where one head has no room none is copied.
template <class Packed>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(join_threads)
    join_kernel(Packed source, index_t from, Packed target, index_t to, float* scratch) {
  auto const& e = target.extents();
  auto const& layout = target.layout();
  index_t const heads = e.kv_heads, h = blockIdx.x, a = from * heads + h, b = to * heads + h;
  if (!is_filled(source) || !is_filled(target)) return;
  bool fits = true;  // reads what no block writes: the source, and capacities
  for (index_t i = 0; i < heads; ++i)
    fits = fits && fault_of_join(source, from * heads + i, target, to * heads + i) == nullptr;
  if (!fits) {
    if (threadIdx.x == 0) set_failed(target, b, errc::capacity_exceeded);
    return;
  }
  if (threadIdx.x == 0) copy_counts(source, a, target, b);
  __syncthreads();
  packed_row const& x = source.raw_row(a);
  packed_row const& y = target.raw_row(b);
  auto const source_parts = layout.parts(x.capacity, a), parts = layout.parts(y.capacity, b);
  for (index_t i = 0; i < most_sides; ++i)
    copy_by_block(target.storage() + y.offset + parts.sides[i],
                  source.storage() + x.offset + source_parts.sides[i],
                  layout.sides[i].size(x.slots));
  float* const row = scratch + h * round_up(e.head_dim + e.value_width(), 16);
  copy_half_by_block(source.keys(a), target.keys(b), x.slots, row);
  if constexpr (!Packed::layout_type::shares_keys)
    copy_half_by_block(source.values(a), target.values(b), x.slots, row);
}

template <class Packed>
struct leave_body {
  Packed packed;
  step at;
  __device__ void operator()(index_t i) const {
    auto const& e = packed.extents();
    index_t const r = at.first_sequence * e.kv_heads + i;
    if (is_filled(packed) && is_active(at, e, r)) empty_row(packed, r);
  }
};

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

/// leave() on a stream.
template <class Key, class Value>
status leave(cuda exec, packed_cache<Key, Value, cuda_space> const& packed, step at = {}) {
  if (packed.storage() == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: leave was given a null pointer");
  auto const& e = packed.extents();
  if (auto const s = packed.layout().check(); !s) return s;
  if (packed.layout().grouped())
    return detail::fail(errc::unsupported, "kvslim: rows that share blocks leave only together");
  if (auto const s = detail::resolve(at, e); !s) return s;
  return detail::launch_for_each(
      exec, at.sequences * e.kv_heads,
      detail::leave_body<packed_cache<Key, Value, cuda_space>>{packed, at});
}

/// join() on a stream: one block per head. Where the sequence needs more room than its place has,
/// nothing is copied and packed_row::failed says capacity_exceeded for the rows of the place.
/// Scratch: append_bytes(target.layout()).
template <class Key, class Value>
status join(cuda exec, packed_cache<Key, Value, cuda_space> const& source, index_t from,
            packed_cache<Key, Value, cuda_space> const& target, index_t to, workspace scratch) {
  if (source.storage() == nullptr || target.storage() == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: join was given a null pointer");
  if (auto const s = target.layout().check(); !s) return s;
  if (auto const s = detail::check_join(source, from, target, to, scratch); !s) return s;
  return detail::launch(exec, {target.extents().kv_heads, detail::join_threads},
                        detail::join_kernel<packed_cache<Key, Value, cuda_space>>, source, from,
                        target, to, static_cast<float*>(static_cast<void*>(scratch.data)));
}

KVSLIM_END_NAMESPACE
