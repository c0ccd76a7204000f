// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Exact storage: the baseline, the residual window of other codecs, and what a pipeline without a
// quantizer uses.
//
// Fidelity: no paper; values are rounded once to T.

#include <kvslim/codec/dense.hpp>
#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Stores K and V as T, nothing else. Requires: values that T holds (non_finite). Cost: encode one
/// read and one write; 2 * sizeof(T) * head_dim bytes per token.
template <element T = f16>
struct dense {
  static constexpr quantizer_traits traits{};

  [[nodiscard]] KVSLIM_HD constexpr dense_key<T> key_codec() const noexcept { return {}; }
  [[nodiscard]] KVSLIM_HD constexpr dense_value<T> value_codec() const noexcept { return {}; }
};
static_assert(quantizer<dense<f16>>);

KVSLIM_END_NAMESPACE
