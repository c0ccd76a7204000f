// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// The only header that looks at the compiler. Everything else is decided by types.
///
/// Bodies live in an inline namespace that names the version and the instruction-set level, because
/// a linker merges inline functions of one name, and two translation units compiled with different
/// flags must not share a body.

#include <cstddef>
#include <cstdint>

#define KVSLIM_VERSION 100  // major * 10000 + minor * 100 + patch

#if defined(__CUDACC__)
#define KVSLIM_HD __host__ __device__
#else
#define KVSLIM_HD
#endif

#if !defined(KVSLIM_ASSERT)
#if defined(KVSLIM_DEBUG)
#include <cassert>
#define KVSLIM_ASSERT(condition) assert(condition)
#else
#define KVSLIM_ASSERT(condition) static_cast<void>(0)
#endif
#endif

#if defined(KVSLIM_DEBUG)
#define KVSLIM_DETAIL_MODE(name) name##_debug
#else
#define KVSLIM_DETAIL_MODE(name) name
#endif
#if defined(__CUDACC__)
#define KVSLIM_DETAIL_ABI KVSLIM_DETAIL_MODE(v0_1_cuda)
#elif defined(__AVX512F__) && defined(__F16C__)
#define KVSLIM_DETAIL_ABI KVSLIM_DETAIL_MODE(v0_1_avx512_f16c)
#elif defined(__AVX512F__)
#define KVSLIM_DETAIL_ABI KVSLIM_DETAIL_MODE(v0_1_avx512)
#elif defined(__AVX2__) && defined(__F16C__)
#define KVSLIM_DETAIL_ABI KVSLIM_DETAIL_MODE(v0_1_avx2_f16c)
#elif defined(__AVX2__)
#define KVSLIM_DETAIL_ABI KVSLIM_DETAIL_MODE(v0_1_avx2)
#elif defined(__F16C__)
#define KVSLIM_DETAIL_ABI KVSLIM_DETAIL_MODE(v0_1_f16c)
#else
#define KVSLIM_DETAIL_ABI KVSLIM_DETAIL_MODE(v0_1_base)
#endif

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

namespace detail {

[[nodiscard]] KVSLIM_HD constexpr index_t div_up(index_t a, index_t b) noexcept {
  return (a + b - 1) / b;
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
