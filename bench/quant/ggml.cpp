// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("ggml_q8_0", [](index_t) { return ggml<ggml_block::q8_0>{}; }),
    bench::add("ggml_q5_1", [](index_t) { return ggml<ggml_block::q5_1>{}; }),
    bench::add("ggml_q5_0", [](index_t) { return ggml<ggml_block::q5_0>{}; }),
    bench::add("ggml_q4_1", [](index_t) { return ggml<ggml_block::q4_1>{}; }),
    bench::add("ggml_q4_0", [](index_t) { return ggml<ggml_block::q4_0>{}; }),
    bench::add("ggml_q8_0_q4_0",
               [](index_t) { return ggml<ggml_block::q8_0, ggml_block::q4_0>{}; }),
};

}  // namespace
