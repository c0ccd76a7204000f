// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda_block.cuh>
#include <kvslim/ops/fold.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

struct either {
  __device__ bool operator()(bool a, bool b) const { return a || b; }
};
struct better_pivot {
  __device__ ops::pivot operator()(ops::pivot const& a, ops::pivot const& b) const {
    return b.beats(a) ? b : a;
  }
};
struct earlier {
  __device__ std::int32_t operator()(std::int32_t a, std::int32_t) const { return a; }
};

/// ops::form_runs by a block: where runs begin, from the end; their pivots, from the end; then
/// every token learns its run's.
template <class Row>
__device__ void form_runs_by_block(Row const& row, std::int32_t* merged) {
  index_t const n = row.tokens;
  constexpr std::int32_t none = 0, begins = 1;
  auto const noted = [](std::int32_t token) { return -3 - token; };  // neither of these
  auto const from_end = [&](auto const& use) {
    for (index_t base = 0; base < n; base += block_threads) use(n - 1 - base - threadIdx.x);
  };
  // A run that is cut at a kept token holds one from there on, as all before it hold the other.
  in_segment<bool> held{false, true};
  from_end([&](index_t t) {
    in_segment<bool> const mine{t >= 0 && row.kept(t), t < 0 || t + 1 == n || !row.linked(t + 1)};
    bool const holds_kept = block_running(mine, held, within_segments{either{}}).value;
    if (t >= 0) merged[t] = row.begins(t, holds_kept) ? begins : none;
  });
  __syncthreads();
  in_segment<ops::pivot> best{{}, true};
  from_end([&](index_t t) {
    in_segment<ops::pivot> mine{{}, true};
    if (t >= 0) mine = {row.as_pivot(t), t + 1 == n || merged[t + 1] != none};
    ops::pivot const found = block_running(mine, best, within_segments{better_pivot{}}).value;
    if (t >= 0 && merged[t] != none) merged[t] = noted(found.token);
    __syncthreads();
  });
  in_segment<std::int32_t> last{0, true};
  for (index_t base = 0; base < n; base += block_threads) {
    index_t const t = base + threadIdx.x;
    std::int32_t const x = t < n ? merged[t] : none;
    auto const mine = block_running(in_segment<std::int32_t>{noted(x), x != none}, last,
                                    within_segments{earlier{}});
    if (t < n) merged[t] = mine.value;
  }
}

/// One block per row; `similar` has the cosines of neighbours, [rows, tokens].
template <class Text>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(block_threads)
    form_runs_kernel(Text text, run_rule rule, bool selected, float const* scores,
                     fate const* fates, float const* similar, std::int32_t* merged) {
  auto const& e = text.extents();
  index_t const r = blockIdx.x, s = r / e.kv_heads, h = r % e.kv_heads, row = r * e.tokens;
  form_runs_by_block(ops::run_row{rule, scores + row, fates + row, selected, text.tokens(s, h),
                                  [similar, row](index_t i) { return similar[row + i]; },
                                  [&](index_t i) { return text.logit_bias(s, h, i) > -INFINITY; }},
                     merged + row);
}

KVSLIM_END_CUDA_NAMESPACE
