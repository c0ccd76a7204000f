// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "both.hpp"

namespace on_device {

/// A policy's cache and attention, from the unit that calls.
inline std::vector<float> compressed_and_attended() {
  using namespace kvslim;
  char const* const name = "two units";
  stored s(make_plan(kivi<4>{{.residual = 32}}, extents{1, 2, 90, 32}));
  s.compress(cells(s.plan.extents(), {}, 5), evidence<>{}, evidence<>{}, name);
  request<> x(s, {.group = 2});
  passed(attend(gpu, s.on_gpu, x.on_gpu), name);
  return x.dout.host();
}

/// The same from the other unit of the program.
std::vector<float> from_the_other_unit();

/// Units that instantiate the same kernels link into one program.
inline void two_units() {
  auto const here = compressed_and_attended(), there = from_the_other_unit();
  check(!here.empty() && same(here, there), "the same answer from either", "two units");
}

}  // namespace on_device
