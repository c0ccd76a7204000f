// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("think", [](index_t) { return think{}; }),
    bench::add("think_kivi_2",
               [](index_t) {
                 return think{kivi<2>{}, {.recent = 0, .multiple = 4}};
               }),
};

}  // namespace
