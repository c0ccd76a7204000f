// expect: kvslim: this quota has open() and does not say .contests = true
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct modest {
  static constexpr kvslim::quota_traits traits{};
  kvslim::contest open(kvslim::extents const&, kvslim::index_t) const { return {}; }
  kvslim::status check(kvslim::extents const&) const { return {}; }
  kvslim::row_group group() const { return {}; }
  kvslim::index_t most(kvslim::extents const&) const { return 1; }
  kvslim::index_t total(kvslim::extents const&) const { return 1; }
  void allocate(kvslim::slice<kvslim::row_facts const>, kvslim::slice<kvslim::quota>) const {}
};
auto const p = kvslim::pipeline{kvslim::knorm{}, modest{}};
