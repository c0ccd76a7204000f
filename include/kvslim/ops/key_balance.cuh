// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda.cuh>
#include <kvslim/ops/key_balance.hpp>

KVSLIM_BEGIN_NAMESPACE

/// One thread a channel.
template <>
struct implementation<ops::key_balance_op, cuda> {
  template <class Space, class Cells>
  static status run(cuda exec, rows<Space> const& queries, Cells const& cells, float* out) {
    auto const& e = cells.extents();
    return detail::launch_for_each(exec, e.rows() * e.head_dim,
                                   detail::key_balance_body<1, Space, Cells>{queries, cells, out});
  }
};

KVSLIM_END_NAMESPACE
