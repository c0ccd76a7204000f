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
  struct TempStorage {
    T values[Threads];
  };
  explicit BlockScan(TempStorage& storage) : storage_(storage) {}

  void ExclusiveSum(T mine, T& before, T& total) {
    storage_.values[threadIdx.x] = mine;
    __syncthreads();
    T sum{}, all{};
    for (unsigned i = 0; i < Threads; ++i) {
      if (i == threadIdx.x) sum = all;
      all += storage_.values[i];
    }
    before = sum;
    total = all;
  }
  /// In order of the threads; combine is associative.
  template <class Combine>
  void InclusiveScan(T mine, T& upto, Combine const& combine, T& total) {
    storage_.values[threadIdx.x] = mine;
    __syncthreads();
    T all = storage_.values[0];
    for (unsigned i = 0; i < Threads; ++i) {
      if (i > 0) all = combine(all, storage_.values[i]);
      if (i == threadIdx.x) upto = all;
    }
    total = all;
  }

 private:
  TempStorage& storage_;
};

}  // namespace cub
