// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// The table of attention and encoding against what memory allows, one line per stored form; the
// same on every backend.

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

/// One value per round: plain read's time over attend's, over its fast precision's where that was
/// asked, copy's over compress's, bytes that attend read per second.
struct floor_rounds {
  std::vector<double> attend, fast, encode, gigabytes;
};

inline void print_floor_head() {
  std::printf("%-26s %7s %8s %22s %20s %7s %23s\n", "stored as", "tokens", "B/token",
              "attend: of plain read", "fast", "GB/s", "encode: of memcpy rate");
}
inline void print_floor(char const* name, kvslim::index_t tokens, double bytes_per_token,
                        floor_rounds const& rounds) {
  auto const a = quartiles(rounds.attend), e = quartiles(rounds.encode);
  std::printf("%-26s %7lld %8.1f %8.1f %% [%4.1f-%4.1f]", name, static_cast<long long>(tokens),
              bytes_per_token, 100 * a.median, 100 * a.low, 100 * a.high);
  if (rounds.fast.empty()) {
    std::printf(" %20s", "");
  } else {
    auto const f = quartiles(rounds.fast);
    std::printf(" %6.1f %% [%4.1f-%4.1f]", 100 * f.median, 100 * f.low, 100 * f.high);
  }
  std::printf(" %7.2f %9.1f %% [%4.1f-%4.1f]\n", quartiles(rounds.gigabytes).median, 100 * e.median,
              100 * e.low, 100 * e.high);
  std::fflush(stdout);
}

}  // namespace bench
