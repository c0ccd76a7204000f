// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "life/live.hpp"
#include "life/table.hpp"

// Bases of the codec's own, and mergers that fold into any kept token.
// Few bits or levels lose what they lose: only what attention makes of the stored rows is judged
// there.

namespace life {

namespace {

using namespace kvslim;

constexpr double anything = 1e3;

top_k draw_quota(dice& d) {
  return {{.budget = d.in(1, 100), .sinks = d.small(6), .recent = d.small(12)}};
}

}  // namespace

std::vector<entry> bases() {
  return {
      {"rotated int8",
       [](dice& d) {
         auto const seed = static_cast<std::uint64_t>(d.in(0, 3));
         live<float, f16>(
             d, pipeline{rotated{int_per_token<8>{{.residual = d.small(40)}}, {.seed = seed}}},
             {{0.2, 0.2}, 32});
       }},
      {"mustafar",
       [](dice& d) {
         live<f16, float>(d,
                          pipeline{knorm{}, draw_quota(d),
                                   mustafar<>{{.key_share = 0.1f * static_cast<float>(d.in(0, 9)),
                                               .value_share = 0.1f * static_cast<float>(d.in(0, 9)),
                                               .residual = d.small(40)}}},
                          {{anything, anything}, 1});
       }},
      {"think, int8",
       [](dice& d) {
         live<float, f16>(d,
                          pipeline{think{int_per_token<8>{{.residual = d.small(20)}},
                                         {.share = 0.1f * static_cast<float>(d.in(0, 9)),
                                          .recent = d.small(20),
                                          .multiple = 4}}},
                          {{anything, anything}, 4});
       }},
      {"turboquant 4, 3",
       [](dice& d) {
         turboquant<4, 3, turbo_form::inner> const levels{
             {.residual = d.small(40),
              .seed = static_cast<std::uint64_t>(d.in(0, 3)),
              .length = d.pick({turbo_length::row, turbo_length::decoded, turbo_length::least})}};
         live<float, float>(d, pipeline{levels}, {{anything, anything}, 32});
       }},
      {"zipcache 4",
       [](dice& d) {
         zipcache<4> const one{{.residual = d.small(40)}};
         live<float, bf16>(d, pipeline{one}, {{anything, anything}, 32});
       }},
      {"mikv 4",  // some_tables' factors are 0.01 to 0.21 or 1: half a step of K, times up to 100
       [](dice& d) {
         mikv<4> const one{{.residual = d.small(40)}};
         live<float, bf16>(d, pipeline{one}, {{100 * 0.05, 0.05}, 32});
       }},
      {"kvquant 4, 2",
       [](dice& d) {
         kvquant<4, 2, codebook_from::prompt, float> const levels{
             {.sinks = d.small(5), .outliers = d.one_in(2) ? 0.01f : 0.1f}};
         live<float, f16>(d, pipeline{levels}, {{anything, anything}, 32});
       }},
      {"knorm, lookm, int8",
       [](dice& d) {
         lookm const fold{{.merge = d.pick({lookm_merge::averaged, lookm_merge::pivotal,
                                            lookm_merge::weighted, lookm_merge::normalized}),
                           .least = d.one_in(2) ? -1.0f : 0.5f,
                           .mass_bias = d.one_in(2)}};
         live<float, float>(d, pipeline{knorm{}, draw_quota(d), fold, int_per_token<8>{}},
                            {{anything, anything}, 4, 1, false});
       }},
      {"knorm, d2o, float",
       [](dice& d) {
         d2o const fold{{.weights = d.one_in(2) ? d2o_weights::counted : d2o_weights::softmax,
                         .filter = d.one_in(2) ? fold_filter::mean : fold_filter::places,
                         .mass_bias = d.one_in(2),
                         .running = !d.one_in(4)}};
         live<float, float>(d, pipeline{knorm{}, draw_quota(d), fold, dense<float>{}},
                            {{anything, anything}, 1, 1, false});
       }},
      {"streaming, compensation_token, float",
       [](dice& d) {
         compensation_token const mean{{.mass_bias = !d.one_in(4)}};
         live<float, float>(d, pipeline{streaming_llm{}, draw_quota(d), mean, dense<float>{}},
                            {{anything, anything}, 1, 1, false});
       }},
      {"chelsea, kivi 4",
       [](dice& d) {
         chelsea const halves{{.chunk = d.in(2, 70),
                               .part = 0.25f * static_cast<float>(d.in(0, 4)),
                               .sinks = d.small(5),
                               .recent = d.small(20),
                               .mass_bias = d.one_in(2)}};
         live<float, bf16>(d, pipeline{knorm{}, halves, kivi<4>{{.residual = 32}}},
                           {{anything, anything}, 32, 1, false});
       }},
  };
}

}  // namespace life
