// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("mikv_4", [](index_t) { return mikv<4>{}; }),
    bench::add("mikv_2", [](index_t) { return mikv<2>{}; }),
};

}  // namespace
