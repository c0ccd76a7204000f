// expect: kvslim: a policy must be trivially copyable
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct owner {
  static constexpr kvslim::scorer_traits<> traits{};
  owner() = default;
  owner(owner const&) {}
  float score(auto const&) const { return 0; }
};
auto const p = kvslim::pipeline{owner{}, kvslim::top_k{{.budget = 4}}};
