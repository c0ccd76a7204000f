// expect: kvslim: a policy must say what it is
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct nameless {
  float score(auto const&) const { return 0; }
};
auto const p = kvslim::pipeline{nameless{}, kvslim::top_k{{.budget = 4}}};
