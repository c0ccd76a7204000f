// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Mustafar keeps, of every token's K and V, the channels of largest magnitude: a bitmap and what it
// marks, beside an exact window. "MUSTAFAR: Promoting Unstructured Sparsity for KV Cache Pruning in
// LLM Inference", arXiv:2505.22913, sections 3 and 4. Authors' code: dhjoo98/mustafar d83ee7e,
// models/llama_mustafar_kernel.py (dh_prune_key, dh_prune_value).
//
// Fidelity: as their code, one channel more stays than the paper's share says: the threshold is the
//   floor(head_dim * share)-th smallest magnitude, and what reaches it stays. Theirs keeps all that
//   are equal to it; here as many stay in every token, the earlier channels of equal ones.
// Fidelity: magnitudes alone choose, the variant that their kernels run; the paper's output-aware
//   ones are not offered.
// Fidelity: the window moves token by token; theirs prunes 256 tokens at a time. What a token
//   becomes is the same.
// Fidelity: bits and values lie token by token; theirs in tiles of 64 tokens (K) or channels (V)
//   with offsets, for tensor cores.

#include <kvslim/codec/sparse_rows.hpp>
#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Requires: shares in [0, 1), residual 0 to 2^20 (invalid_option); head_dim and value_dim at most
/// 1024 (invalid_shape). Cost: encode 31 passes over a token's channels; attention writes a token's
/// channels out once for all query heads, by kernels on x86-64: 4096 tokens of 8 KV heads of 128
/// and 32 query heads took 1.4 ms (2.3 ms with AVX2), at 0.7 too, where f16 took 0.6 (1.1); plain
/// loops took 40 (31 at 0.7; one thread of a busy machine, -O2). Bytes of a token, head and half:
/// 4 * ceil(head_dim / 32) + sizeof(T) * (head_dim + 1 - max(1, floor(head_dim * share))), up to a
/// multiple of 4. Source: arXiv:2505.22913; shares and window from the authors' scripts.
template <element T = f16>
struct mustafar {
  static constexpr quantizer_traits traits{};

  struct options {
    float key_share = 0.5f;    ///< of a token's channels that is left out of K (authors: or 0.7)
    float value_share = 0.5f;  ///< of V
    index_t residual = 32;     ///< newest tokens kept exact
  };
  options opt = {};

  [[nodiscard]] KVSLIM_HD constexpr sparse_rows<T> key_codec() const noexcept {
    return {opt.key_share, opt.residual};
  }
  [[nodiscard]] KVSLIM_HD constexpr sparse_rows<T> value_codec() const noexcept {
    return {opt.value_share, opt.residual};
  }
};
static_assert(quantizer<mustafar<>>);

KVSLIM_END_NAMESPACE
