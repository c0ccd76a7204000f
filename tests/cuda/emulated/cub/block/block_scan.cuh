// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What kvslim uses of CUB's header of this name, written down plainly. As with CUB, a barrier is
// needed before the storage is used again.

namespace cub {

template <class T, int Threads>
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

 private:
  TempStorage& storage_;
};

}  // namespace cub
