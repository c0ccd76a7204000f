// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("kivi_8", [](index_t) { return kivi<8>{}; }),
    bench::add("kivi_4", [](index_t) { return kivi<4>{}; }),
    bench::add("kivi_2", [](index_t) { return kivi<2>{}; }),
    bench::add("kivi_3", [](index_t) { return kivi<3>{}; }),
    bench::add("kivi_4_group_160",
               [](index_t) { return kivi<4>{{.group = 160, .residual = 160, .value_group = 32}}; }),
};

}  // namespace
