// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// How the CPU kernels fetch what attention reads next.

#include <kvslim/core/codec.hpp>
#include <kvslim/isa/path.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// How many bytes ahead of what dense rows read memory is asked for; what codes read next is asked
/// for whole.
inline constexpr index_t fetch_lead = 49152;

#if KVSLIM_DETAIL_KERNELS

/// Asks for a line, into the second cache: the first has room for few, and more of them at once are
/// on their way to the second.
[[gnu::always_inline]] inline void fetch_line(std::byte const* at) noexcept {
  __builtin_prefetch(at, 0, 2);
}

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
    fetch_line(at);
    for (index_t i = 1; i < lines; ++i) fetch_line(at + i * 64);
    at += lines * 64;
  }
};
/// Fetches at an even pace what lies fetch_lead bytes ahead of what is read: the rest of what a
/// kernel is called for, of which `more` bytes than that are fetched, then the begin of what is
/// read next. Bursts make other loads wait.
struct even_lookahead {
  std::byte const* at;
  std::byte const* end;
  std::byte const* then;
  std::byte const* then_end;
  index_t pace;

  even_lookahead() noexcept : even_lookahead(nullptr, 0, {}, 1) {}
  even_lookahead(void const* own, index_t bytes, site const& s, index_t steps,
                 index_t more = 0) noexcept
      : end(static_cast<std::byte const*>(own) + bytes),
        then(s.next),
        then_end(s.next + min(fetch_lead, s.next_bytes)) {
    at = end - max(bytes - fetch_lead - more, 0);
    pace = div_up(end - at + (then_end - then), steps);
  }
  /// What so many steps ask for.
  [[gnu::always_inline]] void fetch(index_t count) noexcept {
    if (at >= end) {
      if (then == then_end) return;
      at = then;
      end = then = then_end;
    }
    index_t const bytes = count * pace;
    fetch_line(at);
    if (bytes > 64) fetch_line(at + 64);
    if (bytes > 128) {
      fetch_line(at + 128);
      fetch_line(at + 192);
    }
    at += bytes;
  }
};

#endif

}  // namespace detail

KVSLIM_END_NAMESPACE
