// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Affine codes, which the integer codecs are made of: a group of values shares a scale and a
/// minimum, and x ~ code * scale + low.
///
/// The parameters are stored as f16, bf16 or float. The error is at most half a stored step (an
/// eighth of a step more at the upper end of 8-bit groups with f16 parameters); a group of equal
/// values is known to half an ulp of its parameters' type. A step is the group's span / (2^bits -
/// 1), but
/// - with f16 never below 2^-24: groups that span less are known to 2^-24 absolutely, however small
///   their values are;
/// - with f16 and bf16 never much below an ulp of the group's values / (2^bits - 1): where rounding
///   would move the minimum by more than half a step it is rounded down, and the step grows to
///   cover the difference;
/// - with bf16 and float never below 2^-125, so that nothing depends on whether subnormal floats
///   are flushed to zero. A group that spans less than the smallest normal float is one value.
///
/// Fidelity: affine variant A1 (float minimum, ties to even); a group of equal values stores scale
/// 0 and codes 0.

#include <kvslim/core/elements.hpp>
#include <kvslim/core/status.hpp>
#include <kvslim/isa/convert.hpp>
#include <kvslim/ops/group_range.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Where intermediate results of a quantizer are rounded. `precise`: float arithmetic with the
/// stored parameters. `authors`: inputs, subtractions and divisions round to f16, as a
/// half-precision tensor library does (bit parity); only with f16 parameters.
enum class rounding : std::uint8_t { precise, authors };

/// Types that scales and minimums are stored as.
template <class T>
concept affine_parameter = std::same_as<T, f16> || std::same_as<T, bf16> || std::same_as<T, float>;

/// One group's parameters. A zero scale means that every code is 0.
template <affine_parameter Param = f16>
struct affine {
  Param scale, low;

  [[nodiscard]] KVSLIM_HD float decode(std::uint32_t code) const noexcept {
    return static_cast<float>(static_cast<std::int32_t>(code)) * to_float(scale) + to_float(low);
  }
};

namespace detail {

/// The parameters of several groups as a block keeps them: all scales, then all minimums.
template <class Param>
struct parameter_array {
  using group = affine<std::remove_const_t<Param>>;
  Param* scale;
  Param* low;

