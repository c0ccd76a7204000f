// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("chunkkv_25",
               [](index_t tokens) {
                 return pipeline{shared{snapkv{{.window = 32}}, {.kv_heads = 8}, reduce::sum},
                                 top_k{{.budget = tokens / 4}}, chunkkv{}};
               }),
};

}  // namespace
