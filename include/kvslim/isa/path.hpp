// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Which instruction set the CPU kernels of attention use. It is found out at run time: functions
/// carry targets of their own, so that a program compiled for the oldest processor of its kind is
/// as fast as one compiled for the processor that it runs on. With KVSLIM_PORTABLE defined there
/// are none of these functions: a program is smaller, compiles faster, and runs plain loops.

#include <kvslim/core/config.hpp>

#if defined(__CUDACC__) || !defined(__GNUC__) || defined(KVSLIM_PORTABLE)
#define KVSLIM_DETAIL_X86 0
#define KVSLIM_DETAIL_NEON 0
#else
#if defined(__x86_64__)
#define KVSLIM_DETAIL_X86 1
#else
#define KVSLIM_DETAIL_X86 0
#endif
#if defined(__aarch64__) && !defined(__AARCH64EB__)
#define KVSLIM_DETAIL_NEON 1
#else
#define KVSLIM_DETAIL_NEON 0
#endif
#endif
#define KVSLIM_DETAIL_KERNELS (KVSLIM_DETAIL_X86 || KVSLIM_DETAIL_NEON)

KVSLIM_BEGIN_NAMESPACE

namespace isa {

/// `portable`: plain loops and the compiler's flags, on every processor. `avx2`: with FMA and F16C.
/// `avx512`: F, BW, DQ and VL. `avx512_vnni`: with VNNI, which multiplies codes as they are stored.
/// `neon`: on every AArch64. NVIDIA's compiler and other architectures have `portable` alone.
enum class path : int { portable = 1, avx2 = 2, avx512 = 3, avx512_vnni = 4, neon = 5 };

/// All of them, those of one architecture in ascending order.
inline constexpr path every_path[] = {path::portable, path::avx2, path::avx512, path::avx512_vnni,
                                      path::neon};

[[nodiscard]] constexpr char const* name_of(path p) noexcept {
  return p == path::neon          ? "neon"
         : p == path::avx512_vnni ? "avx512_vnni"
         : p == path::avx512      ? "avx512"
         : p == path::avx2        ? "avx2"
                                  : "portable";
}

}  // namespace isa

namespace detail {

/// Best of what this processor and its operating system allow. Never inline, or a compiler may move
/// the question to where the answer is known already: under a hypervisor it takes a microsecond.
[[nodiscard]] KVSLIM_DETAIL_APART inline isa::path probe_path() noexcept {
#if KVSLIM_DETAIL_NEON
  return isa::path::neon;
#else
#if KVSLIM_DETAIL_X86
  __builtin_cpu_init();
  unsigned eax = 1, ebx, ecx = 0, edx;
  // Compilers differ in whether they can be asked for this one.
  asm volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  bool const f16c = (ecx & (1u << 29)) != 0;
  if (f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
      return __builtin_cpu_supports("avx512vnni") ? isa::path::avx512_vnni : isa::path::avx512;
    return isa::path::avx2;
  }
#endif
  return isa::path::portable;
#endif
}

inline int chosen_path = 0;  // 0: not asked yet. Every thread that asks finds the same

}  // namespace detail

namespace isa {

/// The path that attention takes in this program.
[[nodiscard]] inline path current() noexcept {
#if KVSLIM_DETAIL_KERNELS
  int chosen = __atomic_load_n(&detail::chosen_path, __ATOMIC_RELAXED);
  if (chosen == 0) {
    chosen = static_cast<int>(detail::probe_path());
    __atomic_store_n(&detail::chosen_path, chosen, __ATOMIC_RELAXED);
  }
  return static_cast<path>(chosen);
#else
  return path::portable;
#endif
}

/// For tests and measurements: takes `wanted` from now on, or the best that there is if the
/// processor lacks it; returns what is taken. Units compiled with other flags keep their own.
inline path use(path wanted) noexcept {
#if KVSLIM_DETAIL_KERNELS
  path const best = detail::probe_path();
  bool const has = wanted == path::portable ||
                   (wanted <= best && (wanted == path::neon) == (best == path::neon));
  __atomic_store_n(&detail::chosen_path, static_cast<int>(has ? wanted : best), __ATOMIC_RELAXED);
#else
  static_cast<void>(wanted);
#endif
  return current();
}

}  // namespace isa

KVSLIM_END_NAMESPACE
