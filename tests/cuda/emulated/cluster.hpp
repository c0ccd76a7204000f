// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Clusters: blocks that run at once, each in a thread of the CPU, wait for each other and read each
// other's shared memory, which is these threads' own. A cluster whose blocks come to different
// barriers, and a block that may end while another reads its memory, are errors.

#include "fibers.hpp"

#include <condition_variable>

namespace emulated {

inline thread_local std::vector<float> shared_memory;  // dynamic
inline thread_local char shared_anchor;  // static shared memory is as far from it everywhere

class block_cluster {
 public:
  explicit block_cluster(unsigned blocks) : anchors_(blocks), dynamic_(blocks) {}

  /// The thread that calls runs the blocks of this rank.
  void join(unsigned rank) {
    anchors_[rank] = &shared_anchor;
    dynamic_[rank] = reinterpret_cast<char*>(shared_memory.data());
  }

  /// One thread of every block: all are here.
  void meet(int line) {
    std::unique_lock lock(mutex_);
    if (arrived_ == 0)
      line_ = line;
    else if (line_ != line)
      die("blocks of a cluster wait at different barriers");
    if (++arrived_ == anchors_.size()) {
      if (line == end && reads_.load(std::memory_order_relaxed))
        die("a block may end while another one reads its shared memory");
      reads_.store(false, std::memory_order_relaxed);
      arrived_ = 0;
      ++generation_;
      all_here_.notify_all();
      return;
    }
    all_here_.wait(lock, [this, now = generation_] { return generation_ != now; });
  }

  [[nodiscard]] char const* there(char const* mine, unsigned from, unsigned to) {
    if (to >= anchors_.size()) die("a cluster has no block of this rank");
    if (from != to) reads_.store(true, std::memory_order_relaxed);
    auto const bytes = static_cast<std::ptrdiff_t>(shared_memory.size() * sizeof(float));
    auto const at = mine - dynamic_[from];
    return at >= 0 && at < bytes ? dynamic_[to] + at : anchors_[to] + (mine - anchors_[from]);
  }

  static constexpr int end = -2;

 private:
  std::vector<char*> anchors_, dynamic_;
  std::mutex mutex_;
  std::condition_variable all_here_;
  std::size_t arrived_ = 0;
  int line_ = 0;
  unsigned generation_ = 0;
  std::atomic<bool> reads_ = false;  // since the last barrier
};

inline void cluster_barrier(int line = __builtin_LINE()) {
  auto* const me = running();
  if (me->cluster == nullptr) die("a barrier of a cluster outside of one");
  me->synchronize_block(line);
  if (me->thread.x == 0) me->cluster->meet(line);
  me->synchronize_block(line);
}
inline void end_of_cluster() { cluster_barrier(block_cluster::end); }

[[nodiscard]] inline unsigned cluster_rank() {
  if (running()->cluster == nullptr) die("a rank outside of a cluster");
  return running()->rank;
}

template <class T>
[[nodiscard]] T const* of_block(T const* mine, unsigned rank) {
  auto* const me = running();
  if (me->cluster == nullptr) die("another block's memory outside of a cluster");
  return reinterpret_cast<T const*>(
      me->cluster->there(reinterpret_cast<char const*>(mine), me->rank, rank));
}

}  // namespace emulated
