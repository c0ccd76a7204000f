// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("d2o_25",
               [](index_t tokens) {
                 return pipeline{given_scores{}, top_k{{.budget = tokens / 4}}, d2o{}};
               }),
};

}  // namespace
