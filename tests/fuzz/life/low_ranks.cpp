// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "life/live.hpp"
#include "life/table.hpp"

// Codecs that keep few directions: only what attention makes of the stored rows is judged there.

namespace life {

namespace {

using namespace kvslim;

constexpr double anything = 1e3;

}  // namespace

std::vector<entry> low_ranks() {
  return {
      {"gear 4",
       [](dice& d) {
         live<float, float>(d,
                            pipeline{gear<4>{{.group = 32,
                                              .residual = 32 * d.in(1, 3),
                                              .rank = d.in(0, 4),
                                              .grown_rank = d.in(0, 3),
                                              .outliers = d.one_in(2) ? 0.02f : 0.2f,
                                              .kcvt = d.one_in(2)}}},
                            {{anything, anything}, 32});
       }},
      {"xkv",
       [](dice& d) {
         xkv<float> const few{{.rows = {1, 1},
                               .key_rank = d.in(1, 32),
                               .value_rank = d.in(1, 32),
                               .residual = d.small(20)}};
         live<float, float>(d, pipeline{few}, {{anything, anything}, 32});
       }},
      {"eigen_attention, as given",
       [](dice& d) {
         eigen_attention<bf16, key_form::as_given> const few{{.kv_heads = d.in(1, 3),
                                                              .key_rank = d.in(1, 32),
                                                              .value_rank = d.in(1, 32),
                                                              .residual = d.small(20)}};
         live<float, bf16>(d, pipeline{few}, {{anything, anything}, 32});
       }},
      {"matryoshkakv",  // what it loses of small rows is a part of the table's mean
       [](dice& d) {
         matryoshkakv<float> const few{{.kv_heads = d.in(1, 3),
                                        .key_rank = d.in(1, 32),
                                        .value_rank = d.in(1, 32),
                                        .residual = d.small(20)}};
         live<float, float>(d, pipeline{few}, {{anything, anything, anything}, 32});
       }},
      {"shadowkv",
       [](dice& d) {
         shadowkv<float> const keys{{.kv_heads = 1, .rank = d.in(1, 32), .local = d.small(20)}};
         live<float, float>(d, pipeline{keys}, {{anything, anything}, 32});
       }},
      {"palu 4",
       [](dice& d) {
         palu<4> const factors{{.kv_heads = d.in(1, 3),
                                .heads = 1,
                                .key_rank = 4 * d.in(1, 8),
                                .value_rank = d.in(1, 32),
                                .residual = d.small(20)}};
         live<float, float>(d, pipeline{factors}, {{anything, anything}, 32});
       }},
      {"cskv 4",  // rows of more heads would have to hold the same tokens
       [](dice& d) {
         cskv<f16, 4> const factors{{.kv_heads = 1,
                                     .key_rank = 4 * d.in(1, 8),
                                     .value_rank = d.in(1, 32),
                                     .window = d.small(20)}};
         live<float, float>(d, pipeline{factors}, {{anything, anything}, 32});
       }},
  };
}

}  // namespace life
