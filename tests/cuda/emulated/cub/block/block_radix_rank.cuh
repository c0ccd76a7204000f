// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What kvslim uses of CUB's header of this name, written down plainly: one key a thread, ranks that
// keep the order of threads among equal digits.

namespace cub {

template <int Threads, int Bits, bool Descending>
class BlockRadixRankMatch {
  static_assert(!Descending && (1 << Bits) <= Threads);

 public:
  struct TempStorage {
    unsigned digits[Threads];
  };
  explicit BlockRadixRankMatch(TempStorage& storage) : storage_(storage) {}

  /// prefix: keys of the block whose digit is below threadIdx.x.
  template <class Key, class Extract>
  void RankKeys(Key (&keys)[1], int (&ranks)[1], Extract extract, int (&prefix)[1]) {
    unsigned const mine = extract.Digit(keys[0]);
    storage_.digits[threadIdx.x] = mine;
    __syncthreads();
    ranks[0] = prefix[0] = 0;
    for (unsigned i = 0; i < Threads; ++i) {
      unsigned const other = storage_.digits[i];
      ranks[0] += other < mine || (other == mine && i < threadIdx.x) ? 1 : 0;
      prefix[0] += other < threadIdx.x ? 1 : 0;
    }
  }

 private:
  TempStorage& storage_;
};

}  // namespace cub
