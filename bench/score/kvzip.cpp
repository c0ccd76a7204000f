// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

// As many probes as tokens, in one stretch.
[[maybe_unused]] int const registered[] = {
    bench::add("kvzip_25",
               [](index_t tokens) {
                 return pipeline{kvzip{}, top_k{{.budget = tokens / 4}}};
               }),
};

}  // namespace
