// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// A .cpp that knows nothing of CUDA, and two .cu files built for different devices. Needs no GPU:
// calls end at their checks.

#include "boundary.hpp"

#include <cstdio>
#include <cstring>

int main() {
  kvslim::extents const e{1, 1, 64, 8};
  auto const plan =
      kvslim::make_plan(kvslim::pipeline{kvslim::knorm{}, kvslim::top_k{{.budget = 4}}}, e);
  alignas(16) static std::byte storage[16];
  float const some[1] = {};
  auto const view = kvslim::dense_cache<kvslim::cuda_space>(some, some, e);
  boundary::packed const filled(plan, storage, sizeof storage, {});
  boundary::packed const empty(plan, nullptr, 0, {});
  using entry = decltype(&boundary::select_in_one);
  entry const entries[] = {boundary::select_in_one, boundary::select_in_two};
  int wrong = 0;
  for (entry const call : entries) {
    wrong += call(plan, view, empty, nullptr).code == kvslim::errc::buffer_too_small ? 0 : 1;
    wrong += call(plan, view, filled, nullptr).code == kvslim::errc::invalid_pointer ? 0 : 1;
  }
  char const *const one = boundary::executor_of_one(), *const two = boundary::executor_of_two();
  if (std::strcmp(one, two) == 0) ++wrong;
  std::printf("%s\n%s\n%d wrong\n", one, two, wrong);
  return wrong == 0 ? 0 : 1;
}
