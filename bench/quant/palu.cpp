// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("palu", [](index_t) { return palu<>{{.key_rank = 64, .value_rank = 128}}; }),
    bench::add("palu_4", [](index_t) { return palu<4>{{.key_rank = 64, .value_rank = 128}}; }),
};

}  // namespace
