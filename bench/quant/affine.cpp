// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

// The affine codecs have no quantizer of their own name; this is KIVI's combination of them at its
// largest key group.
namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("affine_group_128",
               [](index_t) { return kivi<4>{{.group = 128, .residual = 128}}; }),
};

}  // namespace
