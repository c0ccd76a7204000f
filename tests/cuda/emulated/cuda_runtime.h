// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// The part of the CUDA runtime that kvslim uses, on the CPU, so that .cu files compile as C++ and
// kernels run with their barriers where there is no GPU. Device memory can be touched by kernels
// and copies only and ends at a guard page, so that the host reading it, or a kernel running past
// it, is a segmentation fault. Shows logic, indexing and races (under TSan); shows nothing about a
// GPU's own arithmetic.

#include "cluster.hpp"
#include "fibers.hpp"
#include "matrix_unit.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <map>
#include <thread>
#include <tuple>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define __shared__ static thread_local  // a worker runs one block at a time
#define KVSLIM_DETAIL_DYNAMIC_SHARED(name) float* const name = ::emulated::dynamic_shared()
#define KVSLIM_DETAIL_MATRIX_UNIT ::emulated
#define KVSLIM_DETAIL_CLUSTER ::emulated

using cudaStream_t = char*;
using cudaGraph_t = std::vector<std::function<void()>>*;
using cudaGraphExec_t = cudaGraph_t;
using cudaEvent_t = std::chrono::steady_clock::time_point*;
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorStreamCaptureUnsupported = 900
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
// Aligned as a device wants them.
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3() = default;
  constexpr explicit dim3(unsigned a, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension = 4 };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    struct {
      unsigned x, y, z;
    } clusterDim;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute const* attrs = nullptr;
  unsigned numAttrs = 0;
};
enum cudaDeviceAttr { cudaDevAttrClusterLaunch = 120 };
struct cudaFuncAttributes {
  int ptxVersion;
};
struct cudaDeviceProp {
  char name[64];
  int major, minor;
};

namespace emulated {

struct device_memory {
  struct region {
    std::byte* base;
    std::size_t bytes;
  };
  std::map<void*, region> regions;
};
inline device_memory memory;
inline cudaError_t last_error = cudaSuccess;

inline cudaError_t fails(cudaError_t error) { return last_error = error; }

/// Streams whose work is written down for now, and the graphs that get it.
inline std::map<cudaStream_t, cudaGraph_t> captures;

/// Does what a stream is given, or writes it down. Nothing may wait meanwhile.
template <class Work>
cudaError_t enqueue(cudaStream_t stream, Work const& work) {
  auto const found = captures.find(stream);
  if (found != captures.end())
    found->second->push_back(work);
  else
    work();
  return cudaSuccess;
}
inline cudaError_t wait() {
  return captures.empty() ? cudaSuccess : fails(cudaErrorStreamCaptureUnsupported);
}

/// While one lives, device memory can be touched.
class on_device {
 public:
  on_device() { protect(PROT_READ | PROT_WRITE); }
  ~on_device() { protect(PROT_NONE); }
  on_device(on_device const&) = delete;
  on_device& operator=(on_device const&) = delete;

 private:
  static void protect(int access) {
    for (auto const& [pointer, region] : memory.regions)
      mprotect(region.base, region.bytes, access);
  }
};

inline void copy(void* to, void const* from, std::size_t bytes) {
  on_device const access;
  std::memcpy(to, from, bytes);
}
inline void fill(void* to, int value, std::size_t bytes) {
  on_device const access;
  std::memset(to, value, bytes);
}

inline constexpr std::size_t most_shared = 48 * 1024, most_opted_shared = 99 * 1024;
inline std::map<void const*, std::size_t> opted_shared;  // of kernels that asked for more
inline float* dynamic_shared() { return shared_memory.data(); }

/// Two workers take the blocks of a grid in turn, so that blocks meet each other too; every second
/// grid backwards, so that no block is always last. Of clusters every block has a worker.
inline constexpr unsigned workers = 2;
inline unsigned grids = 0;
inline bool clusters = true;  // whether the device has them
inline constexpr unsigned most_cluster = 8;

template <class Kernel, class Arguments>
void run_blocks(cudaLaunchConfig_t const& config, unsigned cluster, Kernel kernel,
                Arguments const& arguments) {
  unsigned const blocks = config.gridDim.x, threads = config.blockDim.x;
  on_device const access;
  bool const backwards = ++grids % 2 == 0;
  unsigned const step = cluster > 1 ? cluster : workers;
  block_cluster together(cluster);
  auto const work = [&](unsigned worker) {
    shared_memory.assign(config.dynamicSmemBytes / sizeof(float) + 1, std::nanf(""));
    if (cluster > 1) together.join(worker);
    run_threads(threads, [&](thread_state& me) {
      me.block_size.x = threads;
      me.grid_size.x = blocks;
      me.rank = cluster > 1 ? worker : 0;
      me.cluster = cluster > 1 ? &together : nullptr;
      for (unsigned b = worker; b < blocks; b += step) {
        me.block.x = !backwards ? b : cluster > 1 ? blocks - step - b + 2 * worker : blocks - 1 - b;
        std::apply(kernel, arguments);
        me.finish();
        if (cluster > 1) end_of_cluster();
      }
    });
  };
  if (blocks == 1) return work(0);
  std::vector<std::jthread> pool;
  for (unsigned w = 0; w < step; ++w) pool.emplace_back(work, w);
}

template <class Kernel, class Arguments>
cudaError_t launch(cudaLaunchConfig_t const& config, Kernel kernel, Arguments const& arguments) {
  unsigned const blocks = config.gridDim.x, threads = config.blockDim.x;
  unsigned cluster = 1;
  if (config.numAttrs > 0) {
    auto const& size = config.attrs->val.clusterDim;
    cluster = size.x;
    if (!clusters || cluster == 0 || cluster > most_cluster || blocks % cluster != 0 ||
        size.y != 1 || size.z != 1)
      return fails(cudaErrorInvalidConfiguration);
  }
  if (blocks == 0 || blocks > 0x7fffffffu || threads == 0 || threads > 1024 ||
      config.gridDim.y != 1 || config.gridDim.z != 1 || config.blockDim.y != 1 ||
      config.blockDim.z != 1)
    return fails(cudaErrorInvalidConfiguration);
  auto const opted = opted_shared.find(reinterpret_cast<void const*>(kernel));
  if (config.dynamicSmemBytes > (opted == opted_shared.end() ? most_shared : opted->second))
    return fails(cudaErrorInvalidValue);
  return enqueue(config.stream, [=] { run_blocks(config, cluster, kernel, arguments); });
}

}  // namespace emulated

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(cudaLaunchConfig_t const* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  return ::emulated::launch(*config, kernel, std::tuple<Parameters...>(arguments...));
}

