// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/view.hpp>

#include <cuda_runtime.h>

KVSLIM_BEGIN_NAMESPACE

/// The CUDA executor: everything is enqueued on the caller's stream; nothing synchronises or allocates.
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
  for_each_kernel<<<static_cast<unsigned>(div_up(count, threads)), threads, 0, exec.stream>>>(count, body);
  return cuda_result(cudaPeekAtLastError());
}

}  // namespace detail

KVSLIM_END_NAMESPACE
