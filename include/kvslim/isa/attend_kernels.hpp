// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// The CPU kernels of attention over the stored forms that ship, and the choice among them. A codec
/// asks for one in its dot or accumulate and runs its plain loop where the answer is no: another
/// processor, another compiler, a shape that no kernel serves.

#include <kvslim/core/codec.hpp>
#include <kvslim/isa/angle_terms.hpp>
#include <kvslim/isa/attend_inputs.hpp>
#include <kvslim/isa/convert.hpp>
#include <kvslim/isa/lookahead.hpp>
#include <kvslim/isa/path.hpp>
#include <kvslim/ops/group_range.hpp>
#include <kvslim/ops/pack.hpp>

#include <cmath>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

#if KVSLIM_DETAIL_KERNELS

#include <kvslim/isa/macros.inc>

/// Calls f(number of heads as a constant) for the numbers that kernels are made for, up to `Most`.
template <index_t Most = run_heads, class F>
inline void by_kernel_heads(index_t heads, F const& f) noexcept {
  switch (heads) {
    case 1:
      return f(std::integral_constant<index_t, 1>{});
    case 2:
      return f(std::integral_constant<index_t, 2>{});
    case 3:
      return f(std::integral_constant<index_t, 3>{});
    case 4:
      return f(std::integral_constant<index_t, 4>{});
    default:
      if constexpr (Most > 4) {
        if (heads == 6) return f(std::integral_constant<index_t, 6>{});
        f(std::integral_constant<index_t, 8>{});
      }
  }
}

#if KVSLIM_DETAIL_NEON
#include <kvslim/isa/neon.inc>
#else
#include <kvslim/isa/avx2.inc>
#include <kvslim/isa/avx512.inc>
#include <kvslim/isa/avx512_vnni.inc>
#endif

#include <kvslim/isa/end_macros.inc>

/// Calls f(kernels, number of heads, first head) until all heads are served; false where there are
/// no kernels. `Digits`: there are kernels that read codes as integers, where they have room.
template <bool Digits = false, class F>
inline bool with_kernels(index_t heads, F const& f,
                         [[maybe_unused]] digit_rows const* room = nullptr) noexcept {
  auto const served = [&](auto kernels) {
    for (index_t h = 0; h < heads;) {
      constexpr index_t at_once[] = {0, 1, 2, 3, 4, 3, 6, 4};
      index_t const left = heads - h, m = left < run_heads ? at_once[left] : run_heads;
      f(kernels, m, h);
      h += m;
    }
    return true;
  };
  switch (isa::current()) {
#if KVSLIM_DETAIL_NEON
    case isa::path::neon:
      return served(neon{});
#else
    case isa::path::avx512_vnni:
      if constexpr (Digits)
        if (room != nullptr) return served(avx512_vnni{});
      [[fallthrough]];
    case isa::path::avx512:
      return served(avx512{});
    case isa::path::avx2:
      if constexpr (Digits)
        return served(avx2_digits{});
      else
        return served(avx2{});
#endif
    default:
      return false;
  }
}

/// Whether kernels read codes as integers; they take several runs at once.
template <int Bits>
[[nodiscard]] inline bool reads_codes([[maybe_unused]] digit_rows const* room) noexcept {
#if KVSLIM_DETAIL_X86
  if constexpr (ops::planar_bits<Bits>)
    return room != nullptr &&
           (isa::current() == isa::path::avx512_vnni || isa::current() == isa::path::avx2);
#endif
  return false;
}

/// Whether there is nothing else than to read them so, and no room for it.
template <int Bits>
[[nodiscard]] inline bool lacks_room([[maybe_unused]] site const& at) noexcept {
#if KVSLIM_DETAIL_X86
  if constexpr (ops::planar_bits<Bits>)
    return at.room == nullptr && isa::current() == isa::path::avx2;
#endif
  return false;
}
/// Calls f(site) with room on the stack, which scratch spares: 6.3 KiB.
template <class F>
[[nodiscard]] KVSLIM_DETAIL_APART bool with_own_room(site at, F const& f) noexcept {
  digit_rows room[static_cast<std::size_t>(own_digit_room)];
  for (digit_rows& x : room) x.from = nullptr;
  at.room = room;
  return f(at);
}

