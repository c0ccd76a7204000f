// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("kivi_8", [](index_t) { return kivi<8>{}; }),
    bench::add("kivi_4", [](index_t) { return kivi<4>{}; }),
    bench::add("kivi_2", [](index_t) { return kivi<2>{}; }),
};

}  // namespace
