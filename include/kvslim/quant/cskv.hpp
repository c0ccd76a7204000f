// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// CSKV shrinks the channels of a layer's K and V, all KV heads together, by projections that were
// made offline from the model's weights, and keeps the newest tokens exact. "CSKV:
// Training-Efficient Channel Shrinking for KV Cache in Long-Context Scenarios", arXiv:2409.10593,
// section 2. Authors' code: wln20/CSKV cd79226, cskv_src/utils/training_utils.py (init_svd,
// init_asvd) and cskv_src/modeling/modeling_llama.py.
//
// Fidelity: their latents are made of hidden states, x A. With their SVD and ASVD starts that is K
//   (before RoPE) or V projected on right singular vectors of the weights, which is what the tables
//   hold: the rows of their B, each divided by its length. Where A and B were trained further they
//   are no projection of K any more, and are not served.
// Fidelity: the exact window slides, as in the paper; their code empties it every 32 tokens.
// Fidelity: latents are stored as T; their 4-bit variant quantizes K's per channel over 32 tokens
//   and V's per token.

#include <kvslim/codec/dense.hpp>
#include <kvslim/codec/latent.hpp>
#include <kvslim/codec/rebuilt_key.hpp>
#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Reads two tables that the cache binds (packed_cache::bind): float basis[layers][kv_heads][rank]
/// [head_dim] of K and of V, whose rows over all heads of a layer are orthonormal. Sequences of the
/// view are that layer, or whole sets of `layers` layers one after another; its heads keep the same
/// tokens. The tables are the model's, and not part of the stored bytes.
///
/// Requires: kv_heads those of the view (invalid_shape); ranks 1 to 1024 and at most kv_heads *
/// head_dim; layers * kv_heads at most 2047; a rope that fits head_dim, at most 512 (invalid_
/// option); bound tables (invalid_pointer). Cost: encode kv_heads * head_dim * rank multiplications
/// a token and half; attention rebuilds keys (codec/rebuilt_key.hpp) and never V. Per token of a
/// layer (key_rank + value_rank) * sizeof(T) bytes, and the window.
/// Source: arXiv:2409.10593; window 32 and half of eight heads of 128 channels from the authors'
/// documented runs.
template <element T = f16>
struct cskv {
  static constexpr quantizer_traits traits{};

  struct options {
    index_t layers = 1;        ///< in the tables
    index_t kv_heads = 8;      ///< of a layer
    index_t key_rank = 512;    ///< numbers of a token's keys, all heads together
    index_t value_rank = 512;  ///< of its values
    index_t window = 32;       ///< newest tokens kept exact
    rope rotation = {};        ///< of the view's keys
  };
  options opt = {};

  [[nodiscard]] KVSLIM_HD constexpr auto key_codec() const noexcept {
    return rebuilt_key<latents<dense_key<T>>>{of_layer<dense_key<T>>(opt.key_rank), opt.rotation};
  }
  [[nodiscard]] KVSLIM_HD constexpr auto value_codec() const noexcept {
    return of_layer<dense_value<T>>(opt.value_rank);
  }

 private:
  template <class Base>
  using latents = latent<Base, basis_from::table, true, float>;
  template <class Base>
  [[nodiscard]] KVSLIM_HD constexpr latents<Base> of_layer(index_t rank) const noexcept {
    return {{}, rank, opt.window, {1, opt.kv_heads}, 1, opt.layers * opt.kv_heads};
  }
};
static_assert(quantizer<cskv<>>);

KVSLIM_END_NAMESPACE
