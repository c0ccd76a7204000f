// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/matrix.hpp"

TEST_CASE("three pipelines store the same bits from every layout: e4m3", "[matrix]") {
  matrix::three_pipelines<kvslim::e4m3>();
}
