// expect: kvslim: this scorer has doubt() and does not say .gates = true
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct doubtful {
  static constexpr kvslim::scorer_traits<> traits{};
  KVSLIM_HD float score(auto const& token) const { return token.key()[0]; }
  KVSLIM_HD float doubt(auto const& token) const { return token.key()[1]; }
  KVSLIM_HD kvslim::gate gate() const { return {.open = 5}; }
};
auto const p = kvslim::pipeline{doubtful{}, kvslim::top_k{{.budget = 4}}};
