// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/config.hpp>

#include <cmath>

KVSLIM_BEGIN_NAMESPACE

/// How a logit is made from q . k: scaled, then soft-capped as cap * tanh(x / cap) if cap > 0.
struct logit_rule {
  float scale = 0.0f;  ///< 0: 1 / sqrt(head_dim)
  float soft_cap = 0.0f;
  friend constexpr bool operator==(logit_rule const&, logit_rule const&) = default;
};

namespace detail {

/// The factor that a logit rule puts before q . k.
[[nodiscard]] KVSLIM_HD inline float logit_scale(logit_rule const& rule, index_t dim) noexcept {
  return rule.scale != 0.0f ? rule.scale : 1.0f / std::sqrt(static_cast<float>(dim));
}
/// Soft cap of a scaled logit; off without one.
[[nodiscard]] KVSLIM_HD inline float soft_capped(float cap, float x) noexcept {
  return cap > 0.0f ? cap * std::tanh(x / cap) : x;
}

}  // namespace detail

KVSLIM_END_NAMESPACE
