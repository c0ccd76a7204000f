// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// The part of the CUDA runtime that kvslim uses, on the CPU: every CUDA thread is a thread, so that
// kernels run with their barriers where there is no GPU. Device memory can be touched by kernels
// and copies only and ends at a guard page, so that the host reading it, or a kernel running past
// it, is a segmentation fault. Shows logic, indexing and races (under TSan); shows nothing about a
// GPU's own arithmetic.

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __launch_bounds__(threads)
#define __shared__ static  // blocks run one after another

using cudaStream_t = void*;
using cudaEvent_t = std::chrono::steady_clock::time_point*;
enum cudaError_t { cudaSuccess = 0, cudaErrorMemoryAllocation = 2 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
struct uint4 {
  unsigned x, y, z, w;
};
struct cudaDeviceProp {
  char name[64];
  int major, minor;
};

namespace emulated {

struct index3 {
  unsigned x = 0, y = 0, z = 0;
};

struct device_memory {
  struct region {
    std::byte* base;
    std::size_t bytes;
  };
  std::map<void*, region> regions;
  std::vector<std::byte> dynamic_shared;
};
inline device_memory memory;

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

/// The threads of a block, or of one of its warps.
class team {
 public:
  explicit team(std::size_t threads)
      : barrier_(static_cast<std::ptrdiff_t>(threads)), waits_(threads), values_(threads) {}

  void synchronize(std::size_t rank) {
    ++waits_[rank];
    barrier_.arrive_and_wait();
  }
  /// Where all threads end together; one that reached fewer or other barriers than the rest is
  /// found here. A GPU would hang, or worse.
  void finish(std::size_t rank) {
    long const mine = waits_[rank];
    barrier_.arrive_and_wait();
    if (mine != waits_[0]) {
      std::fputs("emulated: not every thread of a block or warp reached the same barriers\n",
                 stderr);
      std::abort();
    }
    barrier_.arrive_and_wait();
  }
  template <class T>
  T exchange(std::size_t rank, T mine, std::size_t from) {
    std::memcpy(&values_[rank], &mine, sizeof mine);
    synchronize(rank);
    std::memcpy(&mine, &values_[from], sizeof mine);
    synchronize(rank);
    return mine;
  }

 private:
  std::barrier<> barrier_;
  std::vector<long> waits_;  // how often each thread has waited
  std::vector<double> values_;
};

inline thread_local index3 thread, block;
inline thread_local team *block_team, *warp_team;
inline index3 block_size, grid_size;
constexpr unsigned warp_size = 32;

/// What kernel<<<grid, threads, shared, stream>>> becomes: a callable over the kernel's arguments,
/// which it copies as a launch does.
template <class Kernel>
auto launch(Kernel kernel, unsigned grid, int threads, std::size_t shared, cudaStream_t) {
  return [=](auto... arguments) {
    on_device const access;
    memory.dynamic_shared.assign(shared, std::byte{0xa5});
    block_size.x = static_cast<unsigned>(threads);
    grid_size.x = grid;
    team all(block_size.x);
    std::deque<team> warps;
    for (unsigned first = 0; first < block_size.x; first += warp_size)
      warps.emplace_back(std::min(warp_size, block_size.x - first));
    auto const run = [&](unsigned index) {
      thread.x = index;
      block_team = &all;
      warp_team = &warps[index / warp_size];
      for (unsigned b = 0; b < grid; ++b) {
        block.x = b;
        kernel(arguments...);
        warp_team->finish(index % warp_size);
        all.finish(index);
      }
    };
    std::vector<std::jthread> pool;
    for (unsigned i = 0; i < block_size.x; ++i) pool.emplace_back(run, i);
  };
}

}  // namespace emulated

#define threadIdx ::emulated::thread
#define blockIdx ::emulated::block
#define blockDim ::emulated::block_size
#define gridDim ::emulated::grid_size

inline void __syncthreads() { ::emulated::block_team->synchronize(::emulated::thread.x); }
inline void __syncwarp() {
  ::emulated::warp_team->synchronize(::emulated::thread.x % ::emulated::warp_size);
}
template <class T>
T __shfl_xor_sync(unsigned, T mine, int lanes) {
  auto const rank = ::emulated::thread.x % ::emulated::warp_size;
  return ::emulated::warp_team->exchange(rank, mine, rank ^ static_cast<unsigned>(lanes));
}
inline int atomicAdd(int* target, int value) {
  return __atomic_fetch_add(target, value, __ATOMIC_RELAXED);
}

inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {"none: CUDA threads emulated on the CPU", 0, 0};
  return cudaSuccess;
}
inline cudaError_t cudaPeekAtLastError() { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return *event = new std::chrono::steady_clock::time_point, cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  return *event = std::chrono::steady_clock::now(), cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
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
  if (base == MAP_FAILED) return cudaErrorMemoryAllocation;
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
  ::emulated::on_device const access;
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, void const* from, std::size_t bytes,
                                   cudaMemcpyKind kind, cudaStream_t) {
  return cudaMemcpy(to, from, bytes, kind);
}
inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t) {
  ::emulated::on_device const access;
  std::memset(to, value, bytes);
  return cudaSuccess;
}
