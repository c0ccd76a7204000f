// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda.cuh>
#include <kvslim/ops/query_energy.hpp>

KVSLIM_BEGIN_NAMESPACE

template <>
struct implementation<ops::query_energy_op, cuda> {
  template <class Space>
  static status run(cuda exec, rows<Space> const& queries, index_t kv_heads, float* out) {
    return detail::launch_for_each(exec, queries.sequences * kv_heads * queries.head_dim,
                                   detail::query_energy_body<Space>{queries, kv_heads, out});
  }
};

KVSLIM_END_NAMESPACE
