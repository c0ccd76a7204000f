// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// ggml's cache types one value at a time, from their description. Every float operation is stored
// before the next one, so that none are fused.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace reference {

/// Bits per code; whether a block has a minimum.
struct ggml_type {
  int bits;
  bool minimum;
};

/// The nearest half of a double as its bit pattern, ties to even.
inline unsigned half_bits(double x) {
  unsigned const sign = std::signbit(x) ? 0x8000u : 0u;
  double const a = std::abs(x);
  int const exponent = a == 0 ? -14 : std::max(std::ilogb(a), -14);
  auto const units = static_cast<unsigned>(std::nearbyint(std::ldexp(a, 10 - exponent)));
  return sign | (static_cast<unsigned>(exponent + 14) * 1024u + units);
}
inline double half_value(unsigned bits) {
  int const exponent = static_cast<int>(bits >> 10 & 31u);
  double const units = (bits & 1023u) + (exponent > 0 ? 1024.0 : 0.0);
  return std::ldexp(units, std::max(exponent, 1) - 25) * ((bits & 0x8000u) != 0 ? -1 : 1);
}

/// One block of 32 values.
inline std::vector<unsigned> ggml_encode(float const* x, ggml_type type) {
  int const levels = 1 << type.bits;
  float low = std::numeric_limits<float>::max(), high = -low, peak = 0;
  for (int i = 0; i < 32; ++i) {
    if (x[i] < low) low = x[i];
    if (x[i] > high) high = x[i];
    if (std::abs(x[i]) > std::abs(peak)) peak = x[i];
  }
  volatile float step = type.bits == 8 ? std::abs(peak) / 127.0f
                        : type.minimum ? (high - low) / static_cast<float>(levels - 1)
                                       : peak / static_cast<float>(-levels / 2);
  volatile float inverse = 0.0f;
  if (step != 0.0f) inverse = 1.0f / step;
  std::vector<unsigned> codes, out;
  for (int i = 0; i < 32; ++i) {
    volatile float y = type.minimum ? x[i] - low : x[i];
    y = y * inverse;
    if (type.bits == 8) {
      codes.push_back(static_cast<unsigned>(static_cast<int>(std::round(y))) & 255u);
      continue;
    }
    y = y + (type.minimum ? 0.5f : static_cast<float>(levels) / 2 + 0.5f);
    codes.push_back(std::min(static_cast<unsigned>(y), static_cast<unsigned>(levels - 1)));
  }
  auto const put_half = [&](double v) {
    out.push_back(half_bits(v) & 255u);
    out.push_back(half_bits(v) >> 8);
  };
  put_half(static_cast<double>(step));
  if (type.minimum) put_half(static_cast<double>(low));
  if (type.bits == 8) {
    out.insert(out.end(), codes.begin(), codes.end());
    return out;
  }
  for (int byte = 0; byte < 4 && type.bits == 5; ++byte) {
    out.push_back(0);
    for (int bit = 0; bit < 8; ++bit)
      out.back() |= (codes[static_cast<std::size_t>(byte * 8 + bit)] >> 4) << bit;
  }
  for (std::size_t i = 0; i < 16; ++i) out.push_back((codes[i] & 15u) | (codes[i + 16] & 15u) << 4);
  return out;
}

/// Bytes of a block.
inline std::size_t ggml_bytes(ggml_type type) {
  return 2u + (type.minimum ? 2u : 0u) + 4u * static_cast<std::size_t>(type.bits);
}

/// What value i of a block is, in double: not rounded to a float.
inline double ggml_decode(unsigned char const* block, ggml_type type, int i) {
  auto const half_at = [&](int at) {
    return half_value(block[at] | static_cast<unsigned>(block[at + 1]) << 8);
  };
  double const step = half_at(0), low = type.minimum ? half_at(2) : 0.0;
  unsigned char const* at = block + (type.minimum ? 4 : 2);
  if (type.bits == 8) return step * (at[i] < 128 ? at[i] : at[i] - 256);
  int code = 0;
  if (type.bits == 5) {
    code = (at[i / 8] >> (i % 8) & 1) * 16;
    at += 4;
  }
  code += i < 16 ? at[i] & 15 : at[i - 16] >> 4;
  if (!type.minimum) code -= 1 << (type.bits - 1);
  return step * code + low;
}

}  // namespace reference
