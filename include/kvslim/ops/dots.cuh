// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Products of rows by a warp, whose lanes have channels.

#include <kvslim/core/elements.hpp>
#include <kvslim/exec/cuda.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// a . b, by a warp; every lane gets it.
[[nodiscard]] __device__ inline float dot_by_warp(float const* a, float const* b, index_t n) {
  float sum = 0.0f;
  for (index_t i = threadIdx.x % warp_threads; i < n; i += warp_threads) sum += a[i] * b[i];
  return over_warp(sum, [](float x, float y) { return x + y; });
}

/// The sum of every lane's x[i], in lane i.
[[nodiscard]] __device__ inline float sums_over_warp(float (&x)[warp_threads]) {
  auto const halve = [&]<int Half>(std::integral_constant<int, Half>) {
    bool const upper = (static_cast<int>(threadIdx.x) & Half) != 0;
    unrolled<Half>([&](int i) {
      float const given = upper ? x[i] : x[i + Half], kept = upper ? x[i + Half] : x[i];
      x[i] = kept + __shfl_xor_sync(0xffffffffu, given, Half);
    });
  };
  halve(std::integral_constant<int, 16>{});
  halve(std::integral_constant<int, 8>{});
  halve(std::integral_constant<int, 4>{});
  halve(std::integral_constant<int, 2>{});
  halve(std::integral_constant<int, 1>{});
  return x[0];
}

/// sums[t * Vectors + j] += rows[t] . vectors[j], of a lane's channels: of either a
/// few, 32 products in all, so that a number that is read counts several times. There are `n` rows
/// and `count` vectors; in place of those behind them the last ones are read.
template <int Rows, int Vectors, class T>
__device__ void add_dots(float const* rows, index_t n, T const* vectors, index_t count,
                         index_t width, float (&sums)[warp_threads]) {
  static_assert(Rows * Vectors == warp_threads);
  auto const end = static_cast<std::uint32_t>(width);
  std::uint32_t x[Rows], y[Vectors];
  int const last_row = static_cast<int>(min(n, index_t{Rows})) - 1,
            last_vector = static_cast<int>(min(count, index_t{Vectors})) - 1;
  unrolled<Rows>(
      [&](int t) { x[t] = static_cast<std::uint32_t>(t < last_row ? t : last_row) * end; });
  unrolled<Vectors>(
      [&](int j) { y[j] = static_cast<std::uint32_t>(j < last_vector ? j : last_vector) * end; });
  auto const add = [&]<int Steps>(std::uint32_t c, std::integral_constant<int, Steps>) {
    float const* a[Rows];
    T const* b[Vectors];
    unrolled<Rows>([&](int t) { a[t] = rows + (x[t] + c); });
    unrolled<Vectors>([&](int j) { b[j] = vectors + (y[j] + c); });
    unrolled<Steps>([&](int k) {
      float of[Vectors];
      unrolled<Vectors>([&](int j) { of[j] = widen(b[j][k * warp_threads]); });
      unrolled<Rows>([&](int t) {
        float const mine = a[t][k * warp_threads];
        unrolled<Vectors>([&](int j) { sums[t * Vectors + j] += mine * of[j]; });
      });
    });
  };
  std::uint32_t c = threadIdx.x % warp_threads;
  for (; c + 3 * warp_threads < end; c += 4 * warp_threads)
    add(c, std::integral_constant<int, 4>{});
  for (; c < end; c += warp_threads) add(c, std::integral_constant<int, 1>{});
}

KVSLIM_END_CUDA_NAMESPACE
