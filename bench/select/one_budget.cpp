// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("one_budget_25",
               [](index_t tokens) {
                 return pipeline{given_scores{},
                                 one_budget{{.budget = tokens / 4, .rows = {1, 8}, .recent = 64}}};
               }),
};

}  // namespace
