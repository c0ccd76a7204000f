// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// The CPU kernels of scoring, and the choice among them. What asks for one runs its plain loop
/// where the answer is no: another processor, another compiler.

#include <kvslim/core/channels.hpp>
#include <kvslim/core/codec.hpp>
#include <kvslim/isa/path.hpp>

#include <cmath>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Rows of whole lines of 64 bytes, where they lie and where they go.
struct moved_rows {
  std::byte const* from;
  std::byte* to;
  index_t from_step, to_step, bytes;
};

#if KVSLIM_DETAIL_KERNELS

#include <kvslim/isa/macros.inc>

#if KVSLIM_DETAIL_NEON
#define KVSLIM_ISA_TARGET gnu::nothrow
#define KVSLIM_ISA_WIDTH 4
#define KVSLIM_ISA_REGISTERS 32
struct score_neon {
#include <kvslim/isa/score_kernels.inc>
#include <kvslim/isa/select_kernels.inc>
};
#undef KVSLIM_ISA_TARGET
#undef KVSLIM_ISA_WIDTH
#undef KVSLIM_ISA_REGISTERS
#else
#define KVSLIM_ISA_TARGET gnu::target("avx2,fma,f16c")
#define KVSLIM_ISA_WIDTH 8
#define KVSLIM_ISA_REGISTERS 16
struct score_avx2 {
#include <kvslim/isa/score_kernels.inc>
#include <kvslim/isa/select_kernels.inc>
};
#undef KVSLIM_ISA_TARGET
#undef KVSLIM_ISA_WIDTH
#undef KVSLIM_ISA_REGISTERS

#define KVSLIM_ISA_TARGET gnu::target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")
#define KVSLIM_ISA_WIDTH 16
#define KVSLIM_ISA_REGISTERS 32
struct score_avx512 {
#include <kvslim/isa/score_kernels.inc>
#include <kvslim/isa/select_kernels.inc>
};
#undef KVSLIM_ISA_TARGET
#undef KVSLIM_ISA_WIDTH
#undef KVSLIM_ISA_REGISTERS
#endif

#include <kvslim/isa/end_macros.inc>

/// Calls f(kernels); false where there are none.
template <class F>
[[nodiscard]] inline bool with_score_kernels(F const& f) noexcept {
  switch (isa::current()) {
#if KVSLIM_DETAIL_NEON
    case isa::path::neon:
      f(score_neon{});
      return true;
#else
    case isa::path::avx512_vnni:
    case isa::path::avx512:
      f(score_avx512{});
      return true;
    case isa::path::avx2:
      f(score_avx2{});
      return true;
#endif
    default:
      return false;
  }
}

#else

template <class F>
[[nodiscard]] constexpr bool with_score_kernels(F const&) noexcept {
  return false;
}

#endif

/// Reads a K or V row, anything with load(), as floats.
template <class Row>
inline void load_by_kernel(Row const& from, float* out) noexcept {
  from.load(out);
}
template <class T>
inline void load_by_kernel(channel_range<T> const& from, float* out) noexcept {
  if (from.stride() != 1 || !with_score_kernels([&](auto kernels) {
        decltype(kernels)::template widen_row<T>(from.first(), from.size(), out);
      }))
    from.load(out);
}

/// Fetches what such a row will read.
template <class Row>
inline void prefetch_row(Row const&) noexcept {}
#if defined(__GNUC__)
template <class T>
inline void prefetch_row(channel_range<T> const& from) noexcept {
  auto const* const bytes = reinterpret_cast<std::byte const*>(from.first());
  index_t const size = from.stride() == 1 ? from.size() * static_cast<index_t>(sizeof(T)) : 1;
  for (index_t i = 0; i < size; i += 64) __builtin_prefetch(bytes + i);
}
#endif

}  // namespace detail

KVSLIM_END_NAMESPACE
