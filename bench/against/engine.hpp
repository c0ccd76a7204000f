// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Whose ggml this is, and how it computes: llama.cpp's has a CPU library of its own and threads
// that stay; ik_llama.cpp's is older, one library, whose threads are OpenMP's.

#include <ggml.h>
#if __has_include(<ggml-cpu.h>)
#include <ggml-cpu.h>
#define KVSLIM_BENCH_LLAMA_CPP 1
#endif

#include <cstdint>
#include <vector>

namespace engine {

#ifdef KVSLIM_BENCH_LLAMA_CPP

inline constexpr char const* name = "llama.cpp";

inline void begin() { ggml_cpu_init(); }
inline void code_row(ggml_type type, float const* from, void* to, std::int64_t dim) {
  ggml_quantize_chunk(type, from, to, 0, 1, dim, nullptr);
}

/// Computes graphs.
class runner {
 public:
  runner() = default;
  runner(runner const&) = delete;
  runner& operator=(runner const&) = delete;
  ~runner() {
    if (pool_ != nullptr) ggml_threadpool_free(pool_);
  }
  /// False: it failed.
  [[nodiscard]] bool compute(ggml_cgraph* graph, int threads) {
    if (threads_ != threads) {
      if (pool_ != nullptr) ggml_threadpool_free(pool_);
      auto params = ggml_threadpool_params_default(threads);
      pool_ = ggml_threadpool_new(&params);
      threads_ = threads;
    }
    auto plan = ggml_graph_plan(graph, threads, pool_);
    work_.resize(plan.work_size);
    plan.work_data = work_.data();
    return ggml_graph_compute(graph, &plan) == GGML_STATUS_SUCCESS;
  }

 private:
  std::vector<std::uint8_t> work_;
  ggml_threadpool* pool_ = nullptr;
  int threads_ = 0;
};

#else

inline constexpr char const* name = "ik_llama.cpp";

/// The first context sets up what is shared.
inline void begin() {
  ggml_free(ggml_init({.mem_size = 1024, .mem_buffer = nullptr, .no_alloc = true}));
}

inline void code_row(ggml_type type, float const* from, void* to, std::int64_t dim) {
  ggml_quantize_chunk(type, from, to, 0, 1, dim, nullptr, nullptr);
}

class runner {
 public:
  [[nodiscard]] bool compute(ggml_cgraph* graph, int threads) {
    auto plan = ggml_graph_plan(graph, threads);
    work_.resize(plan.work_size);
    plan.work_data = work_.data();
    return ggml_graph_compute(graph, &plan) == GGML_STATUS_SUCCESS;
  }

 private:
  std::vector<std::uint8_t> work_;
};

#endif

}  // namespace engine
