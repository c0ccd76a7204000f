// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// An operation beside what bounds it, taken by turns: `of_floor` is the median of the floor's
// processor time over the operation's.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <ctime>
#include <vector>

namespace bench {

template <class Body>
double processor_seconds(Body const& body) {
  timespec begin, end;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin);
  body();
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
  return static_cast<double>(end.tv_sec - begin.tv_sec) +
         1e-9 * static_cast<double>(end.tv_nsec - begin.tv_nsec);
}

inline double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}
template <class Operation, class Floor>
void beside(benchmark::State& state, Operation const& operation, Floor const& floor) {
  std::vector<double> ratios;
  for (auto _ : state) {
    double const least = processor_seconds(floor), time = processor_seconds(operation);
    state.SetIterationTime(time);
    ratios.push_back(least / time);
  }
  state.counters["of_floor"] = median(ratios);
}

}  // namespace bench
