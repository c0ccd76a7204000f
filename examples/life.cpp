// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// A cache's whole life: plan once, prefill, then decode at a fixed budget. Every step appends a
// token, attends, notes what each token was paid, and lets the least useful one go.

#include "support.hpp"

#include <kvslim/kvslim.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>

// [readme: life]
/// One layer's cache. The engine calls prefill once, then step for every token it decodes.
struct layer {
  static constexpr auto policy =
      kvslim::pipeline{kvslim::h2o<>{}, kvslim::top_k{{.budget = 256, .sinks = 4, .recent = 64}}};
  using plan_type = decltype(kvslim::make_plan(policy, kvslim::extents{}));
  using packed_type = kvslim::packed_cache<plan_type::key_codec_type, plan_type::value_codec_type>;

  plan_type plan;  // arithmetic only: every size is known before there is data
  std::vector<std::byte> storage{plan.packed_bytes()};
  std::vector<std::byte> scratch{std::max(
      {plan.workspace_bytes(), kvslim::append_bytes(plan.layout()), kvslim::victim_bytes(plan),
       kvslim::attend_bytes(plan.layout(), 8), kvslim::settle_bytes(plan.layout())})};
  packed_type packed{plan, storage};
  std::vector<float> lse = std::vector<float>(8), logits = std::vector<float>(8 * 260);
  std::vector<std::int32_t> victims = std::vector<std::int32_t>(2);

  kvslim::status prefill(auto cache, auto evidence) {
    return kvslim::compress(kvslim::cpu{}, plan, cache, evidence, packed, scratch);
  }
  kvslim::status step(auto q, auto k, auto v, auto out) {
    kvslim::cpu const exec;
    if (auto s = kvslim::append(exec, packed, k, v, scratch); !s) return s;
    kvslim::attend_request<> const request{
        .q = q, .out = out, .lse = lse.data(), .logits = logits.data(), .logits_stride = 260};
    if (auto s = kvslim::attend(exec, packed, request, scratch); !s) return s;
    if (auto s = kvslim::observe(exec, kvslim::h2o<>{}, packed, request); !s) return s;
    if (auto s = kvslim::choose_victims(exec, plan, packed, victims.data(), scratch); !s) return s;
    if (auto s = kvslim::evict(exec, packed, victims.data()); !s) return s;
    return kvslim::settle(exec, packed, scratch);  // the next token takes the victim's slot
  }
};
// [readme: end]

int main() {
  kvslim::extents const prompt{.sequences = 1, .kv_heads = 2, .tokens = 1024, .head_dim = 64};
  example::random_cache data(prompt, 8);
  layer cache{kvslim::make_plan(layer::policy, prompt, {.append_tokens = 2, .evicts = true})};
  auto const prefilled =
      cache.prefill(data.view(), kvslim::evidence{kvslim::window_queries{data.window(64)}});
  std::printf("prefill: %s, %lld of 1024 tokens in %zu bytes\n", prefilled.message,
              static_cast<long long>(cache.packed.tokens(0, 0)), cache.packed.bytes());
  std::vector<float> out(8 * 64);
  kvslim::rows_shape const one{1, 2, 1, 64}, many{1, 8, 1, 64};
  for (int t = 0; prefilled && t < 1000; ++t) {
    auto const k = data.next(2), v = data.next(2), q = data.next(8);
    auto const begin = std::chrono::steady_clock::now();
    auto const done =
        cache.step(kvslim::dense_rows(q.data(), many), kvslim::dense_rows(k.data(), one),
                   kvslim::dense_rows(v.data(), one), kvslim::dense_rows(out.data(), many));
    auto const us =
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin);
    if (t % 200 == 199 || !done)
      std::printf("step %4d: %s, %lld tokens held, next position %d, %.0f us\n", t + 1,
                  done.message, static_cast<long long>(cache.packed.tokens(0, 0)),
                  cache.packed.next_position(0), us.count());
    if (!done) return 1;
  }
  return prefilled && cache.packed.tokens(0, 0) == 256 && cache.packed.next_position(0) == 2024 ? 0
                                                                                                : 1;
}
