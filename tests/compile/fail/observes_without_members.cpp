// expect: kvslim: a scorer that says .observes = true needs
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct silent {
  static constexpr kvslim::scorer_traits<float, kvslim::needs_window_queries> traits{.observes =
                                                                                         true};
  float score(auto const&) const { return 0; }
};
auto const p = kvslim::pipeline{silent{}, kvslim::top_k{{.budget = 4}}};
