// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("eigen_attention", [](index_t) { return eigen_attention<>{}; }),
    bench::add("eigen_attention_as_given",
               [](index_t) { return eigen_attention<f16, key_form::as_given>{}; }),
};

}  // namespace
