// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// The table of attention and encoding against what memory allows, one line per stored form and
// shape.

#include <kvslim/core/config.hpp>

#include <algorithm>
#include <cstdio>
#include <vector>

namespace bench {

struct spread {
  double low, median, high;
};
inline spread quartiles(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return {x[x.size() / 4], x[x.size() / 2], x[x.size() * 3 / 4]};
}

/// One value per round: plain read's time over attend's and over its fast precision's, copy's over
/// compress's where that was asked, and over its with plan_options::one_pass, bytes that attend
/// read per second.
struct floor_rounds {
  std::vector<double> attend, fast, encode, one_pass, gigabytes;
};

inline void print_floor_head() {
  std::printf("%-26s %7s %5s %7s %8s %22s %20s %7s %23s %21s\n", "stored as", "tokens", "batch",
              "threads", "B/token", "attend: of plain read", "fast", "GB/s",
              "encode: of memcpy rate", "in one pass");
}
inline void print_floor(char const* name, kvslim::index_t tokens, kvslim::index_t batch,
                        int threads, double bytes_per_token, floor_rounds const& rounds) {
  auto const a = quartiles(rounds.attend), f = quartiles(rounds.fast);
  std::printf("%-26s %7lld %5lld %7d %8.1f %8.1f %% [%4.1f-%4.1f] %6.1f %% [%4.1f-%4.1f] %7.2f",
              name, static_cast<long long>(tokens), static_cast<long long>(batch), threads,
              bytes_per_token, 100 * a.median, 100 * a.low, 100 * a.high, 100 * f.median,
              100 * f.low, 100 * f.high, quartiles(rounds.gigabytes).median);
  if (!rounds.encode.empty()) {
    for (auto const& e : {quartiles(rounds.encode), quartiles(rounds.one_pass)})
      std::printf(" %9.1f %% [%4.1f-%4.1f]", 100 * e.median, 100 * e.low, 100 * e.high);
  }
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace bench
