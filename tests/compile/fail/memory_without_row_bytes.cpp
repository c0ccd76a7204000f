// expect: kvslim: a merger that says .memory assigns
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct forgetful : kvslim::lookm {
  static constexpr kvslim::merger_traits traits{.assigns = true, .memory = 0x80000001u};
};
auto policy() { return kvslim::pipeline{kvslim::knorm{}, kvslim::top_k{}, forgetful{}}; }
