// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda_block.cuh>
#include <kvslim/ops/text_order.hpp>

#include <cub/block/block_radix_rank.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

inline constexpr int order_bits = 8;  // sorted by in one pass
inline constexpr unsigned order_digits = 1u << order_bits;

struct position_digit {
  int shift;
  __device__ std::uint32_t Digit(std::uint32_t position) const {
    return (position >> shift) & (order_digits - 1);
  }
};

/// One stable pass of a radix sort over `count` cells by one digit of their positions, or over
/// anything by what position_of says of it. A block's barrier is both its begin and its end.
template <class PositionOf>
__device__ void order_pass(std::int32_t const* from, std::int32_t* to, index_t count, int shift,
                           PositionOf const& position_of) {
  using ranking = cub::BlockRadixRankMatch<block_threads, order_bits, false>;
  __shared__ typename ranking::TempStorage storage;
  __shared__ index_t next[order_digits];  // where the next cell with a digit goes
  __shared__ int before[order_digits], among[order_digits];
  unsigned const me = threadIdx.x;
  position_digit const digit_of{shift};
  if (me < order_digits) next[me] = 0;
  __syncthreads();
  for (index_t i = me; i < count; i += block_threads)
    atomicAdd(reinterpret_cast<unsigned long long*>(&next[digit_of.Digit(position_of(from[i]))]),
              1ull);
  __syncthreads();
  auto const sum = block_scan(me < order_digits ? next[me] : index_t{0});
  if (me < order_digits) next[me] = sum.before;
  __syncthreads();
  for (index_t base = 0; base < count; base += block_threads) {
    index_t const i = base + me;
    std::int32_t const cell = i < count ? from[i] : -1;
    // What is beyond the end has the last digit and comes last.
    std::uint32_t position[1] = {i < count ? position_of(cell) : ~std::uint32_t{0}};
    int rank[1], prefix[1];
    ranking(storage).RankKeys(position, rank, digit_of, prefix);
    if (me < order_digits) before[me] = prefix[0];
    __syncthreads();
    unsigned const digit = digit_of.Digit(position[0]);
    if (cell >= 0) to[next[digit] + rank[0] - before[digit]] = cell;
    if (me < order_digits)
      among[me] = (me + 1 < order_digits ? before[me + 1] : block_threads) - before[me];
    __syncthreads();
    if (me < order_digits) next[me] += among[me];
    __syncthreads();
  }
}

/// One block per order: held cells in their order of memory; where positions do not ascend, a
/// stable radix sort by position, as many digits as the largest position has.
template <class Cells>
KVSLIM_DETAIL_KERNEL void text_order_kernel(Cells cells, ops::text_order_memory memory,
                                            bool per_head) {
  auto const& e = cells.extents();
  index_t const order = blockIdx.x, s = per_head ? order / e.kv_heads : order,
                h = per_head ? order % e.kv_heads : 0;
  std::int32_t* out = memory.cells + order * e.tokens;
  index_t const count = block_list(
      cells.length(s, h), e.tokens,
      [&](index_t cell) { return cells.state(s, h, cell) != token_state::padding; },
      [&](index_t cell, index_t rank) { out[rank] = static_cast<std::int32_t>(cell); });
  if (threadIdx.x == 0) memory.counts[order] = static_cast<std::int32_t>(count);
  __syncthreads();
  auto const position_of = [&](std::int32_t cell) {
    return static_cast<std::uint32_t>(cells.position(s, h, cell));
  };
  std::uint32_t most = 0;
  bool descends = false;
  for (index_t i = threadIdx.x; i < count; i += block_threads) {
    std::uint32_t const position = position_of(out[i]);
    most = position > most ? position : most;
    descends = descends || (i > 0 && position_of(out[i - 1]) > position);
  }
  if (__syncthreads_or(descends ? 1 : 0) == 0) return;
  most = over_block(most, [](std::uint32_t a, std::uint32_t b) { return a > b ? a : b; });
  // Half of the scratch is enough for cells.
  auto* other = reinterpret_cast<std::int32_t*>(memory.keys + order * e.tokens);
  for (int shift = 0; shift < 32 && most >> shift != 0; shift += order_bits) {
    order_pass(out, other, count, shift, position_of);
    std::int32_t* const swapped = out;
    out = other;
    other = swapped;
  }
  std::int32_t* const result = memory.cells + order * e.tokens;
  if (out == result) return;
  for (index_t i = threadIdx.x; i < count; i += block_threads) result[i] = out[i];
}

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

/// One block per order.
template <>
struct implementation<ops::text_order_op, cuda> {
  template <class Cells>
  static status run(cuda exec, Cells const& cells, ops::text_order_memory const& memory,
                    bool per_head) {
    auto const& e = cells.extents();
    return detail::launch(exec, {per_head ? e.rows() : e.sequences, detail::block_threads},
                          detail::text_order_kernel<Cells>, cells, memory, per_head);
  }
};

KVSLIM_END_NAMESPACE
