// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/config.hpp>

#include <cmath>
#include <cstdint>

KVSLIM_BEGIN_NAMESPACE

/// How a model rotates its keys. An attention factor (YaRN, LongRoPE) is already inside a stored
/// key and is never applied again. Source: arXiv:2104.09864; pair conventions as in Hugging Face
/// (half-split) and llama.cpp (interleaved).
struct rope {
  float base = 10000.0f;
  index_t dims = 0;                          ///< rotated channels, even; 0 means all of head_dim
  bool interleaved = false;                  ///< pairs (2i, 2i+1) instead of (i, i + dims/2)
  float const* inverse_frequency = nullptr;  ///< dims/2 angles per position; null: base^(-2i/dims)

  [[nodiscard]] KVSLIM_HD index_t rotated(index_t head_dim) const noexcept {
    return dims == 0 ? head_dim : dims;
  }
  [[nodiscard]] KVSLIM_HD bool fits(index_t head_dim) const noexcept {
    index_t const n = rotated(head_dim);
    return n >= 0 && n <= head_dim && n % 2 == 0 && base > 0.0f;
  }
  /// The two channels of pair i.
  struct channels {
    index_t a, b;
  };
  [[nodiscard]] KVSLIM_HD channels pair(index_t head_dim, index_t i) const noexcept {
    if (interleaved) return {2 * i, 2 * i + 1};
    return {i, i + rotated(head_dim) / 2};
  }
  /// Angle of pair i per position.
  [[nodiscard]] KVSLIM_HD double frequency(index_t head_dim, index_t i) const noexcept {
    if (inverse_frequency != nullptr) return static_cast<double>(inverse_frequency[i]);
    return std::pow(static_cast<double>(base),
                    -2.0 * static_cast<double>(i) / static_cast<double>(rotated(head_dim)));
  }
};

namespace detail {

/// Angles of a rope's pairs, one after another, as turns for each position in units of 2^-64: the
/// angle at position p is the product modulo 2^64, whatever p is.
struct rope_turns {
  double turns, step;

  KVSLIM_HD rope_turns(rope const& r, index_t head_dim) noexcept
      : turns(0.15915494309189533577),  // 1 / (2 pi)
        step(std::pow(static_cast<double>(r.base),
                      -2.0 / static_cast<double>(r.rotated(head_dim)))) {}
  [[nodiscard]] KVSLIM_HD std::uint64_t next() noexcept {
    double const part = turns - std::floor(turns);
    turns *= step;
    return static_cast<std::uint64_t>(static_cast<std::int64_t>(part * 0x1p63)) * 2;
  }
};

struct sine_and_cosine {
  float s, c;
};
/// Of an angle in units of 2^-32 turns; within 2e-7.
[[nodiscard]] KVSLIM_HD inline sine_and_cosine sine_of(std::uint32_t angle) noexcept {
  std::uint32_t const quarter = (angle + (1u << 29)) >> 30;
  float const x = static_cast<float>(static_cast<std::int32_t>(angle - (quarter << 30))) *
                  1.4629180793e-9f,  // 2 pi / 2^32
      z = x * x;
  float const s = x + x * z * (-1.6666654611e-1f + z * (8.3321608736e-3f - 1.9515295891e-4f * z)),
              c = 1.0f - 0.5f * z +
                  z * z *
                      (4.166664568298827e-2f +
                       z * (-1.388731625493765e-3f + 2.443315711809948e-5f * z));
  float const sine = (quarter & 1u) != 0 ? c : s, cosine = (quarter & 1u) != 0 ? s : c;
  return {(quarter & 2u) != 0 ? -sine : sine, ((quarter + 1u) & 2u) != 0 ? -cosine : cosine};
}

}  // namespace detail

namespace ops {

/// Rotates `members` times n rows in place, row m * n + t by delta(t) positions; negative
/// un-rotates. Angles in double, products in float. Rotating by a and then by b equals rotating by
/// a + b up to rounding; delta 0 is bit-exact. Cost: a power for each pair of channels, a sine and
/// a cosine for each of a token.
template <class Delta>
KVSLIM_HD inline void rotate_rows(rope const& r, index_t head_dim, index_t n, index_t members,
                                  Delta const& delta, float* rows) noexcept {
  for (index_t i = 0; i < r.rotated(head_dim) / 2; ++i) {
    double const each = r.frequency(head_dim, i);
    auto const [a, b] = r.pair(head_dim, i);
    for (index_t t = 0; t < n; ++t) {
      std::int64_t const by = delta(t);
      if (by == 0) continue;
      double const angle = static_cast<double>(by) * each;
      auto const c = static_cast<float>(std::cos(angle)), s = static_cast<float>(std::sin(angle));
      for (index_t m = 0; m < members; ++m) {
        float* const row = rows + (m * n + t) * head_dim;
        float const x = row[a], y = row[b];
        row[a] = x * c - y * s;
        row[b] = y * c + x * s;
      }
    }
  }
}
/// One row by `delta` positions.
KVSLIM_HD inline void rotate(rope const& r, index_t head_dim, std::int64_t delta,
                             float* row) noexcept {
  if (delta == 0) return;
  rotate_rows(
      r, head_dim, 1, 1, [=](index_t) { return delta; }, row);
}

}  // namespace ops

KVSLIM_END_NAMESPACE
