// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/config.hpp>

KVSLIM_BEGIN_NAMESPACE

enum class pooling : std::uint8_t { average, maximum };

namespace ops {

/// What pooling makes of number `at`, whose neighbours in reach are [first, last].
[[nodiscard]] KVSLIM_HD inline float pooled_at(pooling kind, float const* in, index_t at,
                                               index_t first, index_t last,
                                               index_t kernel) noexcept {
  if (kernel == 1) return in[at];
  if (kind == pooling::average) {
    float sum = 0.0f;
    for (index_t i = first; i <= last; ++i) sum += in[i];
    return sum / static_cast<float>(kernel);
  }
  float most = in[at];
  for (index_t i = first; i <= last; ++i) most = in[i] > most ? in[i] : most;
  return most;
}

/// Pools along tokens with stride 1 and an odd kernel. Average pads with zeros and always divides
/// by `kernel` (so edges shrink, as the authors' pooling does); maximum pads with -inf. `out` may
/// not alias `in`. Cost: tokens * kernel.
KVSLIM_HD inline void pool(pooling kind, float const* in, index_t tokens, index_t kernel,
                           float* out) noexcept {
  index_t const half = kernel / 2;
  for (index_t t = 0; t < tokens; ++t)
    out[t] =
        pooled_at(kind, in, t, detail::max(0, t - half), detail::min(tokens - 1, t + half), kernel);
}

}  // namespace ops

KVSLIM_END_NAMESPACE
