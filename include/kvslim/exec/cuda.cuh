// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/view.hpp>

#include <cuda_runtime.h>

#include <utility>

KVSLIM_BEGIN_NAMESPACE

/// The CUDA executor: everything is enqueued on the caller's stream; nothing synchronises or
/// allocates.
struct cuda {
  using space = cuda_space;
  cudaStream_t stream;
};

namespace detail {

/// One thread per index.
template <class Body>
__global__ void for_each_kernel(index_t count, Body body) {
  index_t const i = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) body(i);
}

[[nodiscard]] inline status cuda_result(cudaError_t error) noexcept {
  if (error == cudaSuccess) return {};
  return {errc::cuda, "kvslim: a CUDA call failed", static_cast<int>(error)};
}

template <class Body>
[[nodiscard]] status launch_for_each(cuda exec, index_t count, Body body) {
  constexpr unsigned threads = 128;
  if (count == 0) return {};
  for_each_kernel<<<static_cast<unsigned>(div_up(count, threads)), threads, 0, exec.stream>>>(count,
                                                                                              body);
  return cuda_result(cudaPeekAtLastError());
}

inline constexpr int warp_threads = 32;

/// Combines one value of every lane of a warp; every lane gets the result.
template <class T, class Combine>
__device__ T over_warp(T x, Combine const& combine) {
  for (int step = warp_threads / 2; step > 0; step /= 2)
    x = combine(x, __shfl_xor_sync(0xffffffffu, x, step));
  return x;
}

/// Calls f(i) for i in [0, N), each call of its own, so that arrays indexed by i stay in registers.
template <int N, class F>
__device__ void unrolled(F const& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) { (f(I), ...); }
  (std::make_integer_sequence<int, N>{});
}

}  // namespace detail

KVSLIM_END_NAMESPACE
