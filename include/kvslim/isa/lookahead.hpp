// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// How the CPU kernels fetch what attention reads next.

#include <kvslim/core/codec.hpp>
#include <kvslim/isa/path.hpp>

#if KVSLIM_DETAIL_KERNELS

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Fetches what is read next, some lines at every step of a kernel.
struct lookahead {
  std::byte const* at;
  std::byte const* end;
  index_t lines;

  lookahead(site const& s, index_t steps) noexcept : lookahead(s.next, s.next_bytes, steps) {}
  lookahead(std::byte const* from, index_t bytes, index_t steps) noexcept
      : at(from), end(from + bytes), lines(bytes / 64 / steps + 1) {}
  [[gnu::always_inline]] void fetch() noexcept {
    if (at >= end) return;
    for (index_t i = 0; i < lines; ++i, at += 64) __builtin_prefetch(at);
  }
};
/// The same number of bytes at every step, up to two lines: what is fetched faster than memory
/// gives it makes other loads wait.
struct even_lookahead {
  std::byte const* at;
  std::byte const* end;
  index_t pace;

  even_lookahead(site const& s, index_t steps) noexcept
      : at(s.next), end(s.next + s.next_bytes), pace(div_up(s.next_bytes, steps)) {}
  [[gnu::always_inline]] void fetch() noexcept {
    if (at >= end) return;
    __builtin_prefetch(at);
    if (pace > 64) __builtin_prefetch(at + 64);
    at += pace;
  }
};

}  // namespace detail

KVSLIM_END_NAMESPACE

#endif
