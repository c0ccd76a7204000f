// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// What a warp asks of a matrix unit. Fragments are those of the PTX manual: lane 4 g + t of
/// m16n8k16 holds A's rows g and g + 8, columns {2t, 2t + 1} and {2t + 8, 2t + 9}; B's rows 2t, 2t
/// + 1, 2t + 8, 2t + 9 of column g; and C's rows g and g + 8, columns {2t, 2t + 1}. Every lane of a
/// warp calls together.

#include <kvslim/core/elements.hpp>
#include <kvslim/exec/cuda.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

// The tests' emulation brings instructions of its own.
#if defined(KVSLIM_DETAIL_MATRIX_UNIT)
using KVSLIM_DETAIL_MATRIX_UNIT::exp2_fast;
using KVSLIM_DETAIL_MATRIX_UNIT::mma;
using KVSLIM_DETAIL_MATRIX_UNIT::mma_bf16;
using KVSLIM_DETAIL_MATRIX_UNIT::mma_tf32;
using KVSLIM_DETAIL_MATRIX_UNIT::transposed;
#else

/// c += a b: A [16, 16] and B [16, 8] of f16, two in a word, C of float.
__device__ inline void mma(float (&c)[4], std::uint32_t const (&a)[4], std::uint32_t b0,
                           std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// The same of bf16.
__device__ inline void mma_bf16(float (&c)[4], std::uint32_t const (&a)[4], std::uint32_t b0,
                                std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// c += a b: A [16, 8] and B [8, 8] of floats whose lower 13 bits do not count. Lane 4 g + t holds
/// A's rows g and g + 8 of column t, then of column t + 4, and B's rows t and t + 4 of column g.
__device__ inline void mma_tf32(float (&c)[4], std::uint32_t const (&a)[4], std::uint32_t b0,
                                std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// An 8 x 8 matrix of 16-bit elements, transposed: lane 4 g + t holds row g, columns 2t, 2t + 1.
[[nodiscard]] __device__ inline std::uint32_t transposed(std::uint32_t x) {
  std::uint32_t y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

/// 2^x to 2 ulp or so; 0 for -infinity and where the result is below the smallest normal float.
[[nodiscard]] __device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

#endif

/// Two floats rounded to f16, `low` in the low half.
[[nodiscard]] __device__ inline std::uint32_t halves(float low, float high) {
#if defined(__CUDA_ARCH__)
  std::uint32_t y;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
#else
  return from_float<f16>(low).bits | static_cast<std::uint32_t>(from_float<f16>(high).bits) << 16;
#endif
}
[[nodiscard]] __device__ inline float low_half(std::uint32_t x) {
  return to_float(f16{static_cast<std::uint16_t>(x)});
}
[[nodiscard]] __device__ inline float high_half(std::uint32_t x) {
  return to_float(f16{static_cast<std::uint16_t>(x >> 16)});
}
/// Two floats cut to f16: what is smaller than an ulp is dropped.
[[nodiscard]] __device__ inline std::uint32_t cut_halves(float low, float high) {
#if defined(__CUDA_ARCH__)
  std::uint32_t y;
  asm("cvt.rz.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
#else
  auto const cut = [](float x) {
    f16 y = from_float<f16>(x);
    if (fabsf(to_float(y)) > fabsf(x)) --y.bits;
    return static_cast<std::uint32_t>(y.bits);
  };
  return cut(low) | cut(high) << 16;
#endif
}
/// What f16 holds of x, cut and not rounded, as a float; 11 bits, and so many as TF32 holds.
[[nodiscard]] __device__ inline float upper_part(float x) {
  return bit_cast<float>(bit_cast<std::uint32_t>(x) & 0xffffe000u);
}
/// That as f16 (low half), and what it leaves (high half): 22 bits together.
[[nodiscard]] __device__ inline std::uint32_t hi_lo(float x) {
  float const upper = upper_part(x);
  return halves(upper, x - upper);
}
/// What two f16 leave of the floats that they are rounded from.
[[nodiscard]] __device__ inline std::uint32_t rest_of_halves(std::uint32_t x, float low,
                                                             float high) {
  return halves(low - low_half(x), high - high_half(x));
}

/// The low halves of two words, and the high ones: one instruction.
[[nodiscard]] __device__ inline std::uint32_t low_halves(std::uint32_t a, std::uint32_t b) {
  return (a & 0xffffu) | b << 16;
}
[[nodiscard]] __device__ inline std::uint32_t high_halves(std::uint32_t a, std::uint32_t b) {
  return a >> 16 | (b & 0xffff0000u);
}
/// Parts that a float has in elements of a type: two of f16 hold 22 bits, three of bf16 all 24.
template <element T>
inline constexpr int parts_of_float = std::is_same_v<T, bf16> ? 3 : 2;
/// One of them, in the low half; 0 behind the last one.
template <element T>
[[nodiscard]] __device__ std::uint32_t part_of_float(float x, int part) {
  if constexpr (std::is_same_v<T, bf16>) {
    for (; part > 0; --part) x -= bit_cast<float>(bit_cast<std::uint32_t>(x) & 0xffff0000u);
    return bit_cast<std::uint32_t>(x) >> 16;
  } else {
    return part == 0 ? hi_lo(x) & 0xffffu : hi_lo(x) >> 16;
  }
}
/// The larger of two f16 that are not negative, in either half.
[[nodiscard]] __device__ inline std::uint32_t larger_halves(std::uint32_t a, std::uint32_t b) {
#if defined(__CUDA_ARCH__)
  return __vmaxu2(a, b);
#else
  std::uint32_t const low = (a & 0xffffu) > (b & 0xffffu) ? a : b, high = a >> 16 > b >> 16 ? a : b;
  return (low & 0xffffu) | (high & 0xffff0000u);
#endif
}

/// Stored words that no thread writes while the kernel runs.
template <class T>
[[nodiscard]] __device__ T read_only(void const* at) {
#if defined(__CUDA_ARCH__)
  return __ldg(static_cast<T const*>(at));
#else
  return *static_cast<T const*>(at);
#endif
}

/// An address as one value: what it was added up from is not added up again for every load.
[[nodiscard]] __device__ inline std::uint8_t const* settled(std::uint8_t const* at) {
#if defined(__CUDA_ARCH__)
  asm("" : "+l"(at));
#endif
  return at;
}
/// What is made of a number is not made before the loop that needs it, and kept in registers.
[[nodiscard]] __device__ inline std::uint32_t settled(std::uint32_t x) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+r"(x));
#endif
  return x;
}

KVSLIM_END_CUDA_NAMESPACE