inline cudaError_t cudaFuncSetAttribute(void const* kernel, cudaFuncAttribute attribute,
                                        int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
      static_cast<std::size_t>(value) > ::emulated::most_opted_shared)
    return ::emulated::fails(cudaErrorInvalidValue);
  ::emulated::opted_shared[kernel] = static_cast<std::size_t>(value);
  return cudaSuccess;
}

#define threadIdx (::emulated::running()->thread)
#define blockIdx (::emulated::running()->block)
#define blockDim (::emulated::running()->block_size)
#define gridDim (::emulated::running()->grid_size)

/// Every thread of a block must come to the same barrier: the same line.
inline void __syncthreads(int line = __builtin_LINE()) {
  ::emulated::running()->synchronize_block(line);
}
inline int __syncthreads_or(int mine, int line = __builtin_LINE()) {
  return ::emulated::running()->block_or(mine, line);
}
inline void __syncwarp(unsigned = 0xffffffffu) { ::emulated::running()->synchronize_warp(); }
template <class T>
T __shfl_sync(unsigned, T mine, int lane) {
  return ::emulated::running()->exchange(mine, static_cast<unsigned>(lane) % 32);
}
template <class T>
T __shfl_xor_sync(unsigned, T mine, int lanes) {
  auto* const me = ::emulated::running();
  return me->exchange(mine, me->lane() ^ static_cast<unsigned>(lanes));
}
template <class T>
T __shfl_up_sync(unsigned, T mine, unsigned lanes) {
  auto* const me = ::emulated::running();
  return me->exchange(mine, me->lane() < lanes ? me->lane() : me->lane() - lanes);
}
template <class T>
T __shfl_down_sync(unsigned, T mine, unsigned lanes) {
  auto* const me = ::emulated::running();
  return me->exchange(mine, me->lane() + lanes > 31 ? me->lane() : me->lane() + lanes);
}
inline unsigned __ballot_sync(unsigned, int mine) {
  return ::emulated::running()->ballot(mine != 0);
}
/// Lanes of a whole warp that hold the same number.
inline unsigned __match_any_sync(unsigned, int mine) {
  unsigned same = 0;
  ::emulated::running()->together({static_cast<unsigned>(mine)}, [&](auto const& lanes) {
    for (unsigned i = 0; i < 32; ++i)
      same |= lanes[i][0] == static_cast<unsigned>(mine) ? 1u << i : 0u;
  });
  return same;
}
inline int __any_sync(unsigned, int mine) { return __ballot_sync(0xffffffffu, mine) != 0; }
inline int __all_sync(unsigned, int mine) { return __ballot_sync(0xffffffffu, !mine) == 0; }
inline int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
inline float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline void __threadfence() { ::emulated::running()->fence(); }

