// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("kvmerger_25",
               [](index_t tokens) {
                 return pipeline{given_scores{}, top_k{{.budget = tokens / 4}}, kvmerger{}};
               }),
    bench::add("kvmerger_alone",
               [](index_t) {
                 return pipeline{given_scores{}, kvmerger{}};
               }),
};

}  // namespace
