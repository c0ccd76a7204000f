// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

namespace {

/// Largest relative error of exp_nonpositive over every `step`-th float of [-87, 0].
double worst_exp(std::uint32_t step) {
  double worst = 0;
  for (std::uint32_t word = 0x80000000u; word <= 0xc2ae0000u; word += step) {
    float const x = detail::bit_cast<float>(word);
    double const expected = std::exp(static_cast<double>(x));
    if (x > -87.0f)
      worst = std::max(
          worst, std::abs(static_cast<double>(ops::exp_nonpositive(x)) - expected) / expected);
  }
  return worst;
}

}  // namespace

TEST_CASE("the vector exponential is as close as its comment says", "[exp]") {
  CHECK(worst_exp(997) < tolerance::exponential);
  CHECK(ops::exp_nonpositive(0.0f) == 1.0f);
  CHECK(ops::exp_nonpositive(-87.0f) == 0.0f);
  CHECK(ops::exp_nonpositive(-INFINITY) == 0.0f);
}
TEST_CASE("every float: the vector exponential", "[.exhaustive]") {
  CHECK(worst_exp(1) < tolerance::exponential);
}
