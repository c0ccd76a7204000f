// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cpu.hpp>

KVSLIM_BEGIN_NAMESPACE

/// CPU executor over OpenMP. Compile with the compiler's OpenMP flag; without it the loop is
/// serial. Fewer than one thread means one.
struct openmp {
  using space = host_space;
  int threads = 1;

  template <class Body>
  void for_each(index_t count, Body&& body) const {
#if defined(_OPENMP)
    [[maybe_unused]] int const team = threads < 1 ? 1 : threads;
#pragma omp parallel for schedule(dynamic) num_threads(team)
#endif
    for (index_t i = 0; i < count; ++i) body(i);
  }
};

KVSLIM_END_NAMESPACE
