// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/method.hpp"

using namespace kvslim;

namespace {

auto policy(index_t tokens, bool covariance) {
  return pipeline{expected_attention<>{{.covariance = covariance}}, top_k{{.budget = tokens / 4}}};
}

[[maybe_unused]] int const registered[] = {
    bench::add("expected_attention_25", [](index_t tokens) { return policy(tokens, true); }),
    bench::add("expected_attention_mean_25", [](index_t tokens) { return policy(tokens, false); }),
};

}  // namespace
