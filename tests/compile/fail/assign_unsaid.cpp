// expect: kvslim: this merger has assign() and does not say .assigns = true
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

struct quiet : kvslim::neighbour_merger {
  static constexpr kvslim::merger_traits traits{};
  kvslim::fold_weights weigh(kvslim::fold_member const&) const { return {}; }
  kvslim::status assign(auto const&, auto const&, kvslim::score_view, kvslim::fate const*,
                        kvslim::folding const&, float*) const {
    return {};
  }
};
auto const p = kvslim::pipeline{kvslim::knorm{}, quiet{}};
