// expect: kvslim: a quota needs
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct incomplete {
  static constexpr kvslim::quota_traits traits{};
  kvslim::index_t most(kvslim::extents const&) const { return 1; }
};
auto const p = kvslim::pipeline{kvslim::knorm{}, incomplete{}};
