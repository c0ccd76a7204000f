// expect: kvslim: a scorer that says .bulk = true needs
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct incomplete {
  static constexpr kvslim::scorer_traits<> traits{.bulk = true};
  float score(auto const&) const { return 0; }
};
auto const p = kvslim::pipeline{incomplete{}, kvslim::top_k{{.budget = 4}}};
