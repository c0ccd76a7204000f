// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Subnormal floats as zero, which engines may ask of a processor.

#include <cstdint>

#if defined(__SSE2__) || defined(__aarch64__)
#define KVSLIM_TESTS_CAN_FLUSH 1
#else
#define KVSLIM_TESTS_CAN_FLUSH 0
#endif

#if KVSLIM_TESTS_CAN_FLUSH
namespace data {

/// While one lives, subnormal floats are zero, read or written.
class flushed {
 public:
  flushed() { set(before_ | flushes); }
  ~flushed() { set(before_); }
  flushed(flushed const&) = delete;
  flushed& operator=(flushed const&) = delete;

 private:
#if defined(__SSE2__)
  using control = unsigned;
  static constexpr control flushes = 0x8040;
  static control get() { return __builtin_ia32_stmxcsr(); }
  static void set(control x) { __builtin_ia32_ldmxcsr(x); }
#else
  using control = std::uint64_t;
  static constexpr control flushes = control{1} << 24;
  static control get() {
    control x;
    asm volatile("mrs %0, fpcr" : "=r"(x) : : "memory");
    return x;
  }
  static void set(control x) { asm volatile("msr fpcr, %0" : : "r"(x) : "memory"); }
#endif
  control before_ = get();
};

}  // namespace data
#endif
