// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// The only place where tolerances are written. Families, not numbers, appear in tests.

namespace tolerance {

inline constexpr double elementwise = 1e-6;  // one float operation per element, relative
inline constexpr double exponential = 2e-7;  // the bound that ops::exp_nonpositive states, relative
inline constexpr double accumulated =
    1e-5;  // sums over head_dim or tokens in float, relative to the norm
inline constexpr double attend = 2e-5;  // the bound that attend() states, relative L2
inline constexpr double attend_terms =
    2e-7;  // or this much of a key's scale * sum |q_d k_d|, where that is more; of codes |k_d| is
           // |step * code| + |minimum|
inline constexpr double attend_fast = 5e-4;        // the same of attend_precision::fast
inline constexpr double attend_fast_terms = 1e-5;  // or of scale * max |q_d| * sum |k_d|
inline constexpr double f16_storage =
    1e-3;  // values rounded once to f16, relative (half an ulp is 2^-11)

// Half a step of a group that spans twice its largest magnitude, whose step and minimum are f16:
// relative to the largest magnitude stored.
inline constexpr double eight_bits = 1.0 / 255 + f16_storage;
inline constexpr double four_bits = 1.0 / 15 + f16_storage;
inline constexpr double two_bits = 1.0 / 3 + f16_storage;

}  // namespace tolerance
