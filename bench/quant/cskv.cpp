// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("cskv", [](index_t) { return cskv<>{{.key_rank = 128, .value_rank = 256}}; }),
    bench::add("cskv_4",
               [](index_t) { return cskv<f16, 4>{{.key_rank = 128, .value_rank = 256}}; }),
};

}  // namespace
