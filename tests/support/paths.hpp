// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// The paths of the processor that tests run on.

#include "support/catch.hpp"

#include <kvslim/isa/path.hpp>

namespace data {

/// Calls f(path) for every path that the processor has; the choice is undone.
template <class F>
void on_each_path(F const& f) {
  kvslim::isa::path const before = kvslim::isa::current();
  for (auto const wanted : kvslim::isa::every_path)
    if (kvslim::isa::use(wanted) == wanted) {
      INFO("path " << kvslim::isa::name_of(wanted));
      f(wanted);
    }
  kvslim::isa::use(before);
}

}  // namespace data
