// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Eigen Attention keeps each head's keys and values in the leading singular vectors of what a
// calibration text gave there. "Eigen Attention: Attention in Low-Rank Space for KV Cache
// Compression", arXiv:2408.05646, section 3. Authors' code: UtkarshSaxena1/EigenAttn 8bd0d3f,
// decompose/eigen_attn_utils.py (generate_basis_vectors_per_layer, generate_basis_vectors_per_head)
// and models/decompose_modules.py.
//
// Fidelity: bases are made offline and loaded. As theirs, a model with RoPE has one for the keys of
//   a layer, before RoPE (give it to each head), and one for each KV head's values; a model without
//   has one for each head's keys and queries together: key_form::as_given, which never rebuilds a
//   key.
// Fidelity: their RoPE models attend only within one call; here later tokens join the same bases,
//   as in their equations.
// Fidelity: ranks that were searched per layer need a cache for each rank; here layers share one.
// Fidelity: a basis that is fitted to the prompt instead is xkv<>{{.rows = {1, 1}}}.

#include <kvslim/codec/dense.hpp>
#include <kvslim/codec/latent.hpp>
#include <kvslim/codec/rebuilt_key.hpp>
#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Reads two tables that the cache binds (packed_cache::bind): float basis[layers][kv_heads][rank]
/// [head_dim] of K and of V, whose rows are orthonormal. Sequences of the view are that layer, or
/// whole sets of `layers` layers one after another. The tables are the model's, and not part of the
/// stored bytes.
///
/// Requires: ranks 1 to 256 and at most head_dim; layers * kv_heads at most 2047; before RoPE a
/// rope that fits head_dim, at most 512 (invalid_option); bound tables (invalid_pointer). Cost:
/// encode head_dim * rank multiplications a token, head and half; attention rebuilds keys
/// (codec/rebuilt_key.hpp), not as_given, and never V. Per token of a head (key_rank + value_rank)
/// * sizeof(T) bytes. Source: arXiv:2408.05646; ranks of five eighths of 128 from its largest
/// reduction, 40 %.
template <element T = f16, key_form Keys = key_form::before_rope>
struct eigen_attention {
  static constexpr quantizer_traits traits{};

  struct options {
    index_t layers = 1;       ///< in the tables
    index_t kv_heads = 8;     ///< of a layer
    index_t key_rank = 80;    ///< numbers of a token's key, for each head
    index_t value_rank = 80;  ///< of its value
    index_t residual = 0;     ///< newest tokens kept exact; the authors keep none
    rope rotation = {};       ///< of the view's keys, for before_rope
  };
  options opt = {};

  [[nodiscard]] KVSLIM_HD constexpr auto key_codec() const noexcept {
    auto const inner = of_head<dense_key<T>>(opt.key_rank);
    if constexpr (Keys == key_form::before_rope)
      return rebuilt_key<latents<dense_key<T>>>{inner, opt.rotation};
    else
      return inner;
  }
  [[nodiscard]] KVSLIM_HD constexpr auto value_codec() const noexcept {
    return of_head<dense_value<T>>(opt.value_rank);
  }

 private:
  template <class Base>
  using latents = latent<Base, basis_from::table, false, float>;
  template <class Base>
  [[nodiscard]] KVSLIM_HD constexpr latents<Base> of_head(index_t rank) const noexcept {
    return {{}, rank, opt.residual, {}, 1, opt.layers * opt.kv_heads};
  }
};
static_assert(quantizer<eigen_attention<>> && quantizer<eigen_attention<f16, key_form::as_given>>);

KVSLIM_END_NAMESPACE
