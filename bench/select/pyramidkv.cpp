// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("pyramidkv_25",
               [](index_t tokens) {
                 return pipeline{
                     snapkv{{.window = 32}},
                     pyramidkv{{.budget = tokens / 4, .layers = 32, .kv_heads = 8, .layer = 8}}};
               }),
};

}  // namespace
