// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// The only header that looks at the compiler. Everything else is decided by types.
///
/// Bodies live in an inline namespace that names the version and everything among the compiler's
/// flags that changes what a body becomes (instruction sets, OpenMP, relaxed floating point, debug
/// checks, KVSLIM_PORTABLE), because a linker merges inline functions of one name: two translation
/// units compiled with different flags must not share a body. A .cu file compiled with the same
/// host flags has the same names, so that kvslim's types cross between .cpp and .cu.

#if defined(_MSVC_LANG) ? _MSVC_LANG < 202002L : __cplusplus < 202002L
#error "kvslim: C++20 is needed: compile with -std=c++20 or later"
#include <kvslim: stopped, see the error above>
#endif

#include <cstddef>
#include <cstdint>

#define KVSLIM_VERSION 200  // major * 10000 + minor * 100 + patch

#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#error "kvslim: -ffast-math assumes that no value is NaN or infinite; add -fno-finite-math-only"
#endif

#if defined(__CUDACC__)
#define KVSLIM_HD __host__ __device__
#else
#define KVSLIM_HD
#endif

// A function of its own, so that the stack holds its arrays only while it runs.
#if defined(__CUDACC__)
#define KVSLIM_DETAIL_APART
#else
#define KVSLIM_DETAIL_APART __attribute__((noinline))
#endif

#if !defined(KVSLIM_ASSERT)
#if defined(KVSLIM_DEBUG)
#include <cassert>
#define KVSLIM_ASSERT(condition) assert(condition)
#else
#define KVSLIM_ASSERT(condition) static_cast<void>(0)
#endif
#endif

// The namespace's name, put together from one word per feature.
#if defined(__AVX512F__)
#define KVSLIM_DETAIL_VECTORS _avx512
#elif defined(__AVX2__)
#define KVSLIM_DETAIL_VECTORS _avx2
#elif defined(__AVX__)
#define KVSLIM_DETAIL_VECTORS _avx
#elif defined(__ARM_FEATURE_SVE)
#define KVSLIM_DETAIL_VECTORS _sve
#elif defined(__ARM_FEATURE_DOTPROD)
#define KVSLIM_DETAIL_VECTORS _dotprod
#else
#define KVSLIM_DETAIL_VECTORS
#endif
#if defined(__FMA__)
#define KVSLIM_DETAIL_FMA _fma
#else
#define KVSLIM_DETAIL_FMA
#endif
#if defined(__F16C__)
#define KVSLIM_DETAIL_F16C _f16c
#else
#define KVSLIM_DETAIL_F16C
#endif
#if defined(_OPENMP)
#define KVSLIM_DETAIL_OPENMP _openmp
#else
#define KVSLIM_DETAIL_OPENMP
#endif
#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__)
#define KVSLIM_DETAIL_MATH _relaxed
#else
#define KVSLIM_DETAIL_MATH
#endif
#if defined(KVSLIM_DEBUG)
#define KVSLIM_DETAIL_CHECKS _debug
#else
#define KVSLIM_DETAIL_CHECKS
#endif
#if defined(KVSLIM_PORTABLE)
#define KVSLIM_DETAIL_PLAIN _portable
#else
#define KVSLIM_DETAIL_PLAIN
#endif
#define KVSLIM_DETAIL_JOIN(a, b, c, d, e, f, g) v0_2##a##b##c##d##e##f##g
#define KVSLIM_DETAIL_NAME(a, b, c, d, e, f, g) KVSLIM_DETAIL_JOIN(a, b, c, d, e, f, g)
#define KVSLIM_DETAIL_ABI                                                            \
  KVSLIM_DETAIL_NAME(KVSLIM_DETAIL_VECTORS, KVSLIM_DETAIL_FMA, KVSLIM_DETAIL_F16C,   \
                     KVSLIM_DETAIL_OPENMP, KVSLIM_DETAIL_MATH, KVSLIM_DETAIL_CHECKS, \
                     KVSLIM_DETAIL_PLAIN)

#define KVSLIM_BEGIN_NAMESPACE \
  namespace kvslim {           \
  inline namespace KVSLIM_DETAIL_ABI {
#define KVSLIM_END_NAMESPACE \
  }                          \
  }

KVSLIM_BEGIN_NAMESPACE

/// Every count, stride and offset. 64 bits: a million tokens times heads times channels exceeds 32.
using index_t = std::int64_t;

/// Where memory lives. Part of every view's type, so host memory cannot reach a kernel.
struct host_space {};
struct cuda_space {};

/// Alignment that storage and workspaces must have, in bytes: what std::vector<std::byte> gives. 64
/// and more avoids split cache lines.
inline constexpr index_t alignment_bytes = 16;

namespace detail {

[[nodiscard]] KVSLIM_HD constexpr index_t div_up(index_t a, index_t b) noexcept {
  return a / b + static_cast<index_t>(a % b > 0);
}
[[nodiscard]] KVSLIM_HD constexpr index_t round_up(index_t a, index_t b) noexcept {
  return div_up(a, b) * b;
}
[[nodiscard]] KVSLIM_HD constexpr index_t min(index_t a, index_t b) noexcept {
  return a < b ? a : b;
}
[[nodiscard]] KVSLIM_HD constexpr index_t max(index_t a, index_t b) noexcept {
  return a > b ? a : b;
}

/// std::bit_cast for device code too, without a compiler option.
template <class To, class From>
[[nodiscard]] KVSLIM_HD constexpr To bit_cast(From const& from) noexcept {
  static_assert(sizeof(To) == sizeof(From));
  return __builtin_bit_cast(To, from);
}

}  // namespace detail

KVSLIM_END_NAMESPACE
