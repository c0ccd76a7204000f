// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Shapes and options that nobody chose: drawn from a seed, the same ones everywhere.

#include "both.hpp"

#include <cstdio>
#include <cstdlib>
#include <random>

namespace on_device {

inline std::mt19937 engine;

/// One of [first, last].
inline index_t pick(index_t first, index_t last) {
  return std::uniform_int_distribution<index_t>(first, last)(engine);
}
/// True once in `of` times.
inline bool chance(index_t of) { return pick(1, of) == 1; }
template <std::size_t N>
index_t pick(index_t const (&some)[N]) {
  return some[pick(0, N - 1)];
}

/// The program: its arguments are how many caches there are and a seed; draw(i) compares one.
template <class Draw>
int draw_caches(int count, char** words, int usual, Draw const& draw) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: no CUDA device\n");
    return 77;
  }
  int const caches = count > 1 ? std::atoi(words[1]) : usual;
  engine.seed(count > 2 ? static_cast<unsigned>(std::atoi(words[2])) : 1u);
  for (int i = 0; i < caches; ++i) draw(i);
  std::printf(failures == 0 ? "both backends agree\n" : "%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace on_device
