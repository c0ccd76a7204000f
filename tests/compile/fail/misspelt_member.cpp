// expect: kvslim: a scorer needs `float score
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct misspelt {
  static constexpr kvslim::scorer_traits<> traits{};
  float scroe(auto const&) const { return 0; }
};
auto const p = kvslim::pipeline{misspelt{}, kvslim::top_k{{.budget = 4}}};
