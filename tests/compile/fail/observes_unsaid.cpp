// expect: kvslim: this scorer has observe() and does not say .observes = true
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct modest {
  static constexpr kvslim::scorer_traits<float> traits{};
  float born(kvslim::place const&) const { return 0; }
  void observe(float& column, float mass, kvslim::place const&) const { column += mass; }
  float score(auto const&) const { return 0; }
};
auto const p = kvslim::pipeline{modest{}, kvslim::top_k{{.budget = 4}}};
