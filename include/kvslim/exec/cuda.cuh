// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// The CUDA executor, and what every kernel of kvslim is launched with.
///
/// Kernels and all that launches them are named after the architectures that the unit was compiled
/// for: a linker merges functions of one name, and units built for different devices must not share
/// the stub that leads to a kernel. Types that do not speak of CUDA (plans, views of device memory,
/// stored caches) keep the names they have in a .cpp compiled with the same host flags.

#include <kvslim/core/view.hpp>
#include <kvslim/exec/cpu.hpp>

#include <cuda_runtime.h>

#include <utility>

#define KVSLIM_DETAIL_DEVICES_OF(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ...) \
  sm_##a##b##c##d##e##f##g##h##i##j##k##l##m##n##o##p
#define KVSLIM_DETAIL_DEVICES_IN(...) KVSLIM_DETAIL_DEVICES_OF(__VA_ARGS__)
#if defined(__CUDA_ARCH_LIST__)
#define KVSLIM_DETAIL_DEVICES \
  KVSLIM_DETAIL_DEVICES_IN(__CUDA_ARCH_LIST__, , , , , , , , , , , , , , , )
#else
#define KVSLIM_DETAIL_DEVICES sm_any
#endif

// kvslim::detail, for kernels and what launches them: hidden, since nobody else's library has a use
// for their stubs.
#if defined(__GNUC__) && defined(__CUDACC__)
#define KVSLIM_DETAIL_HIDE _Pragma("GCC visibility push(hidden)")
#define KVSLIM_DETAIL_SHOW _Pragma("GCC visibility pop")
#else
#define KVSLIM_DETAIL_HIDE
#define KVSLIM_DETAIL_SHOW
#endif
#define KVSLIM_BEGIN_CUDA_NAMESPACE \
  KVSLIM_DETAIL_HIDE                \
  KVSLIM_BEGIN_NAMESPACE            \
  namespace detail {                \
  inline namespace KVSLIM_DETAIL_DEVICES {
#define KVSLIM_END_CUDA_NAMESPACE \
  }                               \
  }                               \
  KVSLIM_END_NAMESPACE            \
  KVSLIM_DETAIL_SHOW
#define KVSLIM_DETAIL_KERNEL __global__

// A parameter of a kernel whose address may be taken without a copy of it, and a device function
// with registers of its own.
#if defined(__NVCC__)
#define KVSLIM_DETAIL_PARAMETER __grid_constant__
#define KVSLIM_DETAIL_CALLED __noinline__
#else
#define KVSLIM_DETAIL_PARAMETER
#define KVSLIM_DETAIL_CALLED
#endif

// The dynamic shared memory of a block. The tests' emulation defines its own.
#if !defined(KVSLIM_DETAIL_DYNAMIC_SHARED)
#define KVSLIM_DETAIL_DYNAMIC_SHARED(name) extern __shared__ float name[]
#endif

KVSLIM_BEGIN_NAMESPACE
inline namespace KVSLIM_DETAIL_DEVICES {

/// The CUDA executor: everything is enqueued on the caller's stream; nothing synchronises or
/// allocates.
struct cuda {
  using space = cuda_space;
  cudaStream_t stream = nullptr;
};

}  // namespace KVSLIM_DETAIL_DEVICES
KVSLIM_END_NAMESPACE

KVSLIM_BEGIN_CUDA_NAMESPACE

inline constexpr int warp_threads = 32;
inline constexpr index_t most_blocks = 0x7fffffff;       ///< of a grid
inline constexpr index_t most_shared_bytes = 48 * 1024;  ///< of a block, without opting in
inline constexpr index_t most_opted_bytes = 99 * 1024;   ///< with: on every device from sm_80 on

/// The result of one call of the CUDA runtime: its own, not what an earlier call left behind.
[[nodiscard]] inline status cuda_result(cudaError_t error) noexcept {
  if (error == cudaSuccess) return {};
  return {errc::cuda, "kvslim: a CUDA call failed", static_cast<int>(error)};
}

struct launch_shape {
  index_t blocks = 0;
  int threads = 0;
  index_t shared_bytes = 0;  ///< dynamic, for KVSLIM_DETAIL_DYNAMIC_SHARED
  int cluster = 1;           ///< blocks that start together; divides `blocks`
};

/// Enqueues kernel(arguments...); no blocks: nothing. A kernel that needs much shared memory is
/// allowed all of it, always the same, so that threads of the host do not take it from each other.
/// Returns: unsupported (more blocks than a grid has), cuda.
template <class... Parameters, class... Arguments>
[[nodiscard]] status launch(cuda exec, launch_shape const& shape, void (*kernel)(Parameters...),
                            Arguments const&... arguments) {
  if (shape.blocks == 0) return {};
  if (shape.blocks < 0 || shape.blocks > most_blocks || shape.shared_bytes > most_opted_bytes)
    return fail(errc::unsupported, "kvslim: this shape needs a larger grid than CUDA has");
  if (shape.shared_bytes > most_shared_bytes)
    if (auto const s = cuda_result(cudaFuncSetAttribute(reinterpret_cast<void const*>(kernel),
                                                        cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                        static_cast<int>(most_opted_bytes)));
        !s)
      return s;
  cudaLaunchAttribute together{};
  together.id = cudaLaunchAttributeClusterDimension;
  together.val.clusterDim = {static_cast<unsigned>(shape.cluster), 1, 1};
  cudaLaunchConfig_t const config{dim3(static_cast<unsigned>(shape.blocks)),
                                  dim3(static_cast<unsigned>(shape.threads)),
                                  static_cast<std::size_t>(shape.shared_bytes),
                                  exec.stream,
                                  &together,
                                  shape.cluster > 1 ? 1u : 0u};
  return cuda_result(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}

/// Blocks for `items` pieces of work, each block taking every gridDim.x-th.
[[nodiscard]] constexpr index_t blocks_for(index_t items) noexcept {
  return min(items, most_blocks);
}

/// One thread per index, or several indices where the grid ends.
template <class Body>
KVSLIM_DETAIL_KERNEL void for_each_kernel(index_t count, Body body) {
  index_t const step = static_cast<index_t>(gridDim.x) * blockDim.x;
  for (index_t i = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += step)
    body(i);
}

/// Calls body(i) for i in [0, count), each in a thread of its own; `body` is copied to the device.
template <class Body>
[[nodiscard]] status launch_for_each(cuda exec, index_t count, Body const& body) {
  constexpr int threads = 128;
  return launch(exec, {blocks_for(div_up(count, threads)), threads}, for_each_kernel<Body>, count,
                body);
}

/// Enqueues a copy, or a fill with one byte, of device memory.
[[nodiscard]] inline status copy_bytes(cuda exec, void* to, void const* from, index_t bytes) {
  if (bytes == 0) return {};
  return cuda_result(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes),
                                     cudaMemcpyDeviceToDevice, exec.stream));
}
[[nodiscard]] inline status fill_bytes(cuda exec, void* to, std::uint8_t value, index_t bytes) {
  if (bytes == 0) return {};
  return cuda_result(cudaMemsetAsync(to, value, static_cast<std::size_t>(bytes), exec.stream));
}

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

KVSLIM_END_CUDA_NAMESPACE
