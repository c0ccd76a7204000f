// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Compose a pipeline, compress one layer's cache, attend to what is stored.

#include "support.hpp"

#include <kvslim/kvslim.hpp>

#include <cstdio>

// [readme: compose]
constexpr auto policy = kvslim::pipeline{
    kvslim::snapkv{{.window = 32, .pool = 5}}, kvslim::top_k{{.budget = 1024, .sinks = 4}},
    kvslim::kvmerger{{.threshold = 0.75f}}, kvslim::kivi<2>{{.group = 32, .residual = 128}}};

kvslim::status compress_and_attend(auto cache, auto evidence, kvslim::attend_request<> request) {
  auto const plan = kvslim::make_plan(policy, cache.extents());
  std::vector<std::byte> storage(plan.packed_bytes()), scratch(plan.workspace_bytes());
  kvslim::packed_cache packed(plan, storage);  // memory is the caller's
  if (auto s = kvslim::compress(kvslim::cpu{}, plan, cache, evidence, packed, scratch); !s)
    return s;
  std::printf("%zu bytes for %lld tokens\n", packed.bytes(),
              static_cast<long long>(packed.tokens(0, 0)));
  return kvslim::attend(kvslim::cpu{}, packed, request);
}
// [readme: end]

int main() {
  example::random_cache const data({.sequences = 1, .kv_heads = 2, .tokens = 4096, .head_dim = 64},
                                   8);
  std::vector<float> out(8 * 64), lse(8);
  auto const done = compress_and_attend(
      data.view(), kvslim::evidence{kvslim::window_queries{data.window(32)}},
      {.q = data.query(), .out = kvslim::dense_rows(out.data(), {1, 8, 1, 64}), .lse = lse.data()});
  std::printf("%s, lse %.4f\n", done.message, static_cast<double>(lse[0]));
  return done.ok() ? 0 : 1;
}
