// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("zipcache_4", [](index_t) { return zipcache<4>{}; }),
    bench::add("zipcache_2", [](index_t) { return zipcache<2>{}; }),
};

}  // namespace
