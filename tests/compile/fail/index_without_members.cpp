// expect: kvslim: an index needs `check(extents)`
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct incomplete {
  static constexpr kvslim::index_traits<> traits{.id = 0x80000001u};
};
auto const p = kvslim::pipeline{kvslim::kivi<4>{}, incomplete{}};
