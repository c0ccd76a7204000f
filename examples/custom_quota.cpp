// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// A quota of one's own: how many tokens each head keeps.

#include "support.hpp"

#include <kvslim/kvslim.hpp>

#include <cstdio>

// [contributing: quota]
/// Gives each following head half as much as the one before.
struct halving {
  static constexpr kvslim::quota_traits traits{};
  kvslim::index_t first = 256, heads = 2;
  kvslim::status check(kvslim::extents const&) const { return {}; }
  KVSLIM_HD kvslim::row_group group() const { return {.kv_heads = heads}; }
  KVSLIM_HD kvslim::index_t most(kvslim::extents const&) const { return first; }
  KVSLIM_HD kvslim::index_t total(kvslim::extents const&) const { return 2 * first; }
  KVSLIM_HD void allocate(auto facts, auto quotas) const {
    for (int i = 0; i < facts.size; ++i) quotas[i] = {.count = first >> i, .recent = 16};
  }
};
static_assert(kvslim::quota_policy<halving>);
// [contributing: end]

int main() {
  example::random_cache const data({.sequences = 1, .kv_heads = 2, .tokens = 512, .head_dim = 64},
                                   8);
  auto const plan =
      kvslim::make_plan(kvslim::pipeline{kvslim::knorm{}, halving{}}, data.view().extents());
  std::vector<std::byte> storage(plan.packed_bytes()), scratch(plan.workspace_bytes());
  kvslim::packed_cache packed(plan, storage);
  auto const done =
      kvslim::compress(kvslim::cpu{}, plan, data.view(), kvslim::evidence<>{}, packed, scratch);
  std::printf("%s: %lld and %lld of 512 tokens\n", done.message,
              static_cast<long long>(packed.tokens(0, 0)),
              static_cast<long long>(packed.tokens(0, 1)));
  return done && packed.tokens(0, 0) == 256 && packed.tokens(0, 1) == 128 ? 0 : 1;
}
