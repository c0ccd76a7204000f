// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// StreamingLLM keeps the first tokens (attention sinks) and the newest ones. "Efficient Streaming
// Language Models with Attention Sinks", arXiv:2309.17453, section 3. Authors' code:
// mit-han-lab/streaming-llm 2e50426, kv_cache.py; NVIDIA/kvpress, streaming_llm_press.py.
//
// Fidelity: kept tokens are the authors' [0, sinks) ++ [T - recent, T) with sinks + recent = budget
// of top_k. Fidelity: the authors cache unrotated keys and rotate by cache slot. For rotated keys
// add `rerotate` to the pipeline: the
//   same in exact arithmetic, once rounded. Without it the original positions stay (kvpress'
//   default).

#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Newer is better, sinks are best. Reads no tensor. Source: arXiv:2309.17453.
struct streaming_llm {
  static constexpr scorer_traits<> traits{};

  struct options {
    index_t sinks = 4;  ///< authors' default
  };
  options opt = {};

  KVSLIM_HD float score(auto const& token) const {
    // The distance from the newest token is exact in a float for 2^24 tokens.
    if (token.rank() < opt.sinks) return 1.0f;
    return -static_cast<float>(token.now() - token.position());
  }
};
static_assert(scorer<streaming_llm>);

KVSLIM_END_NAMESPACE
