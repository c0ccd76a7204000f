// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("fp8_e4m3", [](index_t) { return fp8<>{}; }),
    bench::add("fp8_e4m3_group_32", [](index_t) { return fp8<>{{.group = 32}}; }),
    bench::add("fp8_e5m2", [](index_t) { return fp8<e5m2>{}; }),
};

}  // namespace
