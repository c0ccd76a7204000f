// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("coverage_90",
               [](index_t) {
                 return pipeline{snapkv{{.window = 32}}, coverage{{.part = 0.9f}}};
               }),
};

}  // namespace
