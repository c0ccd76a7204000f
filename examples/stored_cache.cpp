// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Reads a stored cache without naming the policy that made it: a buffer says which codecs it holds.

#include "support.hpp"

#include <kvslim/kvslim.hpp>

#include <cstdio>

// [readme: stored]
kvslim::status attend_stored(std::byte* bytes, std::size_t size, kvslim::attend_request<> request) {
  kvslim::inspected found;  // shapes, bytes and forms, before any type is named
  if (auto s = kvslim::inspect(bytes, size, found); !s) return s;
  std::printf("%lld KV heads of %lld, up to %lld tokens, %zu bytes\n",
              static_cast<long long>(found.extent.kv_heads),
              static_cast<long long>(found.extent.head_dim),
              static_cast<long long>(found.extent.tokens), found.bytes);
  using kvslim::stored_as;
  kvslim::any_cache<stored_as<kvslim::dense_key<kvslim::f16>, kvslim::dense_value<kvslim::f16>>,
                    stored_as<kvslim::channel_key<2>, kvslim::token_value<2>>,
                    stored_as<kvslim::channel_key<4>, kvslim::token_value<4>>> const cache(bytes,
                                                                                           size);
  return cache.visit(
      [&](auto const& packed) { return kvslim::attend(kvslim::cpu{}, packed, request); });
}
// [readme: end]

/// What another program might have done: any pipeline, serialized.
std::vector<std::byte> stored_by_somebody(auto policy, example::random_cache const& data) {
  auto const plan = kvslim::make_plan(policy, data.view().extents());
  std::vector<std::byte> storage(plan.packed_bytes()), scratch(plan.workspace_bytes());
  kvslim::packed_cache packed(plan, storage);
  if (!kvslim::compress(kvslim::cpu{}, plan, data.view(),
                        kvslim::evidence{kvslim::window_queries{data.window(32)}}, packed, scratch))
    return {};
  std::vector<std::byte> out(kvslim::serialized_bytes(packed));
  return kvslim::serialize(packed, out.data(), out.size()) ? out : std::vector<std::byte>{};
}

int main() {
  using namespace kvslim;
  example::random_cache const data({.sequences = 1, .kv_heads = 2, .tokens = 1024, .head_dim = 64},
                                   8);
  std::vector<float> out(8 * 64), lse(8);
  bool good = true;
  for (auto bytes :
       {stored_by_somebody(pipeline{knorm{}, top_k{{.budget = 300}}}, data),
        stored_by_somebody(pipeline{snapkv{}, top_k{{.budget = 300}}, kivi<4>{}}, data),
        stored_by_somebody(kivi<2>{}, data)}) {
    auto const done = attend_stored(
        bytes.data(), bytes.size(),
        {.q = data.query(), .out = dense_rows(out.data(), {1, 8, 1, 64}), .lse = lse.data()});
    std::printf("  %s, lse %.4f\n", done.message, static_cast<double>(lse[0]));
    good = good && done;
  }
  return good ? 0 : 1;
}
