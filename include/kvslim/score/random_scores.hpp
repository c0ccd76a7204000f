// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Random scores: the baseline that every other scorer must beat. NVIDIA/kvpress 0.5.5,
// random_press.py.
//
// Fidelity: kvpress draws from torch's generator; here a score is a hash of (seed, row, position),
// so that it is the same on the CPU and CUDA, in any layout, and for a token that is scored again
// later.

#include <kvslim/core/concepts.hpp>
#include <kvslim/core/fingerprint.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Uniform in [0, 1), 24 bits, drawn from the seed, the row and the token's position. Reads no
/// tensor.
struct random_scores {
  static constexpr scorer_traits<> traits{};

  struct options {
    std::uint64_t seed = 0;
  };
  options opt = {};

  KVSLIM_HD float score(auto const& token) const {
    std::uint64_t hash = detail::mix(opt.seed, static_cast<std::uint64_t>(token.sequence()));
    hash = detail::mix(hash, static_cast<std::uint64_t>(token.kv_head()));
    hash = detail::mix(hash, static_cast<std::uint64_t>(token.position()));
    return static_cast<float>(hash >> 40) * 0x1p-24f;
  }
};
static_assert(scorer<random_scores>);

KVSLIM_END_NAMESPACE
