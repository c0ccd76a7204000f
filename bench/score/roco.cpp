// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("roco_25",
               [](index_t tokens) {
                 return pipeline{roco{{.budget = tokens / 4}},
                                 top_k{{.budget = tokens / 4, .recent = 10}}};
               }),
};

}  // namespace
