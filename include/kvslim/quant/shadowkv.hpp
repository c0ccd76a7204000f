// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// ShadowKV's keys: those of a layer before RoPE, all KV heads side by side, lie in few directions
// that are found for each prompt, and only these are kept on the device; the newest stay exact.
// "ShadowKV: KV Cache in Shadows for High-Throughput Long-Context LLM Inference",
// arXiv:2410.21465, section 4. Authors' code: bytedance/ShadowKV a21f5a9, models/kv_cache.py
// (ShadowKVCache.get_svd, get_key_cache).
//
// Fidelity: theirs are U and S V^T of an SVD; here U S and V^T, V^T by `rounds` rounds of subspace
//   iteration, as in quant/xkv.hpp.
// Fidelity: they choose chunks of 8 tokens by landmarks, keep 48 outlying chunks exact, and rebuild
//   only what is chosen, while V waits in host memory. Here V is stored exact beside the keys, and
//   attention reads all of it, or what an index chooses (index/landmarks.hpp as theirs does).
// Fidelity: theirs keep 32 to 39 tokens exact, up to a whole chunk, and all later ones; here the
//   newest `local`, and later ones as long as settle() is not called. Directions are those of the
//   prompt's other keys, theirs of all.

#include <kvslim/codec/dense.hpp>
#include <kvslim/codec/latent.hpp>
#include <kvslim/codec/rebuilt_key.hpp>
#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// The rows of a layer keep the same tokens.
///
/// Requires: kv_heads those of the view, or a divisor (invalid_shape); rank 1 to 1024 and at most
/// kv_heads * head_dim; rounds 1 to 255; a rope that fits head_dim, at most 512 (invalid_option).
/// Cost: attention rebuilds keys (codec/rebuilt_key.hpp); fit reads the prompt's keys `rounds`
/// times, 2 * rank * kv_heads * head_dim multiplications a token each, a block of threads for
/// a layer on CUDA.
/// Per token of a layer (rank + kv_heads * value_dim) * sizeof(T) bytes, once per prompt rank *
/// kv_heads * head_dim * sizeof(T). Source: arXiv:2410.21465; rank 160 of eight heads of 128
/// channels and four chunks of 8 exact tokens from the authors' code.
template <element T = bf16>
struct shadowkv {
  static constexpr quantizer_traits traits{};

  struct options {
    index_t kv_heads = 8;  ///< whose keys share directions
    index_t rank = 160;    ///< numbers of a token's keys, all heads together
    index_t local = 32;    ///< newest keys kept exact
    index_t rounds = 8;    ///< of subspace iteration
    rope rotation = {};    ///< of the view's keys
  };
  options opt = {};

  [[nodiscard]] KVSLIM_HD constexpr auto key_codec() const noexcept {
    using latents = latent<dense_key<T>, basis_from::prompt, true, T>;
    return rebuilt_key<latents>{latents{{}, opt.rank, opt.local, {1, opt.kv_heads}, opt.rounds},
                                opt.rotation};
  }
  [[nodiscard]] KVSLIM_HD constexpr dense_value<T> value_codec() const noexcept { return {}; }
};
static_assert(quantizer<shadowkv<>>);

KVSLIM_END_NAMESPACE
