// expect: kvslim: a merger needs
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct incomplete {
  static constexpr kvslim::merger_traits traits{};
};
auto const p = kvslim::pipeline{kvslim::knorm{}, incomplete{}};
