// expect: kvslim: a quota that says .contests = true needs
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct closed {
  static constexpr kvslim::quota_traits traits{.contests = true};
  kvslim::status check(kvslim::extents const&) const { return {}; }
  kvslim::row_group group() const { return {}; }
  kvslim::index_t most(kvslim::extents const&) const { return 1; }
  kvslim::index_t total(kvslim::extents const&) const { return 1; }
  void allocate(kvslim::slice<kvslim::row_facts const>, kvslim::slice<kvslim::quota>) const {}
};
auto const p = kvslim::pipeline{kvslim::knorm{}, closed{}};
