// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

// Two KV heads stand for a head of two layers: the bytes and the work are the same.
[[maybe_unused]] int const registered[] = {
    bench::add("minicache",
               [](index_t) {
                 return minicache<>{{.rows = {1, 2}}};
               }),
};

}  // namespace
