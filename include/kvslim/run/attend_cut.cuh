// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What the parts of attend() on CUDA share.

#include <kvslim/run/attend.hpp>
#include <kvslim/run/device_row.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

inline constexpr int attend_warps = 4;
inline constexpr int attend_threads = attend_warps * warp_threads;  // as many slots make a step

[[nodiscard]] __device__ inline int min_int(int a, int b) { return b < a ? b : a; }
[[nodiscard]] __device__ inline int max_int(int a, int b) { return a < b ? b : a; }

/// How an attend call is cut: `splits` blocks per (row, piece of heads), shared out over rows by
/// their lengths. A grid holds no more than an int counts, and registers are scarce.
struct attend_cut {
  int group;          // query heads of a KV head
  int virtual_heads;  // group * query tokens
  int pieces, splits;
  int first_row, rows;
  int piece_heads;  // 1, 4 or 8
  bool runs;        // whole runs of tokens go to matrix units
  float scale;
  float* partials;    // [rows * splits, virtual_heads, partial_floats]
  unsigned* tickets;  // [rows, pieces]: splits that are done; zero when the kernel starts

  /// Where the partial result of a virtual head goes.
  [[nodiscard]] __device__ float* partial(extents const& e, int place, int virtual_head) const {
    return partials + (index_t{place} * virtual_heads + virtual_head) * partial_floats(e);
  }
  /// Which splits of a piece of a row's heads count together.
  [[nodiscard]] __device__ unsigned* ticket(int row, int first_head) const {
    return tickets + index_t{row} * pieces + first_head / piece_heads;
  }
};

/// One of a row's splits, its place among all splits of all rows, and its slots. A multiple of 16
/// bytes, as what lies behind it in shared memory needs.
struct split_place {
  int row, split, splits, place, begin, end, unused[2];
};
inline constexpr int split_words = sizeof(split_place) / sizeof(float);

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
  int token, head;
  __device__ query_place(attend_cut const& x, int kv_head, int virtual_head)
      : token(virtual_head / x.group), head(kv_head * x.group + virtual_head % x.group) {}
  [[nodiscard]] __device__ index_t row(attend_request<cuda_space> const& a, int s) const {
    return (s * a.q.heads + head) * a.q.tokens + token;
  }
};

/// Slots of a row that one block looks at.
struct slot_spans {
  visible_spans visible;
  int r;
  split_place const* place;  // in shared memory: registers are scarce

  [[nodiscard]] __device__ int count() const {
    return visible.begin_end == nullptr ? 1
                                        : static_cast<int>(min(visible.counts[r], visible.most));
  }
  struct span {
    int from, to;
  };
  [[nodiscard]] __device__ span operator[](int i) const {
    if (visible.begin_end == nullptr) return {place->begin, place->end};
    std::int32_t const* const mine = visible.begin_end + (r * visible.most + i) * 2;
    return {max_int(place->begin, mine[0]), min_int(place->end, mine[1])};
  }
};

/// How many runs of 32 slots span i of row r touches, of a row of so many slots.
[[nodiscard]] __device__ inline int runs_of_span(visible_spans const& visible, int r, int i,
                                                 int slots) {
  std::int32_t const* const mine = visible.begin_end + (r * visible.most + i) * 2;
  int const from = mine[0], to = min_int(slots, mine[1]);
  return from < to ? (to + 31) / 32 - from / 32 : 0;
}

/// What a block is about: four heads or so of one row, and its slots.
struct row_block {
  int r, s, kv_head, first, heads;
  bool masked;
  slot_spans visible;
};
KVSLIM_END_CUDA_NAMESPACE
