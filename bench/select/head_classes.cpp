// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

[[maybe_unused]] int const registered[] = {
    bench::add("head_classes_half",
               [](index_t) {
                 static constexpr std::uint8_t retrieval[] = {1, 0, 0, 1, 1, 0, 1, 0};
                 return pipeline{
                     streaming_llm{},
                     head_classes<>{{.retrieval = retrieval, .kv_heads = 8, .retrieval_heads = 4}}};
               }),
};

}  // namespace
