// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

#include "unit.cuh"

kvslim::status boundary::select_in_two(plan const& p, view const& v, packed const& c,
                                       void* stream) {
  return select_all(p, v, c, stream);
}
char const* boundary::executor_of_two() { return name_of<kvslim::cuda>(); }
