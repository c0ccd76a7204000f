// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// A merger of one's own: how much each member of a run weighs in the token that stands for it.

#include "support.hpp"

#include <kvslim/kvslim.hpp>

#include <cmath>
#include <cstdio>

// [contributing: merger]
/// Members weigh by how near their keys are to the kept token's.
struct near_first : kvslim::neighbour_merger {
  static constexpr kvslim::merger_traits traits{};
  KVSLIM_HD kvslim::fold_weights weigh(kvslim::fold_member const& m) const {
    float const w = 1.0f / (1.0f + m.distance2);
    return {.key = w, .value = w};
  }
};
static_assert(kvslim::merger<near_first>);
// [contributing: end]

int main() {
  // Every key twice, so that there is something to merge.
  kvslim::extents const e{.sequences = 1, .kv_heads = 2, .tokens = 512, .head_dim = 64};
  example::random_cache const data(e, 8);
  std::vector<float> k(2 * 512 * 64), v(k.size());
  for (kvslim::index_t i = 0; i < 2 * 512 * 64; ++i) {
    auto const row = i / 64, pair = row - row % 2;
    k[static_cast<std::size_t>(i)] = data.view().k.data[pair * 64 + i % 64];
    v[static_cast<std::size_t>(i)] = static_cast<float>(row % 2);
  }
  auto const cache = kvslim::dense_cache(k.data(), v.data(), e);
  auto const plan = kvslim::make_plan(kvslim::pipeline{kvslim::knorm{}, near_first{}}, e);
  std::vector<std::byte> storage(plan.packed_bytes()), scratch(plan.workspace_bytes());
  kvslim::packed_cache packed(plan, storage);
  auto const done =
      kvslim::compress(kvslim::cpu{}, plan, cache, kvslim::evidence<>{}, packed, scratch);
  std::printf("%s: 512 tokens became %lld, the first value is now %.2f\n", done.message,
              static_cast<long long>(packed.tokens(0, 0)),
              static_cast<double>(packed.value(0, 0, 0)));
  return done && packed.tokens(0, 0) == 256 && packed.value(0, 0, 0) == 0.5f ? 0 : 1;
}