template <class T>
T atomicAdd(T* target, std::type_identity_t<T> value) {
  ::emulated::running()->before_atomic(target);
  T const before = __atomic_fetch_add(target, value, __ATOMIC_RELAXED);
  ::emulated::running()->after_atomic(target);
  return before;
}
inline float atomicAdd(float* target, float value) {
  unsigned seen = __atomic_load_n(reinterpret_cast<unsigned*>(target), __ATOMIC_RELAXED);
  for (;;) {
    float const sum = __builtin_bit_cast(float, seen) + value;
    if (__atomic_compare_exchange_n(reinterpret_cast<unsigned*>(target), &seen,
                                    __builtin_bit_cast(unsigned, sum), false, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED))
      return __builtin_bit_cast(float, seen);
  }
}
template <class T, class Better>
T emulated_atomic_best(T* target, T value, Better const& better) {
  T seen = __atomic_load_n(target, __ATOMIC_RELAXED);
  while (better(value, seen) && !__atomic_compare_exchange_n(target, &seen, value, false,
                                                             __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return seen;
}
template <class T>
T atomicMax(T* target, std::type_identity_t<T> value) {
  return emulated_atomic_best(target, value, [](T a, T b) { return a > b; });
}
template <class T>
T atomicMin(T* target, std::type_identity_t<T> value) {
  return emulated_atomic_best(target, value, [](T a, T b) { return a < b; });
}
template <class T>
T atomicOr(T* target, std::type_identity_t<T> value) {
  return __atomic_fetch_or(target, value, __ATOMIC_RELAXED);
}

inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  return *value = ::emulated::clusters ? 1 : 0, cudaSuccess;
}
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* out, void const*) {
  return *out = {90}, cudaSuccess;
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {"none: CUDA threads emulated on the CPU", 0, 0};
  return cudaSuccess;
}
inline cudaError_t cudaMemGetInfo(std::size_t* room, std::size_t* all) {
  *room = *all = std::size_t{1} << 30;
  return cudaSuccess;
}
inline cudaError_t cudaPeekAtLastError() { return ::emulated::last_error; }
inline cudaError_t cudaGetLastError() { return std::exchange(::emulated::last_error, cudaSuccess); }
inline char const* cudaGetErrorString(cudaError_t) { return "emulated"; }
inline cudaError_t cudaDeviceSynchronize() { return ::emulated::wait(); }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return ::emulated::wait(); }
inline cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return *stream = new char, cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) { return delete stream, cudaSuccess; }
inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream == nullptr) return ::emulated::fails(cudaErrorStreamCaptureUnsupported);
  ::emulated::captures[stream] = new std::vector<std::function<void()>>;
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  auto const found = ::emulated::captures.find(stream);
  if (found == ::emulated::captures.end()) return ::emulated::fails(cudaErrorInvalidValue);
  *graph = found->second;
  ::emulated::captures.erase(found);
  return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* out, cudaGraph_t graph, unsigned) {
  return *out = new auto(*graph), cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t) {
  for (auto const& work : *graph) work();
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return delete graph, cudaSuccess; }
inline cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return *event = new std::chrono::steady_clock::time_point, cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  return *event = std::chrono::steady_clock::now(), cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return ::emulated::wait(); }
inline cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t begin, cudaEvent_t end) {
  *ms = std::chrono::duration<float, std::milli>(*end - *begin).count();
  return cudaSuccess;
}

template <class T>
cudaError_t cudaMalloc(T** out, std::size_t bytes) {
  auto const page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  auto const rounded = (bytes + page - 1) / page * page;
  void* const base =
      mmap(nullptr, rounded + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return ::emulated::fails(cudaErrorMemoryAllocation);
  auto* const first = static_cast<std::byte*>(base);
  std::memset(base, 0xa5, rounded);  // never zero by luck
  mprotect(base, rounded + page, PROT_NONE);
  auto* const data = first + (rounded - bytes) / 256 * 256;
  ::emulated::memory.regions[data] = {first, rounded};
  *out = reinterpret_cast<T*>(data);
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* pointer) {
  auto const found = ::emulated::memory.regions.find(pointer);
  if (found == ::emulated::memory.regions.end()) return cudaSuccess;
  munmap(found->second.base, found->second.bytes + static_cast<std::size_t>(sysconf(_SC_PAGESIZE)));
  ::emulated::memory.regions.erase(found);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* to, void const* from, std::size_t bytes, cudaMemcpyKind) {
  return ::emulated::copy(to, from, bytes), ::emulated::wait();
}
inline cudaError_t cudaMemcpyAsync(void* to, void const* from, std::size_t bytes, cudaMemcpyKind,
                                   cudaStream_t stream) {
  return ::emulated::enqueue(stream, [=] { ::emulated::copy(to, from, bytes); });
}
inline cudaError_t cudaMemset(void* to, int value, std::size_t bytes) {
  return ::emulated::fill(to, value, bytes), cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  return ::emulated::enqueue(stream, [=] { ::emulated::fill(to, value, bytes); });
}
