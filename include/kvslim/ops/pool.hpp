// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/config.hpp>

KVSLIM_BEGIN_NAMESPACE

enum class pooling : std::uint8_t { average, maximum };

namespace ops {

/// Pools along tokens with stride 1 and an odd kernel. Average pads with zeros and always divides
/// by `kernel` (so edges shrink, as the authors' pooling does); maximum pads with -inf. `out` may
/// not alias `in`. Cost: tokens * kernel.
KVSLIM_HD inline void pool(pooling kind, float const* in, index_t tokens, index_t kernel,
                           float* out) noexcept {
  index_t const half = kernel / 2;
  for (index_t t = 0; t < tokens; ++t) {
    index_t const first = detail::max(0, t - half), last = detail::min(tokens - 1, t + half);
    float sum = 0.0f, most = in[t];
    for (index_t i = first; i <= last; ++i) {
      sum += in[i];
      most = in[i] > most ? in[i] : most;
    }
    out[t] = kind == pooling::average ? sum / static_cast<float>(kernel) : most;
  }
}

}  // namespace ops

KVSLIM_END_NAMESPACE
