// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// The CPU kernels of coding, chosen as those of attention are: a codec asks for one at the top of
/// its encode and runs its plain loop where the answer is no. What is stored is the same to the
/// bit. A codec without kernels has nothing to say.

#include <kvslim/isa/attend_kernels.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

#if KVSLIM_DETAIL_KERNELS

/// Calls f(kernels) if there are any for rows of dim channels, `vectors` or more of them; false
/// where there are not.
template <class F>
inline bool with_encoders(index_t dim, F const& f, index_t vectors = 1) noexcept {
  auto const fits = [&](index_t width) { return dim % width == 0 && dim >= vectors * width; };
  switch (isa::current()) {
#if KVSLIM_DETAIL_NEON
    case isa::path::neon:
      return fits(neon::width) ? (f(neon{}), true) : false;
#else
    case isa::path::avx512_vnni:  // the same
    case isa::path::avx512:
      if (fits(avx512::width)) return f(avx512{}), true;
      [[fallthrough]];
    case isa::path::avx2:
      return fits(avx2::width) ? (f(avx2{}), true) : false;
#endif
    default:
      return false;
  }
}

/// Brings memory near that is written next: lines that kernels write in no order are waited for one
/// by one. It may end before what was asked for.
inline void fetch_to_write(std::byte* at, index_t bytes) noexcept {
  for (index_t i = 0; i < bytes; i += 64) __builtin_prefetch(at + i, 1);
}

/// Whether there are kernels for codes of so many bits with such parameters.
template <int Bits, class Param>
inline constexpr bool has_encoder = std::same_as<Param, f16>&& ops::planar_bits<Bits>&& Bits > 1;

// Rows are T side by side; those of T but float hold finite values.

/// K of 32 tokens into a block, parameters per token.
template <int Bits, class T, class Param>
[[nodiscard]] inline bool encode_tokens(T const* rows, site const& at, std::uint8_t* codes,
                                        Param* scale, Param* low) noexcept {
  if constexpr (has_encoder<Bits, Param>)
    return at.dim >= 32 && with_encoders(
                               at.dim,
                               [&](auto kernels) {
                                 decltype(kernels)::template encode_tokens<Bits>(
                                     rows, at.dim, codes, scale, low,
                                     lookahead(at, run_tokens * (1 + at.dim / 64)));
                               },
                               4);
  return false;
}
/// K of `group` tokens into a block, parameters per channel.
template <int Bits, class T, class Param>
[[nodiscard]] inline bool encode_channels(T const* rows, index_t group, site const& at,
                                          std::uint8_t* codes, Param* scale, Param* low) noexcept {
  if constexpr (has_encoder<Bits, Param>)
    return with_encoders(
        at.dim,
        [&](auto kernels) {
          decltype(kernels)::template encode_channels<Bits>(
              rows, group, at.dim, codes, scale, low, lookahead(at, group * (at.dim / 32 + 1)));
        },
        4);
  return false;
}
/// V of n tokens into whole blocks of four, parameters (of type Param, behind the codes) per token
/// and `group` channels, of which there is room for a block of 32.
template <int Bits, class Param, class T>
[[nodiscard]] inline bool encode_values(T const* rows, site const& at, index_t group,
                                        std::byte* block, index_t code_bytes) noexcept {
  if constexpr (has_encoder<Bits, Param>)
    return group >= 32 && at.dim <= 32 * group && with_encoders(group, [&](auto kernels) {
             decltype(kernels)::template encode_values<Bits>(
                 rows, at.n, at.dim, group, block, code_bytes,
                 lookahead(at, at.n * (at.dim / group + at.dim / 128 + 1)));
           });
  return false;
}
/// Whole rows as blocks of 32 channels.
template <class Format, class T>
[[nodiscard]] inline bool encode_block_rows(T const* rows, site const& at,
                                            std::byte* out) noexcept {
  index_t const blocks = at.n * at.dim / 32;
  return with_encoders(32, [&](auto kernels) {
    decltype(kernels)::template encode_block_rows<Format>(rows, blocks, out, lookahead(at, blocks));
  });
}
inline constexpr index_t most_rotated = 1024;  ///< channels of a row that kernels rotate

