// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/cuda.cuh>
#include <kvslim/store/attend.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

inline constexpr int attend_threads = 32;

/// One warp per (row, up to run_heads query heads). Each lane attends to its own stretch of tokens with the CPU's attend_row; the
/// partial results are merged by log-sum-exp, lane after lane, in shared memory.
template <class Packed, class Query, class Out>
__global__ void attend_kernel(Packed packed, Query query, Out out, float* lse, float scale) {
  extern __shared__ float shared[];  // [run_heads][dim] output, then [run_heads] lse
  constexpr index_t max_dim = 256;
  auto const& e = packed.plan().extents();
  index_t const group = query.heads / e.kv_heads, pieces = div_up(group, run_heads), work = blockIdx.x;
  index_t const r = work / pieces, s = r / e.kv_heads, h = r % e.kv_heads, dim = e.head_dim;
  index_t const first = work % pieces * run_heads, heads = min(run_heads, group - first);
  float q[run_heads * max_dim], mine[run_heads * max_dim], mine_lse[run_heads];
  for (index_t i = 0; i < heads; ++i) {
    ops::load_row(query.row(s, h * group + first + i), query.layout.channel, dim, q + i * dim);
    for (index_t d = 0; d < dim; ++d) q[i * dim + d] *= scale;
  }
  index_t const count = packed.row(r).count, share = div_up(count, attend_threads);
  index_t const begin = min(count, threadIdx.x * share), end = min(count, begin + share);
  attend_row(packed, r, begin, end, q, heads, mine, mine_lse);
  float* const shared_lse = shared + run_heads * dim;
  for (unsigned lane = 0; lane < attend_threads; ++lane) {
    if (threadIdx.x == lane)
      for (index_t i = 0; i < heads; ++i) {
        if (lane == 0) {
          for (index_t d = 0; d < dim; ++d) shared[i * dim + d] = mine[i * dim + d];
          shared_lse[i] = mine_lse[i];
        } else {
          merge_attention(shared + i * dim, shared_lse[i], mine + i * dim, mine_lse[i], dim);
        }
      }
    __syncwarp();
  }
  for (index_t i = 0; i < heads; ++i) {
    index_t const q_head = h * group + first + i;
    for (index_t d = threadIdx.x; d < dim; d += attend_threads)
      out.row(s, q_head)[d * out.layout.channel] = from_float<typename Out::value_type>(shared[i * dim + d]);
    if (threadIdx.x == 0) lse[s * query.heads + q_head] = shared_lse[i];
  }
}

}  // namespace detail

/// attend() on a stream, over the same stored bytes; meant to stay within the CPU's bound, which no GPU has confirmed yet. Requires head_dim <= 256 (unsupported).
template <class Policy, class Query, class Out>
status attend(cuda exec, Query const& query, packed_cache<Policy, cuda_space> const& packed, Out const& out, float* lse,
              attend_options options = {}) {
  static_assert(std::same_as<typename Query::space, cuda_space> && std::same_as<typename Out::space, cuda_space>,
                "kvslim: a CUDA executor was given a host view: view device memory with kvslim::cuda_space");
  if (auto const s = detail::check_attend(packed, query, out, lse); !s) return s;
  auto const& e = packed.plan().extents();
  if (e.head_dim > 256) return detail::fail(errc::unsupported, "kvslim: attend on CUDA handles head_dim up to 256");
  index_t const pieces = detail::div_up(query.heads / e.kv_heads, run_heads);
  float const scale = options.scale != 0.0f ? options.scale : 1.0f / std::sqrt(static_cast<float>(e.head_dim));
  auto const shared = static_cast<std::size_t>(run_heads * (e.head_dim + 1)) * sizeof(float);
  detail::attend_kernel<<<static_cast<unsigned>(e.rows() * pieces), detail::attend_threads, shared, exec.stream>>>(packed, query, out, lse, scale);
  return detail::cuda_result(cudaPeekAtLastError());
}

KVSLIM_END_NAMESPACE
