// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("int8_per_token", [](index_t) { return int_per_token<8>{}; }),
    bench::add("int6_per_token", [](index_t) { return int_per_token<6>{}; }),
    bench::add("int4_per_token", [](index_t) { return int_per_token<4>{}; }),
};

}  // namespace
