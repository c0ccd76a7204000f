// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "life/live.hpp"
#include "life/table.hpp"

// Tokens are chosen, merged and moved. Three pairs of codecs do for all: each is compiled once, and
// quantizers.cpp has the others.

namespace life {

namespace {

using namespace kvslim;

constexpr double four = 0.05, eight = 4e-3, half = 1e-3;

top_k draw_quota(dice& d) {
  return {{.budget = d.one_in(5) ? d.in(1, 4) : d.in(1, 120),
           .sinks = d.small(6),
           .recent = d.small(12)}};
}
kvmerger draw_merger(dice& d) {
  return {{.threshold = 0.2f + 0.2f * static_cast<float>(d.in(0, 4)),
           .sigma = d.one_in(4) ? 0.0f : 5.0f,
           .recent = d.small(5),
           .sinks = d.small(5),
           .value_scale_n = d.one_in(4),
           .mass_bias = d.one_in(2)}};
}
snapkv draw_snapkv(dice& d, index_t window) {
  return {{.window = window,
           .pool = 1 + 2 * d.in(0, 3),
           .kind = d.one_in(2) ? pooling::average : pooling::maximum,
           .heads = d.pick({reduce::mean, reduce::sum, reduce::maximum})}};
}
rerotate draw_mover(dice& d) {
  rerotate out{};
  out.opt.interleaved = d.one_in(2);
  if (d.one_in(3)) out.opt.dims = 2;
  return out;
}

/// Rows of a layer fill half of their tokens together, by a contest.
struct pool_quota {
  static constexpr quota_traits traits{.contests = true};
  index_t heads = 1, sure = 0;

  [[nodiscard]] status check(extents const&) const noexcept { return {}; }
  [[nodiscard]] row_group group() const noexcept { return {1, heads}; }
  [[nodiscard]] index_t most(extents const& e) const noexcept { return e.tokens; }
  [[nodiscard]] index_t total(extents const& e) const noexcept {
    return (e.tokens * heads + 1) / 2;
  }
  [[nodiscard]] contest open(extents const& e, index_t) const noexcept { return {total(e), sure}; }
  void allocate(slice<row_facts const> facts, slice<quota> out) const noexcept {
    for (index_t i = 0; i < facts.size; ++i) out[i].count = facts[i].winners + facts[i].recent;
  }
};

}  // namespace

std::vector<entry> scorers() {
  return {
      {"snapkv, kivi 4",
       [](dice& d) {
         index_t const w = d.in(1, 12);
         live<f16, bf16>(d, pipeline{draw_snapkv(d, w), draw_quota(d), kivi<4>{{.residual = 32}}},
                         {{four, four}, 32, w});
       }},
      {"snapkv, f16",
       [](dice& d) {
         index_t const w = d.in(1, 12);
         live<float, float>(d, pipeline{draw_snapkv(d, w), draw_quota(d)}, {{half, half}, 1, w});
       }},
      {"knorm, int8",
       [](dice& d) {
         live<float, f16>(
             d, pipeline{knorm{}, draw_quota(d), int_per_token<8>{{.residual = d.small(20)}}},
             {{eight, eight}});
       }},
      {"knorm, kvmerger, int8",
       [](dice& d) {
         live<float, float>(d, pipeline{knorm{}, draw_quota(d), draw_merger(d), int_per_token<8>{}},
                            {{eight, eight}, 4, 1, false});
       }},
      {"snapkv, kvmerger, kivi 4",
       [](dice& d) {
         index_t const w = d.in(1, 6);
         live<bf16, float>(d,
                           pipeline{draw_snapkv(d, w), draw_quota(d), draw_merger(d),
                                    kivi<4>{{.residual = 32 * d.in(0, 2)}}},
                           {{four, four}, 32, w, false});
       }},
      {"streaming, rerotate",
       [](dice& d) {
         live<float, float>(d, pipeline{streaming_llm{}, draw_quota(d), draw_mover(d)},
                            {{half, half}, 2});
       }},
      {"streaming, rerotate, kivi 4",
       [](dice& d) {
         live<f16, f16>(d,
                        pipeline{streaming_llm{{.sinks = d.small(6)}}, draw_quota(d), draw_mover(d),
                                 kivi<4>{{.residual = 0}}},
                        {{four, four}, 32});
       }},
      {"given scores, f16",
       [](dice& d) {
         live<float, e4m3>(d, pipeline{given_scores{}, draw_quota(d)}, {{half, half}, 1});
       }},
      {"shared knorm",
       [](dice& d) {
         live<float, float>(d, pipeline{shared{knorm{}, {d.in(1, 3), d.in(1, 3)}}, draw_quota(d)},
                            {{half, half}, 1});
       }},
      {"knorm, kvmerger, rerotate, int8",
       [](dice& d) {
         live<float, bf16>(d, pipeline{knorm{}, draw_merger(d), draw_mover(d), int_per_token<8>{}},
                           {{eight, eight}, 4, 1, false});
       }},
      {"knorm, contest, f16",
       [](dice& d) {
         live<float, float>(d, pipeline{knorm{}, pool_quota{d.in(1, 3), d.small(8)}},
                            {{half, half}, 1, 1, false});
       }},
  };
}

}  // namespace life
