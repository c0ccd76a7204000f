// expect: kvslim: a scorer that observes names its column
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct forgetful {
  static constexpr kvslim::scorer_traits<> traits{.observes = true};
  kvslim::no_column born(kvslim::place const&) const { return {}; }
  void observe(kvslim::no_column&, float, kvslim::place const&) const {}
  float score(auto const&) const { return 0; }
};
auto const p = kvslim::pipeline{forgetful{}, kvslim::top_k{{.budget = 4}}};
