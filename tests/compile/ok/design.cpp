// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// The code blocks of the design as they stand there, with the variables they take for granted.

#include <kvslim/kvslim.hpp>

#include <cmath>
#include <vector>

/// Keeps the tokens whose keys are shortest (arXiv:2406.11430).
struct short_keys {
  using stage = kvslim::scorer_tag;
  float power = 1.0f;
  KVSLIM_HD float score(auto const& token) const {  // higher means keep
    float sum = 0;
    for (float x : token.key()) sum += x * x;
    return -std::pow(sum, 0.5f * power);
  }
};
static_assert(kvslim::scorer<short_keys>);

namespace {

template <class Cache, class Evidence, class Query, class Out>
bool compose(Cache cache, Evidence evidence, Query query, Out out, float* lse) {
  constexpr auto policy = kvslim::pipeline{
      kvslim::snapkv{{.window = 32, .pool = 5}}, kvslim::top_k{{.budget = 1024, .sinks = 4}},
      kvslim::kvmerger{{.threshold = 0.75f}}, kvslim::kivi<2>{{.group = 32, .residual = 128}}};
  auto const plan = kvslim::make_plan(policy, cache.extents());
  std::vector<std::byte> storage(plan.packed_bytes());
  std::vector<std::byte> scratch(plan.workspace_bytes());
  kvslim::packed_cache packed(plan, storage);
  auto const done = kvslim::compress(kvslim::cpu{}, plan, cache, evidence, packed,
                                     scratch);  // [[nodiscard]] status
  return done.ok() && kvslim::attend(kvslim::cpu{}, query, packed, out, lse).ok();
}

}  // namespace

int main() {
  std::vector<float> k(2 * 2048 * 64, 0.5f), v(k.size(), 0.25f), q(8 * 32 * 64, 0.1f), out(8 * 64),
      lse(8);
  for (std::size_t i = 0; i < k.size(); ++i) k[i] = static_cast<float>(i * 7919 % 1009) / 1009.0f;
  auto const cache =
      kvslim::dense_cache<kvslim::host_space, float const>(k.data(), v.data(), {1, 2, 2048, 64});
  auto const window = kvslim::dense_rows<kvslim::host_space, float const>(q.data(), {1, 8, 32, 64});
  auto const query = kvslim::dense_rows<kvslim::host_space, float const>(q.data(), {1, 8, 1, 64});
  return compose(cache, kvslim::evidence{kvslim::window_queries{window}}, query,
                 kvslim::dense_rows(out.data(), {1, 8, 1, 64}), lse.data())
             ? 0
             : 1;
}
