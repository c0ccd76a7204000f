// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("codec_pair_k8_v4",
               [](index_t) {
                 return codec_pair{token_key<8>{}, token_value<4>{}};
               }),
};

}  // namespace
