// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("chelsea",
               [](index_t) {
                 return pipeline{given_scores{}, chelsea{}};
               }),
};

}  // namespace
