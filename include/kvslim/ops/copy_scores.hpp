// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

struct copy_scores_op {};

/// Copies `count` scores that the caller made. Cost: one read and one write.
template <class Exec>
status copy_scores(Exec const& exec, float const* from, index_t count, float* to) {
  return implementation<copy_scores_op, Exec>::run(exec, from, count, to);
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::copy_scores_op, Exec> {
  static status run(Exec const&, float const* from, index_t count, float* to) {
    for (index_t i = 0; i < count; ++i) to[i] = from[i];
    return {};
  }
};

KVSLIM_END_NAMESPACE
