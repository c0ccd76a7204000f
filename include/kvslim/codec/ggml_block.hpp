// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// One block of ggml's cache types: 32 channels with an f16 step d, an f16 minimum m where the type
// has one, and codes.
//
// | type | bytes | layout | value |
// |---|---|---|---|
// | q8_0 | 34 | d, 32 signed bytes | code * d |
// | q5_1 | 24 | d, m, fifth bits (32), 16 bytes of nibbles | code * d + m |
// | q5_0 | 22 | d, fifth bits, nibbles | (code - 16) * d |
// | q4_1 | 20 | d, m, nibbles | code * d + m |
// | q4_0 | 18 | d, nibbles | (code - 8) * d |
//
// Nibble byte i holds channel i in its low half and channel i + 16 in its high one; bit c of the
// fifth bits is channel c's.

#include <kvslim/isa/convert.hpp>
#include <kvslim/ops/group_range.hpp>

#include <cstring>

KVSLIM_BEGIN_NAMESPACE

/// ggml's block types that caches are made of, by ggml's own numbers.
enum class ggml_block : std::uint8_t { q4_0 = 2, q4_1 = 3, q5_0 = 6, q5_1 = 7, q8_0 = 8 };

namespace detail {

/// Bounds of arrays name it themselves: a local copy's name is a syntax error in what nvcc writes.
inline constexpr index_t ggml_channels = 32;

[[nodiscard]] KVSLIM_HD inline float magnitude_of(float x) noexcept {
  return bit_cast<float>(bit_cast<std::uint32_t>(x) & 0x7fffffffu);
}

/// What a block's values are coded with, in float: the stored f16 are these rounded.
struct ggml_scale {
  float step, minimum;
};

template <ggml_block Type>
struct ggml_format {
  static constexpr bool float_codes = false;  // what kernels of rows of blocks ask
  static constexpr index_t channels = ggml_channels;
  static constexpr bool has_minimum = Type == ggml_block::q4_1 || Type == ggml_block::q5_1;
  static constexpr int bits = Type == ggml_block::q8_0                               ? 8
                              : Type == ggml_block::q5_0 || Type == ggml_block::q5_1 ? 5
                                                                                     : 4;
  static constexpr index_t high_at = has_minimum ? 4 : 2;  // fifth bits
  static constexpr index_t codes_at = high_at + (bits == 5 ? 4 : 0);
  static constexpr index_t bytes = codes_at + ggml_channels * (bits == 8 ? 8 : 4) / 8;
  /// Range of codes after the zero point is taken away. q8_0's does not use -128.
  static constexpr int most = bits == 8 ? 127 : has_minimum ? (1 << bits) - 1 : (1 << bits) / 2 - 1;
  static constexpr int least = bits == 8 ? -127 : has_minimum ? 0 : -(1 << bits) / 2;
  /// Largest magnitude whose step and minimum are finite halves.
  static constexpr float largest = 65504.0f * (has_minimum ? 1.0f
                                               : bits == 8 ? 127.0f
                                                           : static_cast<float>(-least));

