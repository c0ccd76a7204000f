// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// The part of the CUDA runtime that kvslim uses, on the CPU: every CUDA thread is a thread, so that kernels run with their barriers where there
// is no GPU. Device memory can be touched by kernels and copies only and ends at a guard page, so that the host reading it, or a
// kernel running past it, is a segmentation fault. Shows logic, indexing and races (under TSan); shows nothing about a GPU's own arithmetic.

#include <sys/mman.h>
#include <unistd.h>

#include <barrier>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __shared__ static  // blocks run one after another

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorMemoryAllocation = 2 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
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
    for (auto const& [pointer, region] : memory.regions) mprotect(region.base, region.bytes, access);
  }
};

inline thread_local index3 thread, block;
inline thread_local std::barrier<>* wait;
inline thread_local long waits;
inline index3 block_size;

inline void synchronize() {
  ++waits;
  wait->arrive_and_wait();
}

/// What kernel<<<grid, threads, shared, stream>>> becomes: a callable over the kernel's arguments, which it copies as a launch does.
template <class Kernel>
auto launch(Kernel kernel, unsigned grid, int threads, std::size_t shared, cudaStream_t) {
  return [=](auto... arguments) {
    on_device const access;
    memory.dynamic_shared.assign(shared, std::byte{0xa5});
    block_size.x = static_cast<unsigned>(threads);
    std::barrier<> barrier(threads);
    std::vector<long> counts(block_size.x);
    auto const run = [&](unsigned index) {
      thread.x = index;
      wait = &barrier;
      for (unsigned b = 0; b < grid; ++b) {
        block.x = b;
        waits = 0;
        kernel(arguments...);
        counts[index] = waits;
        barrier.arrive_and_wait();
        if (counts[index] != counts[0]) {  // a GPU would hang, or worse
          std::fputs("emulated: not every thread of a block reached the same barriers\n", stderr);
          std::abort();
        }
        barrier.arrive_and_wait();
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

inline void __syncthreads() { ::emulated::synchronize(); }
inline void __syncwarp() { ::emulated::synchronize(); }  // where it is used, a block is one warp
inline int atomicAdd(int* target, int value) { return __atomic_fetch_add(target, value, __ATOMIC_RELAXED); }

inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {"none: CUDA threads emulated on the CPU", 0, 0};
  return cudaSuccess;
}
inline cudaError_t cudaPeekAtLastError() { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }

template <class T>
cudaError_t cudaMalloc(T** out, std::size_t bytes) {
  auto const page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  auto const rounded = (bytes + page - 1) / page * page;
  void* const base = mmap(nullptr, rounded + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
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
inline cudaError_t cudaMemcpyAsync(void* to, void const* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  return cudaMemcpy(to, from, bytes, kind);
}
inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t) {
  ::emulated::on_device const access;
  std::memset(to, value, bytes);
  return cudaSuccess;
}
