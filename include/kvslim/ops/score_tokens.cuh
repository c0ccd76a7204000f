// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda.cuh>
#include <kvslim/ops/copy_scores.hpp>

KVSLIM_BEGIN_NAMESPACE

template <>
struct implementation<ops::copy_scores_op, cuda> {
  static status run(cuda exec, float const* from, index_t count, float* to) {
    return detail::cuda_result(cudaMemcpyAsync(to, from,
                                               static_cast<std::size_t>(count) * sizeof(float),
                                               cudaMemcpyDeviceToDevice, exec.stream));
  }
};

KVSLIM_END_NAMESPACE
