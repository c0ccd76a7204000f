// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add(
        "dynamickv_25",
        [](index_t tokens) {
          return pipeline{snapkv{{.window = 32}}, dynamickv{{.budget = tokens / 4, .kv_heads = 8}}};
        }),
};

}  // namespace
