// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("centred_8", [](index_t) { return centred<8>{}; }),
    bench::add("centred_6_5", [](index_t) { return centred<6, 5>{}; }),
    bench::add("centred_4", [](index_t) { return centred<4>{}; }),
    bench::add("centred_2", [](index_t) { return centred<2>{}; }),
};

}  // namespace
