// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("corm_8",
               [](index_t) {
                 return pipeline{corm{}, at_least{{.least = -7.0f, .recent = 32}}};
               }),
};

}  // namespace
