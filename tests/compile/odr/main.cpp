// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Units of one program, compiled with different flags: none uses a body of another's.

#include "odr_units.hpp"

#include <cmath>
#include <cstdio>
#include <cstring>

#define KVSLIM_ODR_UNITS(X) X(plain) X(checked) KVSLIM_ODR_MORE(X)
#define KVSLIM_ODR_DECLARE(x) \
  float x();                  \
  char const* x##_name();     \
  int x##_threads();          \
  int x##_widen();
KVSLIM_ODR_UNITS(KVSLIM_ODR_DECLARE)

namespace {

struct unit {
  char const *label, *name;
  float value;
  int threads, widen;
};

}  // namespace

int main() {
#define KVSLIM_ODR_CALL(x) unit{#x, x##_name(), x(), x##_threads(), x##_widen()},
  unit const units[] = {KVSLIM_ODR_UNITS(KVSLIM_ODR_CALL)};
  int faults = 0;
  auto const expect = [&](bool good, unit const& u, char const* what) {
    if (good) return;
    std::printf("%s: %s\n", u.label, what);
    ++faults;
  };
  for (unit const& u : units) {
    std::printf("%s: namespace %s, value %.9g, threads %d, f16 conversions that differ %d\n",
                u.label, u.name, static_cast<double>(u.value), u.threads, u.widen);
    // Different flags may round attention differently; everything else is the same number.
    expect(u.value > 0.0f && std::fabs(u.value - units[0].value) <= 1e-3f, u, "another value");
    expect(u.widen == 0, u, "conversions differ");
    bool const has_openmp = std::strstr(u.name, "openmp") != nullptr;
    expect(has_openmp == (std::strcmp(u.label, "with_openmp") == 0), u, "OpenMP is misnamed");
    expect((u.threads > 1) == has_openmp, u, "another unit's loop");
    for (unit const& other : units)
      expect(&u == &other || std::strcmp(u.name, other.name) != 0, u, "another unit's namespace");
  }
  return faults;
}
