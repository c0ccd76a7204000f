// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("mxfp4", [](index_t) { return fp4<fp4_block::mxfp4>{}; }),
    bench::add("nvfp4", [](index_t) { return fp4<fp4_block::nvfp4>{}; }),
};

}  // namespace