/// Rows times Sylvester's matrix of n channels, a power of two; flips(d): whether channel d changes
/// its sign.
template <class Flips>
[[nodiscard]] inline bool rotate_rows(float* x, index_t rows, index_t n, Flips const& flips,
                                      float scale, bool back) noexcept {
  return n <= most_rotated && with_encoders(n, [&](auto kernels) {
           alignas(64) local<std::uint32_t, most_rotated> signs;
           for (index_t d = 0; d < n; ++d) signs[d] = flips(d) ? 0x80000000u : 0u;
           decltype(kernels)::rotate_rows(x, rows, n, signs, scale, back);
         });
}
/// The squared errors of a row in levels of each of eight positive steps.
[[nodiscard]] inline bool errors_of_steps(float const* x, index_t dim, float const* steps,
                                          float half, float most, double* errors) noexcept {
  return with_encoders(run_tokens, [&](auto kernels) {
    decltype(kernels)::errors_of_steps(x, dim, steps, half, most, errors);
  });
}
/// mean += (x - mean) * share.
[[nodiscard]] inline bool move_mean(float const* x, index_t dim, float share,
                                    float* mean) noexcept {
  return with_encoders(dim,
                       [&](auto kernels) { decltype(kernels)::move_mean(x, dim, share, mean); });
}
/// x -= mean; `most` becomes the largest magnitude of what is left.
[[nodiscard]] inline bool take_mean(float* x, index_t dim, f16 const* mean, float& most) noexcept {
  return with_encoders(dim,
                       [&](auto kernels) { most = decltype(kernels)::take_mean(x, dim, mean); });
}
/// A row of 4-bit floats with a scale for each `Scaled` channels, which open() stores.
template <index_t Scaled, class Open>
[[nodiscard]] inline bool encode_fp4_row(float const* x, index_t dim, bool even,
                                         Open const& open) noexcept {
  return with_encoders(dim, [&](auto kernels) {
    decltype(kernels)::template encode_fp4_row<Scaled>(x, dim, even, open);
  });
}
/// K of 16 tokens as T[dim][16].
template <class T>
[[nodiscard]] inline bool encode_tile(float const* rows, index_t dim, T* out) noexcept {
  return with_encoders(
      dim, [&](auto kernels) { decltype(kernels)::template encode_tile<T>(rows, dim, out); });
}
/// K of 16 tokens of T as T[dim][16].
template <class T>
[[nodiscard]] inline bool turn_tile(T const* rows, site const& at, T* out) noexcept {
  if constexpr (std::same_as<T, float>) {
    return encode_tile(rows, at.dim, out);
  } else if constexpr (sizeof(T) == 2) {
    return at.dim % 32 == 0 && with_encoders(at.dim, [&](auto kernels) {
             decltype(kernels)::turn_tile(rows, at.dim, out, lookahead(at, at.dim / 4));
           });
  }
  return false;
}
/// Whole rows as they are.
template <class T>
[[nodiscard]] inline bool copy_rows(T const* rows, site const& at, std::byte* out) noexcept {
  index_t const bytes = at.n * at.dim * static_cast<index_t>(sizeof(T));
  return bytes % 64 == 0 && with_encoders(bytes, [&](auto kernels) {
           decltype(kernels)::copy_lines(rows, bytes, out, lookahead(at, bytes / 64));
         });
}
/// n floats as T.
template <class T>
[[nodiscard]] inline bool narrow_run(float const* in, index_t n, T* out) noexcept {
  return with_encoders(
      n, [&](auto kernels) { decltype(kernels)::template narrow_run<T>(in, n, out); });
}
/// n floats over a divisor as T.
template <class T>
[[nodiscard]] inline bool narrow_quotients(float const* in, index_t n, float divisor,
                                           T* out) noexcept {
  return with_encoders(n, [&](auto kernels) {
    decltype(kernels)::template narrow_quotients<T>(in, n, divisor, out);
  });
}
/// The largest magnitude of n floats; NaN has none.
[[nodiscard]] inline bool largest_size(float const* in, index_t n, float& most) noexcept {
  return with_encoders(n, [&](auto kernels) { most = decltype(kernels)::largest_size(in, n); });
}
/// n rows of T as floats, [n, dim]; row_at(i) is where the channels of row i lie, of `there` rows
/// that will be read.
template <class T, class RowAt>
[[nodiscard]] inline bool widen_rows(RowAt const& row_at, index_t n, index_t there, index_t dim,
                                     float* out) noexcept {
  return with_encoders(dim, [&](auto kernels) {
    decltype(kernels)::template widen_rows<T>(row_at, n, there, dim, out);
  });
}
/// n values of T as floats.
template <class T>
[[nodiscard]] inline bool widen_run(T const* in, index_t n, float* out) noexcept {
  return with_encoders(n,
                       [&](auto kernels) { decltype(kernels)::template widen_run<T>(in, n, out); });
}
/// n values times `by`.
[[nodiscard]] inline bool scale_run(float* x, index_t n, float by) noexcept {
  return with_encoders(n, [&](auto kernels) { decltype(kernels)::scale_run(x, n, by); });
}
/// Whether no value of n rows exceeds `limit` in magnitude, or is NaN, in `good`.
template <class T, class RowAt>
[[nodiscard]] inline bool rows_within(RowAt const& row_at, index_t n, index_t dim, float limit,
                                      bool& good) noexcept {
  if constexpr (sizeof(T) > 1) {
    // The largest value of T that is finite and not above the limit, as bits.
    std::uint32_t most =
        bit_cast<std::uint32_t>(largest_finite<T>() < limit ? largest_finite<T>() : limit);
    if constexpr (sizeof(T) == 2) {
      T held = from_float<T>(bit_cast<float>(most));
      if (to_float(held) > limit) --held.bits;
      most = held.bits;
    }
    return with_encoders(dim, [&](auto kernels) {
      good = decltype(kernels)::template rows_within<T>(row_at, n, dim, most);
    });
  }
  return false;
}

