// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Knorm keeps the tokens whose keys are short: they are the ones that attract attention. "A Simple
// and Effective L2 Norm-Based Strategy for KV Cache Compression", arXiv:2406.11430. Authors' code:
// alessiodevoto/l2compress f93d6ca; NVIDIA/kvpress, knorm_press.py.
//
// Fidelity: same rule as both; the authors skip layers 0 and 1, which is the caller's choice of
// policy per layer here.

#include <kvslim/core/concepts.hpp>

#include <cmath>

KVSLIM_BEGIN_NAMESPACE

/// score = -||k||_2. Cost: one read of K. Source: arXiv:2406.11430.
struct knorm {
  static constexpr scorer_traits<> traits{};

  KVSLIM_HD float score(auto const& token) const {
    float sum = 0.0f;
    for (float x : token.key()) sum += x * x;
    return -std::sqrt(sum);
  }
};
static_assert(scorer<knorm>);

KVSLIM_END_NAMESPACE
