// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("head_table_25",
               [](index_t tokens) {
                 static std::int32_t counts[8];
                 for (std::int32_t h = 0; h < 8; ++h)
                   counts[h] = static_cast<std::int32_t>(tokens) * (2 * h + 1) / 32;
                 return pipeline{
                     snapkv{{.window = 32}},
                     head_table<>{{.counts = counts, .kv_heads = 8, .most = tokens / 2}}};
               }),
};

}  // namespace
