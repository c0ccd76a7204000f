// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("cake_25",
               [](index_t tokens) {
                 return pipeline{cake_scores{}, cake{{.budget = tokens / 4, .kv_heads = 8}}};
               }),
};

}  // namespace
