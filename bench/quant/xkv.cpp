// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("xkv",
               [](index_t) {
                 return xkv<>{{.rows = {1, 1}, .key_rank = 16, .value_rank = 24, .rounds = 3}};
               }),
};

}  // namespace
