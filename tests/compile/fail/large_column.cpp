// expect: kvslim: a column is a trivially copyable record of at most eight
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct diary {
  float pages[9];
};
constexpr kvslim::scorer_traits<diary> traits{};
