// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("shadowkv",
               [](index_t) { return shadowkv<>{{.kv_heads = 1, .rank = 20, .rounds = 3}}; }),
};

}  // namespace
