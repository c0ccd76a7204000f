// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What the parts of attend() on CUDA share.

#include <kvslim/run/attend.hpp>
#include <kvslim/run/device_row.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

inline constexpr int attend_warps = 4;
inline constexpr int attend_threads = attend_warps * warp_threads;  // as many slots make a step

/// How an attend call is cut: one block per (row, piece of heads, split).
struct attend_cut {
  index_t group;          // query heads of a KV head
  index_t virtual_heads;  // group * query tokens
  index_t pieces, splits;
  index_t first_row;
  int piece_heads;  // 1, 4 or 8
  bool runs;        // whole runs of tokens go to matrix units
  float scale;
};

/// Threads that take the values of a step turn by turn where V has few channels.
[[nodiscard]] KVSLIM_HD constexpr int value_parts(index_t width) noexcept {
  return width <= 32 ? 4 : width <= 64 ? 2 : 1;
}

/// Adds x to a sum that is kept as two floats. Long rows stay exact.
__device__ inline void add_exactly(float& sum, float& lost, float shrink, float x) {
  float const before = sum * shrink, add = x + lost * shrink;
  float const after = before + add, kept = after - before;
  lost = (before - (after - kept)) + (add - kept);
  sum = after;
}

/// Which query a virtual head is.
struct query_place {
  index_t token, head;
  __device__ query_place(attend_cut const& x, index_t kv_head, index_t virtual_head)
      : token(virtual_head / x.group), head(kv_head * x.group + virtual_head % x.group) {}
  [[nodiscard]] __device__ index_t row(attend_request<cuda_space> const& a, index_t s) const {
    return (s * a.q.heads + head) * a.q.tokens + token;
  }
};

/// Slots of a row that one block looks at.
struct slot_spans {
  visible_spans visible;
  index_t r, begin, end;

  [[nodiscard]] __device__ index_t count() const {
    return visible.begin_end == nullptr ? 1 : min(visible.counts[r], visible.most);
  }
  struct span {
    index_t from, to;
  };
  [[nodiscard]] __device__ span operator[](index_t i) const {
    if (visible.begin_end == nullptr) return {begin, end};
    std::int32_t const* const mine = visible.begin_end + (r * visible.most + i) * 2;
    return {max(begin, mine[0]), min(end, mine[1])};
  }
};

/// What a block is about: four heads or so of one row, and its slots.
struct row_block {
  index_t r, s, kv_head, first, split;
  int heads;
  bool masked;
  slot_spans visible;
};
KVSLIM_END_CUDA_NAMESPACE
