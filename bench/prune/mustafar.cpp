// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("mustafar_50", [](index_t) { return mustafar<>{}; }),
    bench::add("mustafar_70",
               [](index_t) { return mustafar<>{{.key_share = 0.7f, .value_share = 0.7f}}; }),
};

}  // namespace
