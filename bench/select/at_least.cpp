// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("at_least_25",
               [](index_t) {
                 // A quarter of the benchmark's scores, which are exponentials of normal numbers.
                 return pipeline{given_scores{}, at_least{{.least = 1.963f, .recent = 32}}};
               }),
};

}  // namespace
