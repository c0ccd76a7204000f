// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("rotated_int4", [](index_t) { return rotated{int_per_token<4>{}}; }),
    bench::add("rotated_kivi_2", [](index_t) { return rotated{kivi<2>{}}; }),
};

}  // namespace
