// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("dense_f16", [](index_t) { return dense<f16>{}; }),
    bench::add("dense_e4m3", [](index_t) { return dense<e4m3>{}; }),
};

}  // namespace