  [[nodiscard]] KVSLIM_HD group operator[](index_t i) const noexcept { return {scale[i], low[i]}; }
  KVSLIM_HD void set(index_t i, group const& a) const noexcept {
    scale[i] = a.scale;
    low[i] = a.low;
  }
  [[nodiscard]] KVSLIM_HD parameter_array from(index_t i) const noexcept {
    return {scale + i, low + i};
  }
  /// Bytes of the parameters of `count` groups.
  [[nodiscard]] static KVSLIM_HD constexpr index_t bytes(index_t count) noexcept {
    return 2 * count * static_cast<index_t>(sizeof(Param));
  }
};

template <class Param>
[[nodiscard]] KVSLIM_HD inline parameter_array<Param> parameters_at(std::byte* at,
                                                                    index_t count) noexcept {
  auto* const scale = array_at<Param>(at);
  return {scale, scale + count};
}
template <class Param>
[[nodiscard]] KVSLIM_HD inline parameter_array<Param const> parameters_at(std::byte const* at,
                                                                          index_t count) noexcept {
  auto const* const scale = array_at<Param>(at);
  return {scale, scale + count};
}

inline constexpr float smallest_normal = 1.17549435e-38f;  // 2^-126

[[nodiscard]] KVSLIM_HD inline float round_f16(float x) noexcept { return widen(narrow<f16>(x)); }

[[nodiscard]] KVSLIM_HD constexpr float highest_code(int bits) noexcept {
  return static_cast<float>((1 << bits) - 1);
}

/// Largest magnitude that the tail holds and whose groups have finite parameters. Spans are up to
/// twice as large: the authors round them to f16, and one bit makes them a scale.
template <element Tail, affine_parameter Param>
[[nodiscard]] KVSLIM_HD constexpr float largest_affine(int bits, rounding mode) noexcept {
  float most = 8.50705917e37f;  // 2^126
  if constexpr (std::same_as<Param, f16>)
    most = mode == rounding::authors || bits == 1 ? 32752.0f : 65504.0f;
  constexpr float tail = largest_finite<Tail>();
  if constexpr (std::same_as<Tail, float>) {
    return most;
  } else {
    if (most >= tail) return tail;
    auto held = from_float<Tail>(most);  // what waits in the tail must not be rounded past it
    if (to_float(held) > most) --held.bits;
    return to_float(held);
  }
}

/// The stored step of a group of `span` > 0. Where steps are stored coarsely, which is as bf16 and
/// as subnormal f16, they are rounded up: rounded down, codes would leave out the end of the range.
template <affine_parameter Param>
[[nodiscard]] KVSLIM_HD inline Param store_scale(float span, int bits) noexcept {
  float const wanted = divide(span, highest_code(bits));
  if constexpr (std::same_as<Param, float>) {
    return wanted < 2 * smallest_normal ? 2 * smallest_normal : wanted;
  } else {
    constexpr bool is_half = std::same_as<Param, f16>;
    constexpr float smallest_half = 6.10351562e-5f;  // 2^-14, the smallest normal one
    constexpr float least = is_half ? 0.0f : 2 * smallest_normal;
    float const step = wanted < least ? least : wanted;
    Param scale = narrow<Param>(step);
    if (is_half && !(step < smallest_half)) return scale;
    if (scale.bits == 0 || widen(scale) < step) ++scale.bits;
    return scale;
  }
}

/// The largest stored value that is not above x.
template <affine_parameter Param>
[[nodiscard]] KVSLIM_HD inline Param round_down(float x) noexcept {
  Param y = narrow<Param>(x);
  if constexpr (!std::same_as<Param, float>)
    if (widen(y) > x)
      y.bits = static_cast<std::uint16_t>((y.bits & 0x8000u) != 0 ? y.bits + 1 : y.bits - 1);
  return y;
}

[[nodiscard]] KVSLIM_HD inline affine<f16> fit_affine_authors(ops::range r, int bits) noexcept {
  f16 const low = narrow<f16>(r.low);
  float const span = round_f16(round_f16(r.high) - widen(low));
  f16 scale = narrow<f16>(divide(span, highest_code(bits)));
  if (scale.bits == 0 && span > 0.0f) scale.bits = 1;  // the authors' code then divides by zero
  return {scale, low};
}

template <affine_parameter Param>
[[nodiscard]] KVSLIM_HD inline affine<Param> fit_affine(ops::range r, int bits,
                                                        rounding mode) noexcept {
  if constexpr (std::same_as<Param, f16>)
    if (mode == rounding::authors) return fit_affine_authors(r, bits);
  float const span = r.high - r.low;
  affine<Param> a{narrow<Param>(0.0f), narrow<Param>(r.low)};
  if (span < smallest_normal) return a;
  a.scale = store_scale<Param>(span, bits);
  float const moved = widen(a.low) - r.low;
  if ((moved < 0.0f ? -moved : moved) > 0.5f * widen(a.scale)) {
    a.low = round_down<Param>(r.low);
    a.scale = store_scale<Param>(r.high - widen(a.low), bits);
  }
  return a;
}

/// Nearest integer in [0, most], ties to even; NaN is 0. Adding 2^23 leaves it in the low bits.
[[nodiscard]] KVSLIM_HD inline std::uint32_t round_code(float y, float most) noexcept {
  float const positive = y > 0.0f ? y : 0.0f;
  return bit_cast<std::uint32_t>((positive < most ? positive : most) + 8388608.0f) & 255u;
}

/// Codes of N values in a row, each with its own parameters (as floats): nearest, ties to even,
/// clamped to [0, 2^bits - 1]; NaN (from a damaged tail) is 0. Without branches, for vector
/// registers.
template <index_t N>
KVSLIM_HD inline void encode_affine(float const* x, float const* scale, float const* low, int bits,
                                    rounding mode, std::uint8_t* codes) noexcept {
  float const most = highest_code(bits);
  auto const all = [&](auto const& rounded) {
    for (index_t i = 0; i < N; ++i) {
      float const y = rounded(divide(rounded(rounded(x[i]) - low[i]), scale[i]));
      codes[i] = static_cast<std::uint8_t>(scale[i] == 0.0f ? 0u : round_code(y, most));
    }
  };
  if (mode == rounding::authors)
    all([](float y) { return round_f16(y); });
  else
    all([](float y) { return y; });
}

/// The code of one value.
template <affine_parameter Param>
[[nodiscard]] KVSLIM_HD inline std::uint32_t encode_affine(float x, affine<Param> const& a,
                                                           int bits, rounding mode) noexcept {
  float const scale = widen(a.scale), low = widen(a.low);
  std::uint8_t code;
  encode_affine<1>(&x, &scale, &low, bits, mode, &code);
  return code;
}

template <affine_parameter Param>
[[nodiscard]] KVSLIM_HD constexpr status check_rounding(rounding mode) noexcept {
  if (mode != rounding::precise && mode != rounding::authors)
    return fail(errc::invalid_option, "kvslim: rounding must be precise or authors");
  if (mode == rounding::authors && !std::same_as<Param, f16>)
    return fail(errc::invalid_option, "kvslim: rounding::authors needs f16 parameters");
  return {};
}

}  // namespace detail

KVSLIM_END_NAMESPACE
