// expect: kvslim: this merger has row_bytes() and does not say .memory
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct secretive : kvslim::lookm {
  kvslim::index_t row_bytes() const { return 8; }
};
auto policy() { return kvslim::pipeline{kvslim::knorm{}, kvslim::top_k{}, secretive{}}; }
