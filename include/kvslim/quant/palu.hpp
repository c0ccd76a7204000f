// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Palu stores, in place of the keys and values of a few heads, the latents between the two factors
// of their projection's weights, which were decomposed offline, and may quantize them. "Palu:
// Compressing KV-Cache with Low-Rank Projection", arXiv:2407.21118, sections 3.1 (groups of heads),
// 3.2 (ranks) and 3.3 (quantization). Authors' code: shadowpa0327/Palu bb22666,
// palu/model/modules/svd_linear.py (HeadwiseLowRankModule) and quant.py.
//
// Fidelity: their latents are made of hidden states, R x. With W ~ L R from the SVD of the whitened
//   weights that is pinv(L) k, k before RoPE, which is what the tables hold: pinv(L), then L
//   transposed. Factors that were trained further are no projection of k, and are not served.
// Fidelity: the Hadamard matrix in front of quantization is folded into the factors, as theirs is;
//   the tables then are of L H. Nothing is rotated here.
// Fidelity: codes are per token and group of heads over all its latents, as theirs; scale and
//   minimum are as in codec/affine.hpp, where they round the zero point to a code.
// Fidelity: ranks that were searched per layer need a cache for each rank; here layers share one.
// Fidelity: a projection with a bias is not served: their bias is no part of L R.

#include <kvslim/codec/dense.hpp>
#include <kvslim/codec/latent.hpp>
#include <kvslim/codec/rebuilt_key.hpp>
#include <kvslim/codec/token_key.hpp>
#include <kvslim/codec/token_value.hpp>
#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Latents in T, or in codes of Bits. Reads two tables that the cache binds (packed_cache::bind):
/// float basis[layers][kv_heads][2][rank][head_dim] of K and of V, where the heads of a group hold
/// their channels of pinv(L) and of L transposed. Sequences of the view are that layer, or whole
/// sets of `layers` layers one after another; heads of a group keep the same tokens. The tables are
/// the model's, and not part of the stored bytes.
///
/// Requires: kv_heads those of the view, a multiple of `heads` (invalid_shape); ranks 1 to 1024, at
/// most heads * head_dim, in codes the key's a multiple of 4 (invalid_shape); layers * kv_heads at
/// most 2047; a rope that fits head_dim, at most 512 (invalid_option); bound tables
/// (invalid_pointer). Cost: encode heads * head_dim * rank multiplications a token, group and half;
/// attention rebuilds keys (codec/rebuilt_key.hpp) and never V. Per token of a group (key_rank +
/// value_rank) * sizeof(T) bytes, or Bits / 8 and two f16 scales and minimums.
/// Source: arXiv:2407.21118; groups of four heads and half of their 128 channels each from the
/// authors' documented runs.
template <int Bits = 16, element T = f16>
struct palu {
  static_assert((Bits >= 1 && Bits <= 8) || Bits == 16,
                "kvslim: palu has latents of 1 to 8 bits, or of 16: no codes, but T");
  static constexpr quantizer_traits traits{};

  struct options {
    index_t layers = 1;        ///< in the tables
    index_t kv_heads = 8;      ///< of a layer
    index_t heads = 4;         ///< that share latents
    index_t key_rank = 256;    ///< numbers of a token's keys, for a group of heads
    index_t value_rank = 256;  ///< of its values
    index_t residual = 0;      ///< newest tokens kept exact; the authors keep none
    rope rotation = {};        ///< of the view's keys
  };
  options opt = {};

  [[nodiscard]] KVSLIM_HD constexpr auto key_codec() const noexcept {
    using inner = std::conditional_t<Bits == 16, dense_key<T>, token_key<Bits % 16, T>>;
    return rebuilt_key<latents<inner>>{of_group<inner>(opt.key_rank), opt.rotation};
  }
  [[nodiscard]] KVSLIM_HD constexpr auto value_codec() const noexcept {
    return of_group<std::conditional_t<Bits == 16, dense_value<T>, token_value<Bits % 16, T>>>(
        opt.value_rank);
  }

 private:
  template <class Base>
  using latents = latent<Base, basis_from::table_of_maps, true, float>;
  template <class Base>
  [[nodiscard]] KVSLIM_HD constexpr latents<Base> of_group(index_t rank) const noexcept {
    return {{}, rank, opt.residual, {1, opt.heads}, 1, opt.layers * opt.kv_heads};
  }
};
static_assert(quantizer<palu<>> && quantizer<palu<4>>);

KVSLIM_END_NAMESPACE
