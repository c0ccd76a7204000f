// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// The programs of the design, with the variables they take for granted: compose, a scorer, a quota
// and a codec of one's own, a whole generation, a stored cache without its policy, keep sets for an
// engine that moves its own cells.

#include <kvslim/kvslim.hpp>

#include <cmath>
#include <vector>

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

/// The first head of every layer keeps twice what the others keep.
struct first_head_first {
  static constexpr kvslim::quota_traits traits{};
  kvslim::index_t each = 64;

  [[nodiscard]] constexpr kvslim::status check(kvslim::extents const&) const { return {}; }
  [[nodiscard]] KVSLIM_HD constexpr kvslim::row_group group() const { return {1, 2}; }
  [[nodiscard]] KVSLIM_HD constexpr kvslim::index_t most(kvslim::extents const&) const {
    return 2 * each;
  }
  [[nodiscard]] KVSLIM_HD constexpr kvslim::index_t total(kvslim::extents const&) const {
    return 3 * each;
  }
  KVSLIM_HD void allocate(kvslim::slice<kvslim::row_facts const>,
                          kvslim::slice<kvslim::quota> out) const {
    for (kvslim::quota& q : out) q = {.count = each, .sinks = 4};
    out[0].count = 2 * each;
  }
};
static_assert(kvslim::quota_policy<first_head_first>);

namespace {

using bytes = std::vector<std::byte>;
using kvslim::index_t;

struct scene {
  kvslim::extents extent{1, 2, 512, 64};
  std::vector<float> k = std::vector<float>(2 * 512 * 64), v = k,
                     q = std::vector<float>(8 * 32 * 64, 0.1f), out = std::vector<float>(8 * 64),
                     lse = std::vector<float>(8), logits = std::vector<float>(8 * 600);
  scene() {
    for (std::size_t i = 0; i < k.size(); ++i) {
      k[i] = static_cast<float>(i * 7919 % 1009) / 1009.0f;
      v[i] = static_cast<float>(i * 104729 % 997) / 997.0f;
    }
  }
  [[nodiscard]] auto cache() const { return kvslim::dense_cache(k.data(), v.data(), extent); }
  [[nodiscard]] auto window() const { return kvslim::dense_rows(q.data(), {1, 8, 32, 64}); }
  [[nodiscard]] kvslim::attend_request<> request() {
    return {.q = kvslim::dense_rows(q.data(), {1, 8, 1, 64}),
            .out = kvslim::dense_rows(out.data(), {1, 8, 1, 64}),
            .lse = lse.data(),
            .logits = logits.data(),
            .logits_stride = 600};
  }
};

bool compose(scene& s) {
  constexpr auto policy = kvslim::pipeline{
      kvslim::snapkv{{.window = 32, .pool = 5}}, kvslim::top_k{{.budget = 256, .sinks = 4}},
      kvslim::kvmerger{{.threshold = 0.75f}}, kvslim::kivi<2>{{.group = 32, .residual = 128}}};
  auto const cache = s.cache();
  auto const plan = kvslim::make_plan(policy, cache.extents());
  bytes storage(plan.packed_bytes()), scratch(plan.workspace_bytes());
  kvslim::packed_cache const packed(plan, storage);
  kvslim::evidence const evidence{kvslim::window_queries{s.window()}};
  auto const done = kvslim::compress(kvslim::cpu{}, plan, cache, evidence, packed, scratch);
  return done.ok() && kvslim::attend(kvslim::cpu{}, packed, s.request()).ok();
}

bool generation(scene& s) {
  kvslim::pipeline const policy{short_keys{},
                                kvslim::top_k{{.budget = 256, .sinks = 4, .recent = 32}},
                                kvslim::int_per_token<8>{{.residual = 32}}};
  auto const plan = kvslim::make_plan(policy, s.extent, {.append_tokens = 1, .evicts = true});
  bytes storage(plan.packed_bytes()), scratch(plan.workspace_bytes()),
      append_scratch(kvslim::append_bytes(plan.layout())),
      settle_scratch(kvslim::settle_bytes(plan.layout())),
      victim_scratch(kvslim::victim_bytes(plan));
  kvslim::packed_cache const packed(plan, storage);
  bool good =
      kvslim::compress(kvslim::cpu{}, plan, s.cache(), kvslim::evidence<>{}, packed, scratch).ok();
  std::int32_t victims[2];
  for (int step = 0; step < 40 && good; ++step) {
    auto const k = kvslim::dense_rows(s.k.data() + step * 128, {1, 2, 1, 64});
    good = kvslim::append(kvslim::cpu{}, packed, k, k, append_scratch).ok() &&
           kvslim::attend(kvslim::cpu{}, packed, s.request()).ok() &&
           kvslim::choose_victims(kvslim::cpu{}, plan, packed, victims, victim_scratch).ok() &&
           kvslim::evict(kvslim::cpu{}, packed, victims).ok() &&
           kvslim::settle(kvslim::cpu{}, packed, settle_scratch).ok();
  }
  return good && packed.tokens(0, 0) == 256 && packed.next_position(0) == 552;
}

bool without_its_policy(scene& s) {
  kvslim::pipeline const policy{kvslim::knorm{}, first_head_first{}, kvslim::kivi<4>{}};
  auto const plan = kvslim::make_plan(policy, s.extent);
  bytes storage(plan.packed_bytes()), scratch(plan.workspace_bytes());
  kvslim::packed_cache const packed(plan, storage);
  if (!kvslim::compress(kvslim::cpu{}, plan, s.cache(), kvslim::evidence<>{}, packed, scratch))
    return false;
  kvslim::inspected found;
  using exact = kvslim::stored_as<kvslim::dense_key<kvslim::f16>, kvslim::dense_value<kvslim::f16>>;
  using four = kvslim::stored_as<kvslim::channel_key<4>, kvslim::token_value<4>>;
  kvslim::any_cache<exact, four> const any(storage.data(), storage.size());
  return kvslim::inspect(storage.data(), storage.size(), found).ok() &&
         found.extent.tokens == 128 &&
         any.visit([&](auto const& stored) {
              return kvslim::attend(kvslim::cpu{}, stored, s.request());
            })
             .ok();
}

bool cells_of_its_own(scene& s) {
  auto cache = kvslim::dense_cache(s.k.data(), s.v.data(), s.extent);
  auto const plan = kvslim::make_plan(
      kvslim::pipeline{kvslim::streaming_llm{}, kvslim::top_k{{.budget = 100}}}, s.extent);
  bytes memory(plan.keep_bytes()), scratch(plan.select_bytes());
  auto keep = plan.keep(memory);
  return kvslim::select(kvslim::cpu{}, plan, cache, kvslim::evidence<>{}, keep, scratch).ok() &&
         kvslim::ops::compact(kvslim::cpu{}, cache, cache, keep).ok() && keep.count(1) == 100;
}

}  // namespace

int main() {
  scene s;
  return compose(s) && generation(s) && without_its_policy(s) && cells_of_its_own(s) ? 0 : 1;
}
