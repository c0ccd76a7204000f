// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "life/live.hpp"
#include "life/table.hpp"

// Scorers that remember: their columns move with their tokens. Three pairs of codecs, as in
// scorers.cpp.

namespace life {

namespace {

using namespace kvslim;

constexpr double four = 0.05, eight = 4e-3, half = 1e-3;

struct mass {
  float sum;
};

/// What H2O remembers, written out here: a policy of the user's own.
struct hitters {
  static constexpr scorer_traits<mass, needs_window_queries> traits{.observes = true,
                                                                    .heads = reduce::sum};
  [[nodiscard]] mass born(place const&) const { return {0.0f}; }
  void observe(mass& c, float p, place const&) const { c.sum += p; }
  [[nodiscard]] float score(auto const& t) const { return t.column().sum; }
};

top_k draw_quota(dice& d) {
  return {{.budget = d.in(1, 60), .sinks = d.small(4), .recent = d.small(8)}};
}

}  // namespace

std::vector<entry> observers() {
  return {
      {"hitters, int8",
       [](dice& d) {
         index_t const w = d.in(1, 8);
         live<float, float>(
             d, pipeline{hitters{}, draw_quota(d), int_per_token<8>{{.residual = d.small(12)}}},
             {{eight, eight}, 4, w});
       }},
      {"shared hitters, kivi 4",
       [](dice& d) {
         index_t const w = d.in(1, 8);
         live<bf16, f16>(
             d,
             pipeline{shared{hitters{}, {1, d.in(1, 3)}}, draw_quota(d), kivi<4>{{.residual = 32}}},
             {{four, four}, 32, w});
       }},
      {"hitters, f16",
       [](dice& d) {
         live<float, float>(d, pipeline{hitters{}, draw_quota(d)}, {{half, half}, 1, 1});
       }},
      {"streaming, int8",
       [](dice& d) {
         live<float, float>(
             d,
             pipeline{streaming_llm{}, draw_quota(d), int_per_token<8>{{.residual = d.small(12)}}},
             {{eight, eight}, 4});
       }},
      {"knorm, evictions from f16",
       [](dice& d) {
         live<f16, f16>(d, pipeline{knorm{}, draw_quota(d), dense<f16>{}}, {{half, half}, 1});
       }},
  };
}

}  // namespace life
