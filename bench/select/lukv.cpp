// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("lukv_25",
               [](index_t) {
                 static constexpr float removed[] = {0.9f,  0.6f, 0.7f,  0.8f,
                                                     0.75f, 0.5f, 0.95f, 0.8f};
                 return pipeline{snapkv{{.window = 32}},
                                 lukv<>{{.removed = removed, .kv_heads = 8, .kept = 0.25}}};
               }),
};

}  // namespace
