// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

// The codecs by themselves, in the combination that no named quantizer uses: a larger key group.
namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("affine_group_128", [](index_t) { return kivi<4>{{.group = 128, .residual = 128}}; }),
};

}  // namespace
