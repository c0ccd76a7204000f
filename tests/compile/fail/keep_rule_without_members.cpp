// expect: kvslim: a keep rule needs `check(extents)`
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct incomplete {
  static constexpr kvslim::keep_traits traits{};
};
auto const p = kvslim::pipeline{kvslim::knorm{}, kvslim::top_k{{.budget = 4}}, incomplete{}};
