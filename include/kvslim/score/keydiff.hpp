// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// KeyDiff keeps the keys that resemble the mean key least: distinct keys attract attention, and no
// query is needed to tell. "KeyDiff: Key Similarity-Based KV Cache Eviction for Long-Context LLM
// Inference in Resource-Constrained Environments", arXiv:2504.15364. The authors published no code;
// NVIDIA/kvpress 0.5.5, keydiff_press.py, block_press.py.
//
// Fidelity: kvpress scores a whole prompt once; the paper takes it in blocks, each scored together
// with what is kept of the earlier ones. Here one compress() is kvpress's, and a block is append()
// and recompress(), while decoding too.
// Fidelity: kvpress protects nothing; the paper's variant with a sliding window is top_k's
// `.recent`.
// Fidelity: the mean over keys as they are, not over their directions, is the paper's ablation:
// `unit_keys = false`.
// Fidelity: of equal keys the earlier stay, as everywhere in kvslim; kvpress leaves it open.

#include <kvslim/ops/mean_direction.hpp>
#include <kvslim/ops/score_tokens.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// -cos(key, direction) of its row, in [-1, 1]; 0 for a zero key.
struct unlike {
  static constexpr scorer_traits<> traits{};

  float const* directions = nullptr;  // [rows, head_dim]
  index_t kv_heads = 1;

  KVSLIM_HD float score(auto const& token) const {
    auto const key = token.key();
    float const* const mean =
        directions + (token.sequence() * kv_heads + token.kv_head()) * key.size();
    float dot = 0.0f, squares = 0.0f;
    index_t d = 0;
    for (float const x : key) {
      dot += x * mean[d++];
      squares += x * x;
    }
    return -dot * ops::to_unit(std::sqrt(squares), ops::cosine_least);
  }
};

}  // namespace detail

/// Scores a token by how little its key points along the mean of its row's.
/// Cost: two passes over K on the CPU; workspace head_dim floats per 1024 tokens of a row.
/// Source: arXiv:2504.15364.
struct keydiff {
  static constexpr scorer_traits<> traits{.bulk = true};

  struct options {
    bool unit_keys = true;  ///< average directions, not keys (paper, kvpress)
  };
  options opt = {};

  [[nodiscard]] constexpr index_t protected_recent() const noexcept { return 0; }
  [[nodiscard]] constexpr index_t scratch_floats(extents const& e) const noexcept {
    return e.head_dim + ops::mean_direction_floats(e);
  }
  [[nodiscard]] constexpr status check(extents const&) const noexcept { return {}; }
  template <class Text, class Evidence>
  [[nodiscard]] status check(Text const&, Evidence const&) const noexcept {
    return {};
  }

  template <class Exec, class Text, class Evidence>
  [[nodiscard]] status score(Exec const& exec, Text const& text, Evidence const&, score_view out,
                             float* scratch) const {
    auto const& e = text.extents();
    float* const directions = scratch;
    if (auto const s = ops::mean_direction(exec, text, opt.unit_keys, directions,
                                           directions + e.rows() * e.head_dim);
        !s)
      return s;
    return ops::score_tokens(exec, detail::unlike{directions, e.kv_heads}, text,
                             columns_by_rank<no_column>{}, out);
  }
};
static_assert(scorer<keydiff>);

KVSLIM_END_NAMESPACE
