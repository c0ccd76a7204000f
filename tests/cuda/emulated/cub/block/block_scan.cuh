// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What kvslim uses of CUB's header of this name, written down plainly. As with CUB, a barrier is
// needed before the storage is used again.

namespace cub {

enum BlockScanAlgorithm { BLOCK_SCAN_RAKING, BLOCK_SCAN_WARP_SCANS };

template <class T, int Threads, BlockScanAlgorithm = BLOCK_SCAN_RAKING>
class BlockScan {
 public:
  /// Not initialized, like CUB's, whatever T does: every thread would.
  struct TempStorage {
    alignas(T) unsigned char bytes[sizeof(T) * Threads];
    T& operator[](unsigned i) { return reinterpret_cast<T*>(bytes)[i]; }
  };
  explicit BlockScan(TempStorage& storage) : storage_(storage) {}

  void ExclusiveSum(T mine, T& before, T& total) {
    storage_[threadIdx.x] = mine;
    __syncthreads();
    T sum{}, all{};
    for (unsigned i = 0; i < Threads; ++i) {
      if (i == threadIdx.x) sum = all;
      all += storage_[i];
    }
    before = sum;
    total = all;
  }
  /// In order of the threads; combine is associative.
  template <class Combine>
  void InclusiveScan(T mine, T& upto, Combine const& combine, T& total) {
    storage_[threadIdx.x] = mine;
    __syncthreads();
    T all = storage_[0];
    for (unsigned i = 0; i < Threads; ++i) {
      if (i > 0) all = combine(all, storage_[i]);
      if (i == threadIdx.x) upto = all;
    }
    total = all;
  }

 private:
  TempStorage& storage_;
};

}  // namespace cub
