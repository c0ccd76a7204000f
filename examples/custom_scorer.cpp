// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// A policy of one's own, used inside a pipeline.

#include "support.hpp"

#include <kvslim/kvslim.hpp>

#include <cmath>
#include <cstdio>

// [readme: scorer]
/// Keeps the tokens whose keys are shortest (arXiv:2406.11430).
struct short_keys {
  static constexpr kvslim::scorer_traits<> traits{};
  float power = 1.0f;
  KVSLIM_HD float score(auto const& token) const {  // higher means keep
    float sum = 0;
    for (float x : token.key()) sum += x * x;
    return -std::pow(sum, 0.5f * power);
  }
};
static_assert(kvslim::scorer<short_keys>);
// [readme: end]

int main() {
  example::random_cache const data({.sequences = 1, .kv_heads = 2, .tokens = 512, .head_dim = 64},
                                   8);
  auto const policy =
      kvslim::pipeline{short_keys{}, kvslim::top_k{{.budget = 64, .sinks = 4, .recent = 8}}};
  auto const plan = kvslim::make_plan(policy, data.view().extents());
  std::vector<std::byte> storage(plan.packed_bytes()), scratch(plan.workspace_bytes());
  kvslim::packed_cache packed(plan, storage);
  auto const done =
      kvslim::compress(kvslim::cpu{}, plan, data.view(), kvslim::evidence<>{}, packed, scratch);
  std::printf("%s: %lld of 512 tokens, the first at position %d, the last at %d\n", done.message,
              static_cast<long long>(packed.tokens(0, 0)), packed.position(0, 0, 0),
              packed.position(0, 0, 63));
  return done.ok() && packed.tokens(0, 0) == 64 ? 0 : 1;
}
