// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// A scorer that remembers: it keeps the tokens that were looked at most recently.

#include "support.hpp"

#include <kvslim/kvslim.hpp>

#include <cstdio>

// [contributing: column]
/// When a query last paid a token more than its fair share.
struct last_use {
  std::int32_t position;
};
struct recently_used {
  static constexpr kvslim::scorer_traits<last_use, kvslim::needs_window_queries> traits{
      .observes = true, .heads = kvslim::reduce::maximum};
  KVSLIM_HD last_use born(kvslim::place const& at) const { return {at.position}; }
  KVSLIM_HD void observe(last_use& x, float mass, kvslim::place const& at) const {
    if (mass * static_cast<float>(at.visible) > 1.0f) x.position = at.now;
  }
  KVSLIM_HD float score(auto const& token) const {
    return static_cast<float>(token.column().position - token.now());
  }
};
static_assert(kvslim::scorer<recently_used>);
// [contributing: end]

int main() {
  kvslim::extents const prompt{.sequences = 1, .kv_heads = 2, .tokens = 512, .head_dim = 64};
  example::random_cache const data(prompt, 8);
  auto const plan = kvslim::make_plan(
      kvslim::pipeline{recently_used{}, kvslim::top_k{{.budget = 64}}}, prompt, {.evicts = true});
  std::vector<std::byte> storage(plan.packed_bytes()), scratch(plan.workspace_bytes());
  kvslim::packed_cache packed(plan, storage);
  auto const done =
      kvslim::compress(kvslim::cpu{}, plan, data.view(),
                       kvslim::evidence{kvslim::window_queries{data.window(32)}}, packed, scratch);
  std::printf("%s: %lld of 512 tokens, the first at position %d\n", done.message,
              static_cast<long long>(packed.tokens(0, 0)), packed.position(0, 0, 0));
  return done && packed.tokens(0, 0) == 64 ? 0 : 1;
}
