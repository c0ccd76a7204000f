// expect: kvslim: a selector needs
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct incomplete {
  using stage = kvslim::selector_tag;
  kvslim::index_t capacity(kvslim::index_t tokens) const { return tokens; }
};
auto const p = kvslim::pipeline{kvslim::knorm{}, incomplete{}};