/// The same of n values side by side.
template <class T>
[[nodiscard]] inline bool run_within(T const* in, index_t n, float limit, bool& good) noexcept {
  constexpr index_t once = 512;
  if (n % once != 0) return rows_within<T>([&](index_t) { return in; }, 1, n, limit, good);
  return rows_within<T>([&](index_t i) { return in + i * once; }, n / once, once, limit, good);
}

/// Of a row of dim channels the `kept` that are largest in magnitude, of equal ones the earlier:
/// their bits, and their values side by side, behind which there is room for sixteen.
[[nodiscard]] inline bool keep_largest(float const* x, index_t dim, index_t kept,
                                       std::uint32_t* mask, float* values) noexcept {
  return dim <= sparse_shape::most_dim && with_encoders(dim, [&](auto kernels) {
           decltype(kernels)::keep_largest(x, dim, kept, mask, values);
         });
}

/// f(), a plain loop, compiled for the processor's instructions; false where nothing was done. For
/// loops that round the same whatever they are compiled for.
template <class F>
[[nodiscard]] inline bool with_instructions(F const& f) noexcept {
  return with_encoders(run_tokens, [&](auto kernels) { decltype(kernels)::compiled(f); });
}

#else

[[nodiscard]] KVSLIM_HD constexpr bool keep_largest(float const*, index_t, index_t, std::uint32_t*,
                                                    float*) noexcept {
  return false;
}
KVSLIM_HD constexpr void fetch_to_write(std::byte*, index_t) noexcept {}
template <class F>
[[nodiscard]] KVSLIM_HD constexpr bool with_instructions(F const&) noexcept {
  return false;
}
template <int Bits, class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool encode_tokens(Args const&...) noexcept {
  return false;
}
template <int Bits, class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool encode_channels(Args const&...) noexcept {
  return false;
}
template <int Bits, class Param, class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool encode_values(Args const&...) noexcept {
  return false;
}
template <class Format, class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool encode_block_rows(Args const&...) noexcept {
  return false;
}
template <class Flips>
[[nodiscard]] KVSLIM_HD constexpr bool rotate_rows(float*, index_t, index_t, Flips const&, float,
                                                   bool) noexcept {
  return false;
}
[[nodiscard]] KVSLIM_HD constexpr bool errors_of_steps(float const*, index_t, float const*, float,
                                                       float, double*) noexcept {
  return false;
}
[[nodiscard]] KVSLIM_HD constexpr bool move_mean(float const*, index_t, float, float*) noexcept {
  return false;
}
[[nodiscard]] KVSLIM_HD constexpr bool take_mean(float*, index_t, f16 const*, float&) noexcept {
  return false;
}
template <index_t Scaled, class Open>
[[nodiscard]] KVSLIM_HD constexpr bool encode_fp4_row(float const*, index_t, bool,
                                                      Open const&) noexcept {
  return false;
}
template <class T>
[[nodiscard]] KVSLIM_HD constexpr bool encode_tile(float const*, index_t, T*) noexcept {
  return false;
}
template <class T>
[[nodiscard]] KVSLIM_HD constexpr bool turn_tile(T const*, site const&, T*) noexcept {
  return false;
}
template <class T>
[[nodiscard]] KVSLIM_HD constexpr bool copy_rows(T const*, site const&, std::byte*) noexcept {
  return false;
}
template <class T>
[[nodiscard]] KVSLIM_HD constexpr bool narrow_run(float const*, index_t, T*) noexcept {
  return false;
}
template <class T>
[[nodiscard]] KVSLIM_HD constexpr bool narrow_quotients(float const*, index_t, float, T*) noexcept {
  return false;
}
[[nodiscard]] KVSLIM_HD constexpr bool largest_size(float const*, index_t, float&) noexcept {
  return false;
}
template <class T>
[[nodiscard]] KVSLIM_HD constexpr bool widen_run(T const*, index_t, float*) noexcept {
  return false;
}
[[nodiscard]] KVSLIM_HD constexpr bool scale_run(float*, index_t, float) noexcept { return false; }
template <class T>
[[nodiscard]] KVSLIM_HD constexpr bool run_within(T const*, index_t, float, bool&) noexcept {
  return false;
}
template <class T, class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool widen_rows(Args const&...) noexcept {
  return false;
}
template <class T, class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool rows_within(Args const&...) noexcept {
  return false;
}

#endif

/// f(), a plain loop, compiled for the processor's instructions where there are kernels; what it
/// finds is the same but for rounding.
template <class F>
KVSLIM_HD inline void by_instructions(F const& f) noexcept {
  if (!with_instructions(f)) f();
}

}  // namespace detail

KVSLIM_END_NAMESPACE
