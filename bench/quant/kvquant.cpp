// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("kvquant_4", [](index_t) { return kvquant<4>{}; }),
    bench::add("kvquant_4_prompt", [](index_t) { return kvquant<4, 4, codebook_from::prompt>{}; }),
};

}  // namespace