/// K in tiles of 16 tokens, T[dim][16] each.
template <class T>
[[nodiscard]] inline bool dot_tiles(std::byte const* block, site const& at, float const* q,
                                    index_t heads, float* scores) noexcept {
  return with_kernels(heads, [&](auto kernels, index_t m, index_t h) {
    decltype(kernels)::template dot_tiles<T>(array_at<T>(block), at, q + h * at.dim, m,
                                             scores + h * run_tokens);
  });
}
/// V as T[dim], token after token.
template <class T>
[[nodiscard]] inline bool accumulate_rows(std::byte const* block, site const& at, float const* p,
                                          index_t heads, float* out) noexcept {
  return with_kernels(heads, [&](auto kernels, index_t m, index_t h) {
    decltype(kernels)::template accumulate_dense<T>(array_at<T>(block) + at.first * at.dim, at,
                                                    p + h * run_tokens, m, out + h * at.dim);
  });
}
/// K in planar units from the run that holds at.first on: up to that run's end, or whole runs.
/// Parameters are of each token (Tokens), or of each channel.
template <int Bits, bool Tokens, class Param>
[[nodiscard]] inline bool dot_codes_of(key_blocks<Param> const& k, site const& at, float const* q,
                                       index_t heads, float* scores) noexcept {
  if (lacks_room<Bits>(at))
    return with_own_room(
        at, [&](site const& s) { return dot_codes_of<Bits, Tokens>(k, s, q, heads, scores); });
  return with_kernels<ops::planar_bits<Bits>>(
      heads,
      [&](auto kernels, index_t m, index_t h) {
        decltype(kernels)::template dot_runs<Bits, Tokens>(
            k, at, q + h * at.dim, m, scores + h * run_tokens,
            lookahead(at, div_up(at.n, run_tokens) * at.dim / 4));
      },
      at.room);
}
template <int Bits, class Param>
[[nodiscard]] inline bool dot_tokens(key_blocks<Param> const& k, site const& at, float const* q,
                                     index_t heads, float* scores) noexcept {
  return dot_codes_of<Bits, true>(k, at, q, heads, scores);
}
template <int Bits, class Param>
[[nodiscard]] inline bool dot_channels(key_blocks<Param> const& k, site const& at, float const* q,
                                       index_t heads, float* scores) noexcept {
  return dot_codes_of<Bits, false>(k, at, q, heads, scores);
}
/// V in planar units. Groups that are not whole vectors of channels are not served.
template <int Bits, class Param>
[[nodiscard]] inline bool accumulate_blocks(value_blocks const& v, site const& at, float const* p,
                                            index_t heads, float* out) noexcept {
  if (v.group % 16 != 0 && v.group != v.dim) return false;
  if (lacks_room<Bits>(at))
    return with_own_room(
        at, [&](site const& s) { return accumulate_blocks<Bits, Param>(v, s, p, heads, out); });
  bool const together = reads_codes<Bits>(at.room) && v.first == 0 && v.n % run_tokens == 0;
  index_t const most = together ? v.n : run_tokens;
  for (index_t begin = 0; begin < v.n; begin += most) {
    // Kernels take eight blocks, which more than a run begun inside of a block may touch.
    index_t const n = min(most, v.n - begin);
    value_blocks head = v, rest = v;
    head.block += begin / 4 * v.block_bytes;
    head.n = together ? n : min(n, run_tokens - v.first);
    rest.block = head.block + run_tokens / 4 * v.block_bytes;
    rest.first = 0;
    rest.n = n - head.n;
    float const* const weights = p + begin / run_tokens * at.apart;
    std::byte const* ahead = at.next;  // its share of what is read next
    index_t ahead_bytes = at.next_bytes;
    if (!together) {
      ahead_bytes = at.next_bytes * n / v.n;
      if (at.next != nullptr) ahead += at.next_bytes * begin / v.n;
    }
    auto const run = [&](auto kernels, index_t m, index_t h) {
      using isa = decltype(kernels);
      lookahead const next(ahead, ahead_bytes, (n + 3) / 4 * (v.dim / 32 + 1));
      isa::template accumulate_planar<Bits, Param>(head, at, weights + h * run_tokens, m,
                                                   out + h * v.dim, next);
      if (rest.n > 0)
        isa::template accumulate_planar<Bits, Param>(rest, at, weights + h * run_tokens + head.n, m,
                                                     out + h * v.dim, next);
    };
    if (!with_kernels<ops::planar_bits<Bits>>(heads, run, at.room)) return false;
  }
  return true;
}
template <class Format>
[[nodiscard]] consteval bool has_block_digits() noexcept {
  if constexpr (Format::float_codes)
    return false;
  else
    return Format::bits != 5;
}
/// Calls f(kernels, heads, first head) with kernels that read rows of such blocks as integers: of
/// whole runs, digit_channels tokens at most, where the processor has more products of integers
/// than of floats. False: nothing was done.
template <class Format, class F>
[[nodiscard]] inline bool with_block_digits([[maybe_unused]] site const& at,
                                            [[maybe_unused]] index_t heads,
                                            [[maybe_unused]] F const& f) noexcept {
#if KVSLIM_DETAIL_X86
  if constexpr (has_block_digits<Format>()) {
    bool const pays = isa::current() == isa::path::avx512_vnni ||
                      (isa::current() == isa::path::avx2 && at.precision == attend_precision::fast);
    return pays && at.room != nullptr && at.n % run_tokens == 0 && at.n <= digit_channels &&
           with_kernels<true>(
               heads,
               [&](auto kernels, index_t m, index_t h) {
                 if constexpr (requires { typename decltype(kernels)::plain; }) f(kernels, m, h);
               },
               at.room);
  }
#endif
  return false;
}
/// K as rows of ggml's blocks, whole runs; Format: codec/ggml_block.hpp.
template <class Format>
[[nodiscard]] inline bool dot_blocks(std::byte const* block, index_t row_bytes, site const& at,
                                     float const* q, index_t heads, float* scores) noexcept {
  return with_block_digits<Format>(at, heads, [&](auto kernels, index_t m, index_t h) {
    decltype(kernels)::template dot_blocks<Format>(
        block, row_bytes, at, q + h * at.dim, m, scores + h * run_tokens,
        lookahead(at, at.dim / 32 * (at.n / run_tokens) * 8));
  });
}
/// V as rows of ggml's blocks, whole runs.
template <class Format>
[[nodiscard]] inline bool accumulate_block_rows(std::byte const* block, index_t row_bytes,
                                                site const& at, float const* p, index_t heads,
                                                float* out) noexcept {
  return with_block_digits<Format>(at, heads, [&](auto kernels, index_t m, index_t h) {
    decltype(kernels)::template accumulate_blocks<Format>(block, row_bytes, at, p + h * run_tokens,
                                                          m, out + h * at.dim,
                                                          lookahead(at, at.dim / 32 * (at.n / 4)));
  });
}
/// K as rows of ggml's blocks; Format: codec/ggml_block.hpp.
template <class Format>
[[nodiscard]] inline bool dot_rows(std::byte const* block, index_t row_bytes, site const& at,
                                   float const* q, index_t heads, float* scores) noexcept {
  return with_kernels(heads, [&](auto kernels, index_t m, index_t h) {
    lookahead const next(at, at.n);
    by_kernel_heads(m, [&](auto count) {
      decltype(kernels)::template dot_block_rows<Format, decltype(count)::value>(
          block, row_bytes, at.dim, at.n, q + h * at.dim, scores + h * run_tokens, next);
    });
  });
}
/// V as rows of ggml's blocks.
template <class Format>
[[nodiscard]] inline bool add_rows(std::byte const* block, index_t row_bytes, site const& at,
                                   float const* p, index_t heads, float* out) noexcept {
  return with_kernels(heads, [&](auto kernels, index_t m, index_t h) {
    lookahead const next(at, at.n * (at.dim / 32));
    by_kernel_heads(m, [&](auto count) {
      decltype(kernels)::template add_block_rows<Format, decltype(count)::value>(
          block, row_bytes, at.dim, at.n, p + h * run_tokens, out + h * at.dim, next);
    });
  });
}
/// top * unit * 2^(-s / 4) for the 32 numbers s of 5 bits that `scales` holds.
[[nodiscard]] inline bool steps_of_run(std::uint8_t const* scales, float top, float unit,
                                       float* steps) noexcept {
  return with_kernels(1, [&](auto kernels, index_t, index_t) {
    decltype(kernels)::steps_of_run(scales, top, unit, steps);
  });
}
/// Adds q[h] . row to the logits of all tokens of the site.
[[nodiscard]] inline bool dot_row(f16 const* row, site const& at, float const* q, index_t heads,
                                  float* scores) noexcept {
  return with_kernels(heads, [&](auto kernels, index_t m, index_t h) {
    decltype(kernels)::dot_row(row, at, q + h * at.dim, m, scores + h * run_tokens);
  });
}
/// Adds row once for each token of the site, with its weight.
[[nodiscard]] inline bool add_row(f16 const* row, site const& at, float const* p, index_t heads,
                                  float* out) noexcept {
  return with_kernels(heads, [&](auto kernels, index_t m, index_t h) {
    decltype(kernels)::add_row(row, at, p + h * run_tokens, m, out + h * at.dim);
  });
}
/// V in planar units of one run of 32 tokens, parameters per token; `apart` bytes from four tokens
/// to the next.
template <int Bits>
[[nodiscard]] inline bool accumulate_run(std::uint8_t const* codes, index_t apart,
                                         float const* scale, float const* low, site const& at,
                                         float const* p, index_t heads, float* out) noexcept {
  return with_kernels(heads, [&](auto kernels, index_t m, index_t h) {
    decltype(kernels)::template accumulate_run<Bits>(
        codes, apart, scale, low, at, p + h * run_tokens, m, out + h * at.dim,
        lookahead(at, (at.n + 3) / 4 * (at.dim / 32 + 1)));
  });
}
/// Calls f(rows, first, n) for the site's tokens as floats, as many at a time as a buffer holds;
/// false where there are no kernels.
template <class T, class F>
[[nodiscard]] inline bool by_expanded(std::byte const* block, sparse_shape const& s, site const& at,
                                      F const& f) noexcept {
  constexpr index_t most = 4 * sparse_shape::most_dim;
  alignas(64) local<float, most + 32> rows;  // vectors may end behind the last row
  std::byte const* const end = block + at.n * s.block_bytes;
  lookahead next(at, at.n);
  for (index_t i = 0; i < at.n;) {
    index_t const n = min(at.n - i, most / s.dim);
    if (!with_kernels(1, [&](auto kernels, index_t, index_t) {
          decltype(kernels)::template expand_rows<T>(block + i * s.block_bytes, end, s, n, rows,
                                                     next);
        }))
      return false;
    f(rows, i, n);
    i += n;
  }
  return true;
}
/// K as rows of which some channels are stored.
template <class T>
[[nodiscard]] inline bool dot_sparse(std::byte const* block, sparse_shape const& s, site const& at,
                                     float const* q, index_t heads, float* scores) noexcept {
  return by_expanded<T>(block, s, at, [&](float const* rows, index_t first, index_t n) {
    static_cast<void>(with_kernels(heads, [&](auto kernels, index_t m, index_t h) {
      by_kernel_heads(m, [&](auto count) {
        decltype(kernels)::template dot_floats<decltype(count)::value>(
            rows, s.dim, n, q + h * s.dim, scores + h * run_tokens + first);
      });
    }));
  });
}
/// V as rows of which some channels are stored.
template <class T>
[[nodiscard]] inline bool add_sparse(std::byte const* block, sparse_shape const& s, site const& at,
                                     float const* p, index_t heads, float* out) noexcept {
  return by_expanded<T>(block, s, at, [&](float const* rows, index_t first, index_t n) {
    site const part{.n = n, .dim = s.dim};
    static_cast<void>(with_kernels(heads, [&](auto kernels, index_t m, index_t h) {
      decltype(kernels)::accumulate_dense(static_cast<float const*>(rows), part,
                                          p + h * run_tokens + first, m, out + h * s.dim);
    }));
  });
}
/// K as values that codes stand for.
template <int Bits>
[[nodiscard]] inline bool dot_levels(level_codes const& c, site const& at, float const* q,
                                     index_t heads, float* scores) noexcept {
  return with_kernels(heads, [&](auto kernels, index_t m, index_t h) {
    decltype(kernels)::template dot_levels<Bits>(
        c, at, q + h * c.stride, m, scores + h * run_tokens, lookahead(at, at.dim / 4));
  });
}
/// V as values that codes stand for.
template <int Bits>
[[nodiscard]] inline bool add_levels(level_codes const& c, site const& at, float const* p,
                                     index_t heads, float* out) noexcept {
  return with_kernels(heads, [&](auto kernels, index_t m, index_t h) {
    decltype(kernels)::template add_levels<Bits>(c, at, p + h * run_tokens, m, out + h * c.stride,
                                                 lookahead(at, (at.n + 3) / 4 * (at.dim / 32 + 1)));
  });
}
/// V as values that codes stand for, in blocks of four tokens: tokens [0, 4 * quads) weigh
/// weights[h][32], and every channel of a head gets base[h].
template <int Bits>
[[nodiscard]] inline bool add_level_blocks(level_codes const& c, index_t quads, index_t dim,
                                           float const* weights, float const* base, index_t heads,
                                           float* out) noexcept {
  return with_kernels(heads, [&](auto kernels, index_t m, index_t h) {
    lookahead next({}, 1);
    decltype(kernels)::template add_weighted_levels<Bits>(
        c, 0, quads, dim, weights + h * run_tokens, base + h, m, out + h * c.stride, next);
  });
}
/// The weights e^(x - high) of the logits x[run][head][run_tokens], of sizes[run] tokens, in place,
/// where high[h] becomes the largest of itself and them; their sums. Fetches from `next` on.
[[nodiscard]] inline bool soften(float* x, index_t runs, index_t heads, index_t const* sizes,
                                 float* high, float* sum,
                                 std::byte const* next = nullptr) noexcept {
  return with_kernels(1, [&](auto kernels, index_t, index_t) {
    decltype(kernels)::soften(x, runs, heads, sizes, high, sum, next);
  });
}

