// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <cmath>
#include <cstdio>

float first();
float second();
int first_widen();
int second_widen();

int main() {
  float const a = first(), b = second();
  std::printf("%.9g %.9g, f16 conversions that differ: %d %d\n", static_cast<double>(a),
              static_cast<double>(b), first_widen(), second_widen());
  // Different flags may round attention differently; everything else is the same number.
  return a > 0.0f && std::fabs(a - b) <= 1e-3f && first_widen() == 0 && second_widen() == 0 ? 0 : 1;
}
