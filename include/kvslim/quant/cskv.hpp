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
// Fidelity: in codes (Bits below 16) K's latents are quantized per channel over 32 tokens, V's per
//   token and value_rank / kv_heads of them, as theirs; scale and minimum are as in
//   codec/affine.hpp, where they round the zero point to a code. Codes of V depend on how latents
//   are scaled, so the tables then are both factors: pinv(B) and B. Tokens wait for their 32 in the
//   window. What was trained to be quantized is a projection no more, and not served.

#include <kvslim/codec/channel_key.hpp>
#include <kvslim/codec/dense.hpp>
#include <kvslim/codec/latent.hpp>
#include <kvslim/codec/rebuilt_key.hpp>
#include <kvslim/codec/token_value.hpp>
#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Latents in T, or in codes of Bits. Reads two tables that the cache binds (packed_cache::bind):
/// float basis[layers][kv_heads][rank][head_dim] of K and of V, whose rows over all heads of a
/// layer are orthonormal; in codes float basis[layers][kv_heads][2][rank][head_dim], the heads'
/// channels of pinv(B) and of B transposed. Sequences of the view are that layer, or whole sets of
/// `layers` layers one after another; its heads keep the same tokens. The tables are the model's,
/// and not part of the stored bytes.
///
/// Requires: kv_heads those of the view (invalid_shape); ranks 1 to 1024 and at most kv_heads *
/// head_dim, in codes the key's a multiple of 4 (invalid_shape), the value's of kv_heads; layers *
/// kv_heads at most 2047; a rope that fits head_dim, at most 512 (invalid_option); bound tables
/// (invalid_pointer). Cost: encode kv_heads * head_dim * rank multiplications a token and half;
/// attention rebuilds keys (codec/rebuilt_key.hpp) and never V. Per token of a layer (key_rank +
/// value_rank) * sizeof(T) bytes, or Bits / 8 and f16 scales and minimums, 4 * key_rank / 32 + 4 *
/// kv_heads bytes; and the window, in codes up to 31 tokens longer for K.
/// Source: arXiv:2409.10593; window 32 and half of eight heads of 128 channels from the authors'
/// documented runs.
template <element T = f16, int Bits = 16>
struct cskv {
  static_assert((Bits >= 1 && Bits <= 8) || Bits == 16,
                "kvslim: cskv has latents of 1 to 8 bits, or of 16: no codes, but T");
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
    using inner = std::conditional_t<Bits == 16, dense_key<T>, run_channel_key<Bits % 16, T>>;
    return rebuilt_key<latents<inner>>{of_layer(inner{}, opt.key_rank), opt.rotation};
  }
  [[nodiscard]] KVSLIM_HD constexpr auto value_codec() const noexcept {
    if constexpr (Bits == 16)
      return of_layer(dense_value<T>{}, opt.value_rank);
    else
      return of_layer(
          token_value<Bits, T>{.group = opt.kv_heads < 1 ? 0 : opt.value_rank / opt.kv_heads},
          opt.value_rank);
  }

 private:
  static constexpr auto from = Bits == 16 ? basis_from::table : basis_from::table_of_maps;
  template <class Base>
  using latents = latent<Base, from, true, float>;
  template <class Base>
  [[nodiscard]] KVSLIM_HD constexpr latents<Base> of_layer(Base const& base,
                                                           index_t rank) const noexcept {
    return {base, rank, opt.window, {1, opt.kv_heads}, 1, opt.layers * opt.kv_heads};
  }
};
static_assert(quantizer<cskv<>> && quantizer<cskv<f16, 4>>);

KVSLIM_END_NAMESPACE
