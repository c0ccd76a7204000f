// expect: kvslim: a scorer that says .gates = true scores tokens and needs
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct doubtless {
  static constexpr kvslim::scorer_traits<> traits{.gates = true};
  KVSLIM_HD float score(auto const& token) const { return token.key()[0]; }
};
auto const p = kvslim::pipeline{doubtless{}, kvslim::top_k{{.budget = 4}}};
