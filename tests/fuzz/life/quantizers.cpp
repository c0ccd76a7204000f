// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "life/live.hpp"
#include "life/table.hpp"

#include <numeric>

// Everything is kept; how it is stored differs. Losses are of the row's whole spread: half a step
// of its codes, the parameters' rounding, and a little.

namespace life {

std::vector<entry> quantizers() {
  using namespace kvslim;
  constexpr double two = 0.25, three = 0.11, four = 0.05, five = 0.025, eight = 4e-3, half = 1e-3,
                   brain = 8e-3, byte = 0.06;
  return {
      {"dense f32",
       [](dice& d) {
         live<float, bf16>(d, pipeline{dense<float>{}}, {{0.0, 0.0}, 1});
       }},
      {"dense f16",
       [](dice& d) {
         live<f16, float>(d, pipeline{dense<f16>{}}, {{half, half}, 1});
       }},
      {"dense e4m3",
       [](dice& d) {
         live<bf16, e4m3>(d, pipeline{dense<e4m3>{}}, {{byte, byte, 2e-3}, 1});
       }},
      {"kivi 2",
       [](dice& d) {
         index_t const group = 16 * d.in(1, 10);  // what fills no runs is refused
         index_t const runs = std::lcm(group, index_t{32});
         live<float, float>(
             d,
             pipeline{kivi<2>{{.group = group, .residual = runs * d.in(0, 2), .value_group = 32}}},
             {{two, two}, 32});
       }},
      {"kivi 3, 5 with bf16",
       [](dice& d) {
         live<bf16, f16>(d,
                         pipeline{kivi<3, 5, bf16>{
                             {.group = 16, .residual = 16 * d.in(0, 4), .value_group = 32}}},
                         {{three + brain, five + brain}, 32});
       }},
      {"kivi 4",
       [](dice& d) {
         live<f16, f16>(d, pipeline{kivi<4>{{.group = 64, .residual = 64 * d.in(0, 2)}}},
                        {{four, four}, 64});
       }},
      {"int8 per token",
       [](dice& d) {
         live<float, e5m2>(d, pipeline{int_per_token<8>{{.residual = d.small(40)}}},
                           {{eight, eight}, 4});
       }},
      {"int4 per token, f32",
       [](dice& d) {
         live<float, float>(d, pipeline{int_per_token<4, float, float>{{.residual = d.small(40)}}},
                            {{four, four}, 4});
       }},
      {"fp8",
       [](dice& d) {
         live<float, bf16>(
             d, pipeline{fp8<>{{.residual = d.small(40), .group = d.one_in(2) ? 16 : 0}}},
             {{byte, byte, 2e-3}, 32});
       }},
      {"nvfp4, mxfp4",
       [](dice& d) {
         auto const rule = d.one_in(2) ? fp4_rounding::ggml : fp4_rounding::even;
         fp4<fp4_block::nvfp4, fp4_block::mxfp4> const floats{
             {.residual = d.small(40), .rounding = rule}};
         // Half of e4m3's smallest scale and more is lost of what is small, times 6.
         live<float, float>(d, pipeline{floats}, {{two, two, 6.0 / 512}, 32});
       }},
      {"pages over kivi 4",
       [](dice& d) {
         pipeline const p{kivi<4>{{.group = 32, .residual = 32 * d.in(0, 2)}},
                          quest<>{{.budget = d.small(200), .page = 1 + d.small(40)}}};
         live<f16, float>(d, p, {{four, four}, 32});
       }},
      {"pages over int8",
       [](dice& d) {
         pipeline const p{int_per_token<8>{{.residual = d.small(40)}},
                          quest<float>{{.budget = d.small(100),
                                        .page = 1 + d.small(20),
                                        .rule = quest_rule::evaluation}}};
         live<float, bf16>(d, p, {{eight, eight}, 4});
       }},
      {"channel keys, dense values",
       [](dice& d) {
         codec_pair const pair{channel_key<4>{32, 32 * d.in(0, 2)}, dense_value<bf16>{}};
         live<float, bf16>(d, pipeline{pair}, {{four, brain}, 32});
       }},
  };
}

}  // namespace life
