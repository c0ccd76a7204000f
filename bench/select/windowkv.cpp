// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("windowkv_25",
               [](index_t tokens) {
                 return pipeline{
                     shared{snapkv{{.window = 32, .pool = 1}}, {.kv_heads = 8}, reduce::mean, true},
                     windowkv{{.budget = tokens / 4, .kv_heads = 8, .group_layers = 1}},
                     chunkkv{{.size = 16}}};
               }),
};

}  // namespace
