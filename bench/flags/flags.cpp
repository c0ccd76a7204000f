// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// attend() built for every x86-64 beside the same built for this machine, one call of each by turns
// in one process, so that what else the machine does falls on both. Prints medians and quartiles of
// the ratios of their processor time. --smoke: no figures.

#include "flags/side.hpp"
#include "support/floor.hpp"

#include <cmath>
#include <cstdio>
#include <ctime>
#include <string>

namespace {

double seconds(flagged_attention const& of, bool fast) {
  std::clock_t const begin = std::clock();
  of.attend(fast);
  return static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
}

}  // namespace

int main(int argc, char** argv) {
  bool const smoke = argc > 1 && std::string(argv[1]) == "--smoke";
  long const tokens = smoke ? 512 : 16384;
  std::size_t const cold_bytes = std::size_t{1} << (smoke ? 20 : 28);
  int const rounds = smoke ? 2 : 75;
  std::printf(
      "attend(), baseline flags over native ones, %ld tokens, 32 query and 8 KV heads of 128: "
      "median [quartiles] of the time\n%-16s %20s %20s\n",
      tokens, "stored as", "tight", "fast");
  double logs = 0;
  int medians = 0;
  for (int form = 0;; ++form) {
    stored_copies copies;
    auto const native = bench_native::attention_of(form, tokens, cold_bytes, copies),
               baseline = bench_baseline::attention_of(form, tokens, cold_bytes, copies);
    if (native.form == nullptr) break;
    std::vector<double> ratios[2];
    for (int i = 0; i < rounds; ++i)
      for (bool const fast : {false, true}) {
        bool const ahead = i % 2 == 0;  // who goes first
        double const first = seconds(ahead ? baseline : native, fast),
                     second = seconds(ahead ? native : baseline, fast);
        ratios[fast ? 1 : 0].push_back(ahead ? first / second : second / first);
      }
    std::printf("%-16s", native.form);
    for (auto const& of : ratios) {
      auto const q = bench::quartiles(of);
      std::printf("  %5.3f [%.3f-%.3f]", q.median, q.low, q.high);
      logs += std::log(q.median);
      ++medians;
    }
    std::printf("\n");
    std::fflush(stdout);
  }
  std::printf("geometric mean of all: %.3f\n", std::exp(logs / medians));
  return 0;
}
