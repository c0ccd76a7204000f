// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// xKV stores several layers' tokens in one low-rank space: their rows, all KV heads of all layers
// side by side, are projected on the leading singular vectors of the prompt, so that a token of the
// whole group is `rank` numbers. With one layer and one head in a group it is a truncated SVD of
// each head. "xKV: Cross-Layer SVD for KV-Cache Compression", arXiv:2503.18893, section 3. Authors'
// code: abdelfattah-lab/xKV bfe5d72, xKV/customized_cache/fake_layer_merge_dynamic_cache.py
// (fake_svd, grouped_layer_merging).
//
// Fidelity: as theirs, keys are projected before RoPE and rotated again when they are read; the
//   view's are turned back first. key_form::as_given projects them as the view has them: attention
//   then never rebuilds a key, and a rank holds less of keys that were rotated.
// Fidelity: the subspace is found by `rounds` rounds of subspace iteration instead of an SVD. What
//   it misses of the leading vectors shrinks as (next / last singular value)^(2 rounds).
// Fidelity: they multiply back and keep dense tensors; here coordinates and basis are stored, as T.
// Fidelity: later tokens stay exact there. Here they do as long as settle() is not called (plan
// with
//   so many draft_tokens); settle() projects them on the prompt's basis.
// Fidelity: a group of fewer layers at the end keeps the same rank there; here groups must divide.

#include <kvslim/codec/dense.hpp>
#include <kvslim/codec/latent.hpp>
#include <kvslim/codec/rebuilt_key.hpp>
#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Layers of a group are consecutive sequences of the view (adapt/layers.hpp), its rows keep the
/// same tokens.
///
/// Requires: ranks 1 to 1024 and at most layers * kv_heads * head_dim; rounds 1 to 255 (invalid_
/// option); a group that divides the view (invalid_shape).
/// Cost: attention rebuilds keys (codec/rebuilt_key.hpp), not as_given; fit reads the prompt
/// `rounds` times, 2 * rank * width multiplications a token each, width the channels of a group;
/// a block of threads for a group on CUDA. Per token of a group (key_rank + value_rank) * sizeof(T)
/// bytes, once per prompt (key_rank + value_rank) * width * sizeof(T). Source: arXiv:2503.18893;
/// defaults from the authors' examples (four layers, 512 and 768), for eight KV heads of 128.
template <element T = f16, key_form Keys = key_form::before_rope>
struct xkv {
  static constexpr quantizer_traits traits{};

  struct options {
    row_group rows = {4, 8};   ///< layers and KV heads that share coordinates
    index_t key_rank = 512;    ///< numbers of a token's keys, for the whole group
    index_t value_rank = 768;  ///< of its values
    index_t residual = 0;      ///< newest tokens kept exact
    index_t rounds = 8;        ///< of subspace iteration
    rope rotation = {};        ///< of the view's keys, for before_rope
  };
  options opt = {};

  [[nodiscard]] KVSLIM_HD constexpr auto key_codec() const noexcept {
    using latents = latent<dense_key<T>, basis_from::prompt, true, T>;
    latents const inner{{}, opt.key_rank, opt.residual, opt.rows, opt.rounds};
    if constexpr (Keys == key_form::before_rope)
      return rebuilt_key<latents>{inner, opt.rotation};
    else
      return inner;
  }
  [[nodiscard]] KVSLIM_HD constexpr latent<dense_value<T>, basis_from::prompt, true, T>
  value_codec() const noexcept {
    return {{}, opt.value_rank, opt.residual, opt.rows, opt.rounds};
  }
};
static_assert(quantizer<xkv<>> && quantizer<xkv<f16, key_form::as_given>>);
static_assert(key_codec<decltype(xkv<>{}.key_codec())> &&
              detail::check_codec<decltype(xkv<>{}.key_codec())>::value);
static_assert(value_codec<decltype(xkv<>{}.value_codec())> &&
              detail::check_codec<decltype(xkv<>{}.value_codec())>::value);

KVSLIM_END_NAMESPACE
