// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("turboquant_4", [](index_t) { return turboquant<4>{}; }),
    bench::add("turboquant_2", [](index_t) { return turboquant<2>{}; }),
    bench::add("turboquant_3_inner", [](index_t) { return turboquant<3, 3, turbo_form::inner>{}; }),
};

}  // namespace
