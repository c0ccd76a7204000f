// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// The engine's own threads for work of ours between two of its nodes. The evaluation callback is
// handed none; but ggml's pool computes any graph, and a node with a function of its own is handed
// ith of nth: a graph of one such node, computed by the pool that the engine computes with.

#include <kvslim/exec/cpu.hpp>

#include <ggml-backend.h>
#include <ggml.h>
#include <llama.h>

#include <barrier>
#include <stdexcept>
#include <vector>

namespace example {

class engine_threads {
 public:
  explicit engine_threads(int n) : n_(n), meeting_(n), results_(static_cast<std::size_t>(n)) {
    cpu_ = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr);
    auto const new_pool =
        find<ggml_threadpool* (*)(ggml_threadpool_params*)>("ggml_threadpool_new");
    auto params = ggml_threadpool_params_default(n);
    pool_ = new_pool(&params);
    find<ggml_backend_set_n_threads_t>("ggml_backend_set_n_threads")(cpu_, n);
    find<void (*)(ggml_backend_t, ggml_threadpool*)>("ggml_backend_cpu_set_threadpool")(cpu_,
                                                                                        pool_);
    memory_ =
        ggml_init({ggml_tensor_overhead() * 4 + ggml_graph_overhead() + 1024, nullptr, false});
    graph_ = ggml_new_graph(memory_);
    ggml_build_forward_expand(graph_, ggml_custom_4d(
                                          memory_, GGML_TYPE_F32, 1, 1, 1, 1, nullptr, 0,
                                          [](ggml_tensor*, int ith, int nth, void* self) {
                                            static_cast<engine_threads*>(self)->take_part(ith, nth);
                                          },
                                          GGML_N_TASKS_MAX, this));
  }
  engine_threads(engine_threads const&) = delete;
  engine_threads& operator=(engine_threads const&) = delete;
  ~engine_threads() {
    ggml_free(memory_);
    auto const free_pool = find<void (*)(ggml_threadpool*)>("ggml_threadpool_free");
    ggml_backend_free(cpu_);
    free_pool(pool_);
  }
  /// The engine computes with these threads from now on; they must outlive the context.
  void attach(llama_context* c) const { llama_attach_threadpool(c, pool_, pool_); }
  [[nodiscard]] int count() const { return n_; }

  /// Every thread calls work(cpu_part), which returns the same status in all of them.
  template <class Work>
  kvslim::status run(Work const& work) {
    work_ = &work;
    call_ = [](void const* w, kvslim::cpu_part const& part) {
      return (*static_cast<Work const*>(w))(part);
    };
    if (ggml_backend_graph_compute(cpu_, graph_) != GGML_STATUS_SUCCESS || taken_ != n_)
      throw std::runtime_error("ggml's pool hands out other threads than it was made with");
    return results_.front();
  }

 private:
  template <class F>
  [[nodiscard]] F find(char const* name) const {
    auto* const registry = ggml_backend_dev_backend_reg(ggml_backend_get_device(cpu_));
    auto* const f = ggml_backend_reg_get_proc_address(registry, name);
    if (f == nullptr) throw std::runtime_error(std::string("this ggml has no ") + name);
    return reinterpret_cast<F>(f);
  }
  void take_part(int ith, int nth) {
    if (ith == 0) taken_ = nth;
    if (nth != n_) return;
    auto const meet = [](void* self) {
      static_cast<engine_threads*>(self)->meeting_.arrive_and_wait();
    };
    results_[static_cast<std::size_t>(ith)] =
        call_(work_, {.part = ith, .parts = nth, .barrier = meet, .state = this});
  }

  int n_, taken_ = 0;
  std::barrier<> meeting_;
  std::vector<kvslim::status> results_;
  ggml_backend_t cpu_ = nullptr;
  ggml_threadpool* pool_ = nullptr;
  ggml_context* memory_ = nullptr;
  ggml_cgraph* graph_ = nullptr;
  void const* work_ = nullptr;
  kvslim::status (*call_)(void const*, kvslim::cpu_part const&) = nullptr;
};

}  // namespace example
