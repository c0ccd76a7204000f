// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// The floor that attention is compared with: how fast a thread reads memory.

#include <kvslim/isa/path.hpp>

#include <cstddef>
#include <cstdint>

namespace bench {

using words4 [[gnu::vector_size(32), gnu::may_alias]] = std::uint64_t;

/// Sums memory with eight independent vectors and what is ahead fetched early: as fast as one
/// thread reads, whatever the flags of this program.
#if defined(__x86_64__)
[[gnu::target("avx2")]]
#endif
inline std::uint64_t
wide_read(std::byte const* data, std::size_t bytes) {
  auto const* const in = reinterpret_cast<words4 const*>(data);
  words4 a{}, b{}, c{}, d{}, e{}, f{}, g{}, h{};
  for (std::size_t i = 0; i + 8 <= bytes / 32; i += 8) {
    for (std::size_t line = 0; line < 4; ++line)
      __builtin_prefetch(data + i * 32 + 4096 + line * 64);
    a += in[i];
    b += in[i + 1];
    c += in[i + 2];
    d += in[i + 3];
    e += in[i + 4];
    f += in[i + 5];
    g += in[i + 6];
    h += in[i + 7];
  }
  a = ((a + b) + (c + d)) + ((e + f) + (g + h));
  return a[0] + a[1] + a[2] + a[3];
}
inline std::uint64_t narrow_read(std::byte const* data, std::size_t bytes) {
  auto const* const words = reinterpret_cast<std::uint64_t const*>(data);
  std::uint64_t sum[64] = {};
  for (std::size_t i = 0; i + 64 <= bytes / 8; i += 64)
    for (std::size_t j = 0; j < 64; ++j) sum[j] += words[i + j];
  std::uint64_t all = 0;
  for (auto s : sum) all += s;
  return all;
}
/// The sum of memory, by whichever is the faster.
inline std::uint64_t plain_read(std::byte const* data, std::size_t bytes) {
  static bool const wide = kvslim::detail::probe_path() != kvslim::isa::path::portable;
  return wide ? wide_read(data, bytes) : narrow_read(data, bytes);
}

}  // namespace bench
