// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/isa/turn_kernels.hpp>

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

inline constexpr double turns_of_radian = 0.15915494309189533577;  // 1 / (2 pi)

/// Angles of a rope's pairs, one after another, as turns for each position in units of 2^-64: the
/// angle at position p is the product modulo 2^64, whatever p is.
struct rope_turns {
  double turns, step;

  KVSLIM_HD rope_turns(rope const& r, index_t head_dim) noexcept
      : turns(turns_of_radian),
        step(std::pow(static_cast<double>(r.base),
                      -2.0 / static_cast<double>(r.rotated(head_dim)))) {}
  [[nodiscard]] KVSLIM_HD std::uint64_t next() noexcept {
    auto const angle = units_of(turns);
    turns *= step;
    return angle;
  }
  /// Turns in units of 2^-64, whole ones left out.
  [[nodiscard]] static KVSLIM_HD std::uint64_t units_of(double turns) noexcept {
    double const part = turns - std::floor(turns);
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

/// Of an angle in radians: in double and rounded once. The same in every lane of a vector.
[[nodiscard]] KVSLIM_HD inline sine_and_cosine sine_and_cosine_of(double angle) noexcept {
  using turn = angle_terms;
  if (!(angle < most_turned && angle > -most_turned))
    return {static_cast<float>(std::sin(angle)), static_cast<float>(std::cos(angle))};
  double const shifted = angle * turn::quarters + turn::shift, quarters = shifted - turn::shift;
  double const r =
      ((angle - quarters * turn::first) - quarters * turn::second) - quarters * turn::third;
  double const z = r * r;
  double s =
      ((((turn::s6 * z + turn::s5) * z + turn::s4) * z + turn::s3) * z + turn::s2) * z + turn::s1;
  double c =
      ((((turn::c6 * z + turn::c5) * z + turn::c4) * z + turn::c3) * z + turn::c2) * z + turn::c1;
  s = r + r * z * s;
  c = (1.0 - z * 0.5) + z * z * c;
  auto const quarter = static_cast<unsigned>(bit_cast<std::uint64_t>(shifted));
  double const sine = (quarter & 1u) != 0 ? c : s, cosine = (quarter & 1u) != 0 ? s : c;
  return {static_cast<float>((quarter & 2u) != 0 ? -sine : sine),
          static_cast<float>(((quarter + 1u) & 2u) != 0 ? -cosine : cosine)};
}

}  // namespace detail

namespace ops {

/// Turns a pair of channels by an angle.
struct pair_turn {
  detail::sine_and_cosine by;

  KVSLIM_HD explicit pair_turn(double angle) noexcept : by(detail::sine_and_cosine_of(angle)) {}
  KVSLIM_HD void operator()(float& a, float& b) const noexcept {
    float const x = a, y = b;
    a = x * by.c - y * by.s;
    b = y * by.c + x * by.s;
  }
};

/// The angles per position of up to Most of a rope's pairs, from `first` on, to turn many rows by.
template <index_t Most = 64>
struct rope_angles {
  rope const& r;
  index_t head_dim, first, pairs;
  double largest = 0.0;
  detail::local<double, Most> each;

  KVSLIM_HD rope_angles(rope const& of, index_t dim, index_t from = 0) noexcept
      : r(of), head_dim(dim), first(from), pairs(detail::min(Most, of.rotated(dim) / 2 - from)) {
    for (index_t i = 0; i < pairs; ++i) {
      each[i] = r.frequency(head_dim, first + i);
      largest = each[i] > largest ? each[i] : -each[i] > largest ? -each[i] : largest;
    }
  }
  /// Turns these pairs of `members` rows, `apart` floats from one to the next.
  KVSLIM_HD void turn(std::int64_t by, float* rows, index_t members = 1,
                      index_t apart = 0) const noexcept {
    if (by == 0) return;
    auto const positions = static_cast<double>(by);
    constexpr index_t once = 64;
    for (index_t i = 0; i < pairs; i += once) {
      index_t const n = detail::min(once, pairs - i);
      detail::local<float, once> s, c;
      s[0] = c[0] = 0.0f;  // g++ does not know that there is a pair
      bool const near =
          positions * largest < detail::most_turned && positions * largest > -detail::most_turned;
      if (!near || !detail::sines_and_cosines(each + i, n, positions, s, c))
        for (index_t j = 0; j < n; ++j) {
          auto const x = detail::sine_and_cosine_of(positions * each[i + j]);
          s[j] = x.s;
          c[j] = x.c;
        }
      auto const [a, b] = r.pair(head_dim, first + i);
      for (index_t m = 0; m < members; ++m) {
        float* const row = rows + m * apart;
        if (!r.interleaved && detail::turn_pairs_of(s, c, n, row + a, row + b)) continue;
        index_t const step = r.interleaved ? 2 : 1;
        for (index_t j = 0; j < n; ++j) {
          float &x = row[a + j * step], &y = row[b + j * step];
          float const old = x;
          x = old * c[j] - y * s[j];
          y = y * c[j] + old * s[j];
        }
      }
    }
  }
};

/// Rotates `members` times n rows in place, row m * n + t by delta(t) positions; negative
/// un-rotates. Angles in double, products in float. Rotating by a and then by b equals rotating by
/// a + b up to rounding; delta 0 is bit-exact. Cost: a power for each pair of channels, a sine and
/// a cosine for each of a token.
template <class Delta>
KVSLIM_HD inline void rotate_rows(rope const& r, index_t head_dim, index_t n, index_t members,
                                  Delta const& delta, float* rows) noexcept {
#if defined(__CUDA_ARCH__)  // no kernels, and no room for their numbers
  for (index_t i = 0; i < r.rotated(head_dim) / 2; ++i) {
    double const each = r.frequency(head_dim, i);
    auto const [a, b] = r.pair(head_dim, i);
    for (index_t t = 0; t < n; ++t) {
      std::int64_t const by = delta(t);
      if (by == 0) continue;
      pair_turn const turn(static_cast<double>(by) * each);
      for (index_t m = 0; m < members; ++m) {
        float* const row = rows + (m * n + t) * head_dim;
        turn(row[a], row[b]);
      }
    }
  }
#else
  for (index_t first = 0; first < r.rotated(head_dim) / 2; first += 64) {
    rope_angles<64> const angles(r, head_dim, first);
    for (index_t t = 0; t < n; ++t)
      angles.turn(delta(t), rows + t * head_dim, members, n * head_dim);
  }
#endif
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
