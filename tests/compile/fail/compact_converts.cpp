// expect: kvslim: compact moves elements and does not convert them
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

kvslim::status run(float* from, kvslim::f16* to, kvslim::keep_set const& keep) {
  kvslim::extents const e{1, 1, 8, 8};
  return kvslim::ops::compact(kvslim::cpu{}, kvslim::dense_cache(from, from, e),
                              kvslim::dense_cache(to, to, e), keep);
}