#else

template <class T, class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool dot_tiles(Args const&...) noexcept {
  return false;
}
template <class T, class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool accumulate_rows(Args const&...) noexcept {
  return false;
}
template <int Bits, class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool dot_tokens(Args const&...) noexcept {
  return false;
}
template <int Bits, class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool dot_channels(Args const&...) noexcept {
  return false;
}
template <int Bits, class Param, class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool accumulate_blocks(Args const&...) noexcept {
  return false;
}
template <class Format, class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool dot_blocks(Args const&...) noexcept {
  return false;
}
template <class Format, class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool accumulate_block_rows(Args const&...) noexcept {
  return false;
}
template <class Format, class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool dot_rows(Args const&...) noexcept {
  return false;
}
template <class Format, class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool add_rows(Args const&...) noexcept {
  return false;
}
[[nodiscard]] KVSLIM_HD constexpr bool steps_of_run(std::uint8_t const*, float, float,
                                                    float*) noexcept {
  return false;
}
template <class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool dot_row(Args const&...) noexcept {
  return false;
}
template <class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool add_row(Args const&...) noexcept {
  return false;
}
template <int Bits, class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool accumulate_run(Args const&...) noexcept {
  return false;
}
template <class T, class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool dot_sparse(Args const&...) noexcept {
  return false;
}
template <class T, class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool add_sparse(Args const&...) noexcept {
  return false;
}
template <int Bits, class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool dot_levels(Args const&...) noexcept {
  return false;
}
template <int Bits, class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool add_levels(Args const&...) noexcept {
  return false;
}
template <int Bits, class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool add_level_blocks(Args const&...) noexcept {
  return false;
}
template <class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool soften(Args const&...) noexcept {
  return false;
}

#endif

}  // namespace detail

KVSLIM_END_NAMESPACE
