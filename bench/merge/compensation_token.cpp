// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("compensation_token_quarter",
               [](index_t n) {
                 return pipeline{streaming_llm{},
                                 top_k{{.budget = n / 4, .sinks = 4, .recent = n / 4 - 5}},
                                 compensation_token{}};
               }),
};

}  // namespace
