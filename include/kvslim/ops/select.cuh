// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda.cuh>
#include <kvslim/select/top_k.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

inline constexpr int select_threads = 256;

/// Sums `mine` over the block; every thread gets the result.
__device__ inline int block_count(int mine, int* shared) {
  __syncthreads();
  if (threadIdx.x == 0) *shared = 0;
  __syncthreads();
  if (mine != 0) atomicAdd(shared, mine);
  __syncthreads();
  return *shared;
}

/// One block per row. The same total order as the CPU: the kept set is all keys at or above a
/// threshold, found byte by byte from the top (radix select), until a bucket is wanted whole.
template <class Cache>
__global__ void select_kernel(top_k policy, Cache cache, float const* scores,
                              std::uint8_t* all_flags, index_t protected_recent) {
  __shared__ int shared, in_bucket[256];
  auto const& e = cache.extent;
  index_t const r = blockIdx.x, s = r / e.kv_heads, tokens = cache.length(s);
  float const* const score = scores + r * e.tokens;
  std::uint8_t* const flags = all_flags + r * e.tokens;
  for (index_t t = threadIdx.x; t < e.tokens; t += blockDim.x)
    flags[t] = t < tokens && cache.is_valid(s, t) ? 0 : 255;
  __syncthreads();
  index_t const sinks = min(policy.opt.sinks, tokens),
                recent = min(max(policy.opt.recent, protected_recent), tokens);
  if (threadIdx.x == 0) {
    index_t room = policy.opt.budget;
    for (index_t t = 0; t < sinks && room > 0; ++t)
      if (flags[t] == 0) flags[t] = 2, --room;
    for (index_t i = 0; i < recent && room > 0; ++i)
      if (flags[tokens - 1 - i] == 0) flags[tokens - 1 - i] = 2, --room;
  }
  __syncthreads();
  int kept = 0, open = 0;
  for (index_t t = threadIdx.x; t < tokens; t += blockDim.x) {
    kept += flags[t] == 2 ? 1 : 0;
    open += flags[t] == 0 ? 1 : 0;
  }
  kept = block_count(kept, &shared);
  open = block_count(open, &shared);
  index_t wanted = min(policy.opt.budget - kept, open);
  if (wanted <= 0) return;
  std::uint64_t threshold = 0;
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (unsigned i = threadIdx.x; i < 256; i += blockDim.x) in_bucket[i] = 0;
    __syncthreads();
    for (index_t t = threadIdx.x; t < tokens; t += blockDim.x) {
      std::uint64_t const key = ops::order_key(score[t], t);
      if (flags[t] == 0 && (shift == 56 || key >> (shift + 8) == threshold >> (shift + 8)))
        atomicAdd(in_bucket + ((key >> shift) & 255u), 1);
    }
    __syncthreads();
    int bucket = 255;  // every thread walks down: the same answer without another barrier
    for (; in_bucket[bucket] < wanted; --bucket) wanted -= in_bucket[bucket];
    threshold |= static_cast<std::uint64_t>(bucket) << shift;
    if (in_bucket[bucket] == wanted) break;
    __syncthreads();
  }
  for (index_t t = threadIdx.x; t < tokens; t += blockDim.x)
    if (flags[t] == 0 && ops::order_key(score[t], t) >= threshold) flags[t] = 1;
}

}  // namespace detail

KVSLIM_END_NAMESPACE
