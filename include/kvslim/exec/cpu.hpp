// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/status.hpp>

#include <type_traits>

KVSLIM_BEGIN_NAMESPACE

/// The serial CPU executor. Threads come from the caller: cpu_with, cpu_part, exec/openmp.hpp.
struct cpu {
  using space = host_space;

  template <class Body>
  void for_each(index_t count, Body&& body) const {
    for (index_t i = 0; i < count; ++i) body(i);
  }
};

/// A CPU executor over the caller's own pool: `Pool` needs `for_each(index_t count, body)` that
/// calls body(i) once for each i, in any order, and returns when all are done. Iterations never
/// share memory, so results do not depend on it.
template <class Pool>
struct cpu_with {
  using space = host_space;
  Pool* pool = nullptr;

  template <class Body>
  void for_each(index_t count, Body&& body) const {
    pool->for_each(count, body);
  }
};
template <class Pool>
cpu_with(Pool*) -> cpu_with<Pool>;

/// One of `parts` threads that all make the same call: thread `part` does every parts-th iteration,
/// then waits in `barrier(state)` for the others (an engine's worker function: "ith of nth"). Every
/// write of a verb lies inside an iteration, so all threads return the same status.
struct cpu_part {
  using space = host_space;
  index_t part = 0, parts = 1;
  void (*barrier)(void*) =
      nullptr;  ///< returns once all threads have called it; needed if parts > 1
  void* state = nullptr;

  template <class Body>
  void for_each(index_t count, Body&& body) const {
    for (index_t i = part; i < count; i += parts) body(i);
    if (barrier != nullptr) barrier(state);
  }
};

namespace detail {

/// Returns once every thread of a cpu_part has come this far: between checks, which all threads
/// make for themselves, and the first write.
template <class Exec>
void meet(Exec const& exec) {
  exec.for_each(0, [](index_t) {});
}

}  // namespace detail

/// Where an op's code for an executor is looked up. A backend header adds a specialisation that did
/// not exist; none is ever replaced. The primary is what a missing include looks like.
template <class Op, class Exec>
struct implementation {
  template <class... Arguments>
  static status run(Arguments&&...) {
    static_assert(sizeof(Op) == 0,
                  "kvslim: this op has no code for the executor: include <kvslim/kvslim.cuh> for "
                  "CUDA");
    return {};
  }
};

/// Something with a memory space and a way to run independent iterations there.
template <class E>
concept host_executor = std::is_same_v<typename E::space, host_space> &&
    requires(E const e, void (*body)(index_t)) {
  e.for_each(index_t{}, body);
};

KVSLIM_END_NAMESPACE
