// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// MiniCache merges neighbouring layers: a token's K (and V) of both is one direction, found by
// spherical interpolation, with a magnitude for each; tokens whose directions lie too far apart
// are retained as they are. "MiniCache: KV Cache Compression in Depth Dimension for Large Language
// Models", arXiv:2405.14366, sections 4.1 and 4.2. The authors' repository (AkideLiu/MiniCache
// f1bacca) holds no code of the method; the golden is Zefan-Cai/KVCache-Factory c97f9d7,
// pyramidkv/minicache.py.
//
// Fidelity: the retained share is chosen within blocks of `block` tokens, not among the whole
// prompt, so that tokens that come later are retained likewise and bytes are known beforehand; a
// block as long as the prompt is the golden's choice. Tokens of a block that is not full yet are
// exact in both layers.
// Fidelity: the largest distances are retained, as the text says and KVCache-Factory does; the
// inequality printed in the paper, read literally, would keep the smallest.
// Fidelity: K and V retain tokens of their own, as the golden's functions do; KVCache-Factory's
// models take K's for both. Of equal distances the earlier token is retained.
// Fidelity: rows shorter than 1e-6 come back at their own length, not at 1e-6.
// Fidelity: which layers are paired (the paper's: the deeper half) is what the caller views.

#include <kvslim/codec/shared_direction.hpp>
#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Stores two layers' K as one, and their V. Layers are consecutive sequences of the view: 2n and
/// 2n + 1 share (with rows = {1, 2}, KV heads do). Both must keep the same tokens (kvslim::shared
/// scores them as one; otherwise encode says unsupported).
///
/// Requires: retained and depth in [0, 1], block a multiple of 32 up to 4096, rows {2, 1} or {1, 2}
/// (invalid_option) that divide the view (invalid_shape). Cost: encode a few passes over a block;
/// per token, head and pair of layers (head_dim * (1 + retained) + 2) * sizeof(T) + 1/8 bytes for
/// K, and for V, where two rows took twice head_dim * sizeof(T); attention reads the direction
/// once for each layer.
template <element T = f16>
struct minicache {
  static constexpr quantizer_traits traits{};
  using options = detail::direction_options;  ///< the paper's: retained 0.05, depth 0.6

  options opt = {};

  [[nodiscard]] KVSLIM_HD constexpr shared_direction<dense_key<T>, detail::form_kind::shared_key>
  key_codec() const noexcept {
    return {opt};
  }
  [[nodiscard]] KVSLIM_HD constexpr shared_direction<dense_value<T>,
                                                     detail::form_kind::shared_value>
  value_codec() const noexcept {
    return {opt};
  }
};
static_assert(quantizer<minicache<>>);
static_assert(key_codec<decltype(minicache<>{}.key_codec())> &&
              detail::check_codec<decltype(minicache<>{}.key_codec())>::value);
static_assert(value_codec<decltype(minicache<>{}.value_codec())> &&
              detail::check_codec<decltype(minicache<>{}.value_codec())>::value);

KVSLIM_END_NAMESPACE
