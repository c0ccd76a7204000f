// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda.cuh>
#include <kvslim/ops/join_least.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// One thread a row.
template <class Text>
struct join_least_body {
  Text text;
  score_view scores;
  fate const* fates;
  folding out;
  __device__ void operator()(index_t r) const { ops::join_least_row(text, scores, fates, out, r); }
};

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

template <>
struct implementation<ops::join_least_op, cuda> {
  template <class Text>
  static status run(cuda exec, Text const& text, score_view scores, fate const* fates,
                    folding const& out) {
    return detail::launch_for_each(exec, text.extents().rows(),
                                   detail::join_least_body<Text>{text, scores, fates, out});
  }
};

KVSLIM_END_NAMESPACE