  /// Of a block's range and its values. ggml takes the first of equal values, which shows in the
  /// sign of a zero and, where the step has the sign of the largest magnitude, in all codes.
  template <class T>
  [[nodiscard]] static KVSLIM_HD ggml_scale fit(ops::range const& r, T const* x) noexcept {
    auto const first = [&](auto const& is_it, float otherwise) {
      float found = otherwise;
      for (index_t j = ggml_channels; j-- > 0;) {
        float const v = to_float(x[j]);
        found = is_it(v) ? v : found;
      }
      return found;
    };
    if constexpr (has_minimum) {
      float const low = r.low == 0.0f ? first([](float v) { return v == 0.0f; }, r.low) : r.low;
      float const span = r.high == r.low ? 0.0f : r.high - r.low;
      return {divide(span, static_cast<float>(most)), low};
    } else {
      float const below = magnitude_of(r.low), above = magnitude_of(r.high);
      float const peak = below > above ? below : above;
      if constexpr (bits == 8) return {divide(peak, 127.0f), 0.0f};
      float value = below > above ? r.low : r.high;
      if (peak == 0.0f)
        value = 0.0f;
      else if (below == above)
        value = first([peak](float v) { return magnitude_of(v) == peak; }, value);
      return {divide(value, static_cast<float>(least)), 0.0f};
    }
  }
  /// What values are multiplied by. Nothing that is stored depends on whether subnormal floats are
  /// flushed to zero; ggml's own reciprocal overflows a little further down.
  [[nodiscard]] static KVSLIM_HD float inverse(float step) noexcept {
    constexpr float smallest = 7.52316385e-37f;  // 2^-120
    return magnitude_of(step) < smallest ? 0.0f : divide(1.0f, step);
  }
  /// What a code is made of. ggml limits the code; limiting this gives the same. Between product
  /// and sum it also keeps a compiler from fusing them: that rounds once where ggml rounds twice.
  [[nodiscard]] static KVSLIM_HD float limited(float x, float minimum, float inverse) noexcept {
    constexpr auto high = static_cast<float>(most), low = static_cast<float>(least);
    float const y = (x - minimum) * inverse, z = y > low ? y : low;
    return z < high ? z : high;
  }
  [[nodiscard]] static KVSLIM_HD std::int32_t code(float y) noexcept {
    if constexpr (bits == 8) {  // nearest, ties away from zero
      // The float below a half: with a half, what lies just below a tie would round up.
      auto const sign = bit_cast<std::uint32_t>(y) & 0x80000000u;
      return static_cast<std::int32_t>(y + bit_cast<float>(0x3effffffu | sign));
    } else {
      return static_cast<std::int32_t>(y + (0.5f - static_cast<float>(least)));
    }
  }
};
static_assert(ggml_format<ggml_block::q8_0>::bytes == 34);
static_assert(ggml_format<ggml_block::q5_1>::bytes == 24);
static_assert(ggml_format<ggml_block::q5_0>::bytes == 22);
static_assert(ggml_format<ggml_block::q4_1>::bytes == 20);
static_assert(ggml_format<ggml_block::q4_0>::bytes == 18);

template <class Byte>
[[nodiscard]] KVSLIM_HD inline auto* ggml_codes(Byte* block, index_t at) noexcept {
  if constexpr (std::is_const_v<Byte>)
    return reinterpret_cast<std::uint8_t const*>(block + at);
  else
    return reinterpret_cast<std::uint8_t*>(block + at);
}

/// 32 floats as a block. NaN and infinity give some block, and nothing undefined.
template <ggml_block Type>
KVSLIM_HD inline void encode_ggml(float const* x, std::byte* block) noexcept {
  using format = ggml_format<Type>;
  ggml_scale const s = format::fit(ops::group_range(x, ggml_channels, 1), x);
  auto* const parameters = array_at<f16>(block);
  parameters[0] = narrow<f16>(s.step);
  if constexpr (format::has_minimum) parameters[1] = narrow<f16>(s.minimum);
  float const inverse = format::inverse(s.step);
  // Two loops, because compilers turn one into branches.
  local<float, ggml_channels> limited;
  for (index_t j = 0; j < ggml_channels; ++j)
    limited[j] = format::limited(x[j], s.minimum, inverse);
  local<std::int32_t, ggml_channels> codes;
  for (index_t j = 0; j < ggml_channels; ++j) codes[j] = format::code(limited[j]);
  auto* const out = ggml_codes(block, format::codes_at);
  if constexpr (format::bits == 8) {
    for (index_t j = 0; j < ggml_channels; ++j) out[j] = static_cast<std::uint8_t>(codes[j]);
  } else {
    for (index_t j = 0; j < ggml_channels / 2; ++j)
      out[j] =
          static_cast<std::uint8_t>((codes[j] & 15) | (codes[j + ggml_channels / 2] & 15) << 4);
  }
  if constexpr (format::bits == 5) {
    std::uint32_t high = 0;
    for (index_t j = 0; j < ggml_channels; ++j)
      high |= static_cast<std::uint32_t>(codes[j] >> 4) << j;
    std::memcpy(block + format::high_at, &high, sizeof high);
  }
}

/// Codes of channels [16 * Half, 16 * Half + 16) of a block, the zero point taken away.
template <ggml_block Type, index_t Half>
KVSLIM_HD inline void ggml_code_run(std::byte const* block, std::int16_t* codes) noexcept {
  using format = ggml_format<Type>;
  auto const* const in = ggml_codes(block, format::codes_at);
  if constexpr (format::bits == 8) {
    for (index_t j = 0; j < 16; ++j) codes[j] = static_cast<std::int8_t>(in[16 * Half + j]);
  } else {
    std::uint32_t high = 0;
    if constexpr (format::bits == 5) std::memcpy(&high, block + format::high_at, sizeof high);
    auto const bits = static_cast<std::uint16_t>(high >> (16 * Half));
    for (index_t j = 0; j < 16; ++j) {
      int code = Half == 0 ? in[j] & 15 : in[j] >> 4;
      if constexpr (format::bits == 5) code += (bits & (1u << j)) != 0 ? 16 : 0;
      codes[j] = static_cast<std::int16_t>(code + format::least);
    }
  }
}

#if defined(__F16C__) && !defined(__CUDACC__)
using signed_bytes16 [[gnu::vector_size(16), gnu::aligned(1), gnu::may_alias]] = signed char;

/// The same in a register.
template <ggml_block Type, index_t Half>
[[nodiscard]] inline shorts16 ggml_code_vector(std::byte const* block) noexcept {
  using format = ggml_format<Type>;
  auto const* const in = block + format::codes_at;
  if constexpr (format::bits == 8) {
    return __builtin_convertvector(reinterpret_cast<signed_bytes16 const*>(in)[Half], shorts16);
  } else {
    auto const pairs = __builtin_convertvector(*reinterpret_cast<bytes16 const*>(in), shorts16);
    shorts16 codes = Half == 0 ? pairs & 15 : pairs >> 4;
    if constexpr (format::bits == 5) {
      std::int16_t high;
      std::memcpy(&high, block + format::high_at + 2 * Half, sizeof high);
      constexpr shorts16 bit{1,     2,     4,     8,     16,     32,     64,     128,
                             0x100, 0x200, 0x400, 0x800, 0x1000, 0x2000, 0x4000, -0x8000};
      codes += ((bit & high) != 0) & 16;
    }
    return codes + static_cast<std::int16_t>(format::least);
  }
}
#endif

/// Channels [16 * Half, 16 * Half + 16) of a block: code * d is exact in float, so that the one
/// rounding is that of the sum with m, as in ggml.
template <ggml_block Type, index_t Half>
KVSLIM_HD inline void load_ggml(std::byte const* block, float* x) noexcept {
  using format = ggml_format<Type>;
  auto const* const parameters = array_at<f16>(block);
  float const step = widen(parameters[0]);
  float const minimum = format::has_minimum ? widen(parameters[1]) : 0.0f;
#if defined(__F16C__) && !defined(__CUDACC__)
  auto const scaled = [&](auto codes) {
    auto const y = codes * step;
    if constexpr (format::has_minimum)
      return y + minimum;
    else
      return y;
  };
  shorts16 const codes = ggml_code_vector<Type, Half>(block);
#if defined(__AVX512F__)
  *reinterpret_cast<floats16*>(x) = scaled(__builtin_convertvector(codes, floats16));
#else
  for (index_t i = 0; i < 16; i += 8)
    reinterpret_cast<floats8*>(x)[i / 8] =
        scaled(__builtin_convertvector(reinterpret_cast<shorts8 const*>(&codes)[i / 8], floats8));
#endif
#else
  local<std::int16_t, 16> codes;
  ggml_code_run<Type, Half>(block, codes);
  for (index_t j = 0; j < 16; ++j) {
    x[j] = static_cast<float>(codes[j]) * step;
    if constexpr (format::has_minimum) x[j] += minimum;
  }
#endif
}
template <ggml_block Type>
KVSLIM_HD inline void load_ggml(std::byte const* block, float* x) noexcept {
  load_ggml<Type, 0>(block, x);
  load_ggml<Type, 1>(block, x + 16);
}

/// Channel c of a block.
template <ggml_block Type>
[[nodiscard]] KVSLIM_HD inline float ggml_value(std::byte const* block, index_t c) noexcept {
  using format = ggml_format<Type>;
  auto const* const in = ggml_codes(block, format::codes_at);
  auto const* const parameters = array_at<f16>(block);
  float const step = widen(parameters[0]);
  if constexpr (format::bits == 8) {
    return static_cast<float>(static_cast<std::int8_t>(in[c])) * step;
  } else {
    std::uint32_t code = (in[c % 16] >> (c / 16 * 4)) & 15u;
    if constexpr (format::bits == 5) {
      std::uint32_t high;
      std::memcpy(&high, block + format::high_at, sizeof high);
      code |= ((high >> c) & 1u) << 4;
    }
    float const x = static_cast<float>(static_cast<std::int32_t>(code) + format::least) * step;
    if constexpr (format::has_minimum)
      return x + widen(parameters[1]);
    else
      return x;
  }
}

}  // namespace detail

KVSLIM_END_NAMESPACE
