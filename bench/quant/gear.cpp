// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("gear_4", [](index_t) { return gear<4>{}; }),
    bench::add("gear_2", [](index_t) { return gear<2>{}; }),
    bench::add("gear_2_kcvt", [](index_t) { return gear<2>{{.kcvt = true}}; }),
    bench::add("gear_l_2", [](index_t) { return gear_l<2>{}; }),
};

}  // namespace
