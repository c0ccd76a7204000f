// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda.cuh>
#include <kvslim/run/merge_attention.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// Parts travel as a kernel's argument.
inline constexpr index_t most_parts = 16;
struct attention_parts {
  attention_part<cuda_space> all[most_parts];
  index_t count;
};

inline constexpr int finish_threads = 128;

/// One block per (sequence, head, token), threads over channels.
template <class Request>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(finish_threads)
    finish_kernel(attention_parts parts, Request a) {
  index_t const i = blockIdx.x;
  auto const& o = a.out;
  index_t const s = i / o.tokens / o.heads, h = i / o.tokens % o.heads, t = i % o.tokens;
  if (a.active != nullptr && a.active[s] == 0) return;
  float high = a.sink_logits != nullptr ? a.sink_logits[h] : -INFINITY;
  for (index_t p = 0; p < parts.count; ++p) high = fmaxf(high, parts.all[p].lse[i]);
  auto const mass = [&](index_t p) {
    return high == -INFINITY ? 0.0 : std::exp(static_cast<double>(parts.all[p].lse[i] - high));
  };
  double total = a.sink_logits != nullptr && high > -INFINITY
                     ? std::exp(static_cast<double>(a.sink_logits[h] - high))
                     : 0.0;
  for (index_t p = 0; p < parts.count; ++p) total += mass(p);
  for (index_t d = threadIdx.x; d < o.head_dim; d += finish_threads) {
    double sum = 0.0;
    for (index_t p = 0; p < parts.count; ++p)
      sum += mass(p) * static_cast<double>(parts.all[p].out.at(s, h, t, d));
    o.put(s, h, t, d, total > 0.0 ? static_cast<float>(sum / total) : 0.0f);
  }
  __syncthreads();  // a part may be the output itself
  if (threadIdx.x != 0) return;
  float const lse =
      total > 0.0 ? static_cast<float>(static_cast<double>(high) + std::log(total)) : -INFINITY;
  a.lse[i] = a.base2 ? lse * 1.44269504f : lse;
}

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

/// finish() on a stream. `parts` is host memory (read before the call returns) that names device
/// memory; at most 16 (unsupported): more are finished in turns.
inline status finish(cuda exec, slice<attention_part<cuda_space> const> parts,
                     attend_request<cuda_space> const& a) {
  auto const& o = a.out;
  if (parts.size < 1 || parts.data == nullptr || o.data == nullptr || a.lse == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: finish was given a null pointer");
  if (parts.size > detail::most_parts)
    return detail::fail(errc::unsupported, "kvslim: finish on CUDA takes at most 16 parts");
  detail::attention_parts all{};
  for (auto const& part : parts) {
    if (part.out.data == nullptr || part.lse == nullptr)
      return detail::fail(errc::invalid_pointer, "kvslim: finish was given a null pointer");
    if (!part.out.has_shape(o.sequences, o.heads, o.tokens, o.head_dim))
      return detail::fail(errc::invalid_shape, "kvslim: finish needs parts of the output's shape");
    all.all[all.count++] = part;
  }
  return detail::launch(exec, {o.sequences * o.heads * o.tokens, detail::finish_threads},
                        detail::finish_kernel<attend_request<cuda_space>>, all, a);
}

KVSLIM_END_NAMESPACE
