// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

TEST_CASE("pooling: zeros at the edges, divided by the kernel", "[pool]") {
  float const in[] = {5, 1, 0, 2, 10};
  float out[5];
  ops::pool(pooling::average, in, 5, 3, out);
  CHECK(std::abs(out[0] - 2.0) <= tolerance::elementwise);
  CHECK(std::abs(out[4] - 4.0) <= tolerance::elementwise);
  ops::pool(pooling::maximum, in, 5, 3, out);
  CHECK(out[0] == 5.0f);
  CHECK(out[2] == 2.0f);
  ops::pool(pooling::average, in, 1, 5, out);  // kernel wider than the row
  CHECK(out[0] == 1.0f);
}
