// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What kvslim uses of CUB's header of this name, written down plainly. As with CUB, only thread 0
// has the result, and a barrier is needed before the storage is used again.

namespace cub {

template <class T, int Threads>
class BlockReduce {
 public:
  struct TempStorage {
    T values[Threads];
  };
  explicit BlockReduce(TempStorage& storage) : storage_(storage) {}

  template <class Combine>
  T Reduce(T mine, Combine combine) {
    storage_.values[threadIdx.x] = mine;
    __syncthreads();
    if (threadIdx.x != 0) return mine;
    for (unsigned i = 1; i < Threads; ++i) mine = combine(mine, storage_.values[i]);
    return mine;
  }

 private:
  TempStorage& storage_;
};

}  // namespace cub
