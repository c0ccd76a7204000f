// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Rows of a cache as floats where a warp can work on them, 16 bytes read at a time.

#include <kvslim/core/channels.hpp>
#include <kvslim/exec/cuda.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

inline constexpr int stage_octets = 4;  ///< of a lane before it stores

/// Whether rows can lie so that eight channels are read at once.
template <class Range>
inline constexpr bool in_octets = false;
template <class T>
requires(sizeof(T) == 2 || sizeof(T) == 4) inline constexpr bool in_octets<channel_range<T>> = true;

/// Eight channels as they lie, at a multiple of 16 bytes.
template <class T>
struct octet {
  static constexpr int count = sizeof(T) / 2;
  uint4 words[sizeof(T) / 2];

  __device__ void load(T const* from) {
    auto const* const at = static_cast<uint4 const*>(static_cast<void const*>(from));
    unrolled<count>([&](int i) { words[i] = at[i]; });
  }
  __device__ void floats(float (&x)[8]) const {
    unrolled<count>([&](int i) {
      std::uint32_t const of[4] = {words[i].x, words[i].y, words[i].z, words[i].w};
      unrolled<4>([&](int j) {
        if constexpr (sizeof(T) == 4) {
          x[4 * i + j] = bit_cast<float>(of[j]);
        } else {
          x[2 * j] = to_float(T{static_cast<std::uint16_t>(of[j] & 0xffffu)});
          x[2 * j + 1] = to_float(T{static_cast<std::uint16_t>(of[j] >> 16)});
        }
      });
    });
  }
};

/// Stages n rows [n, dim], eight channels at a time, if all of them and where they go allow it;
/// row_of(i) is row i. Sets `bad` in a lane that met a value beyond the limit. Every lane of a warp
/// calls, and synchronises afterwards.
template <class RowOf>
[[nodiscard]] __device__ bool stage_by_octets(RowOf const& row_of, index_t n, index_t dim,
                                              float limit, float* rows, bool& bad) {
  using range = std::remove_cvref_t<decltype(row_of(0))>;
  if constexpr (!in_octets<range>) {
    return false;
  } else {
    using element_type = std::remove_cvref_t<decltype(*row_of(0).first())>;
    int const lane = static_cast<int>(threadIdx.x) % warp_threads;
    auto const whole = [](auto* at) { return reinterpret_cast<std::uintptr_t>(at) % 16 == 0; };
    bool fits = dim % 8 == 0 && whole(rows);
    for (index_t i = lane; i < n && fits; i += warp_threads) {
      auto const row = row_of(i);
      fits = row.stride() == 1 && whole(row.first());
    }
    if (__all_sync(0xffffffffu, fits) == 0) return false;
    // This lane's next octet, and from there to the one after: the loop divides nothing.
    int const octets = static_cast<int>(dim / 8), rows_on = warp_threads / octets,
              octets_on = warp_threads % octets;
    int row = lane / octets, at = lane % octets;
    while (row < n) {
      octet<element_type> held[stage_octets];
      float* to[stage_octets];
      unrolled<stage_octets>([&](int j) {
        to[j] = row < n ? rows + row * dim + at * 8 : nullptr;
        if (row < n) held[j].load(row_of(row).first() + at * 8);
        row += rows_on;
        at += octets_on;
        if (at < octets) return;
        at -= octets;
        ++row;
      });
      unrolled<stage_octets>([&](int j) {
        if (to[j] == nullptr) return;
        float x[8];
        held[j].floats(x);
        for (float const value : x) bad = bad || !(fabsf(value) <= limit);
        auto* const out = reinterpret_cast<float4*>(to[j]);
        out[0] = {x[0], x[1], x[2], x[3]};
        out[1] = {x[4], x[5], x[6], x[7]};
      });
    }
    return true;
  }
}

KVSLIM_END_CUDA_NAMESPACE
