// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// MatryoshkaKV turns each head's keys (after RoPE) and values by an orthogonal matrix that was
// trained so that the first coordinates matter most, and keeps as many of them as are wanted.
// "MatryoshkaKV: Adaptive KV Compression via Trainable Orthogonal Projection", arXiv:2410.14731,
// section 3. Authors' code: The-kamisato/MatryoshkaKV-cache 25b5f13,
// LLaMA-Factory/src/llamafactory/ model/custom_model/modeling_pcallama_trial.py
// (PcaLlamaAttention), eigenvalues_decomposition.py.
//
// Fidelity: as theirs, means are taken off before and given back after; a query meets a mean once.
// Fidelity: they project keys and values that were repeated for every query head; here each KV head
//   is stored once.
// Fidelity: theirs keep a rank for every layer and head, and pad heads to the widest in memory. A
//   cache has one rank for K and one for V here: heads of another rank are a cache of their own.
// Fidelity: training, and their search for ranks, are offline and not here.

#include <kvslim/codec/dense.hpp>
#include <kvslim/codec/latent.hpp>
#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Reads two tables that the cache binds (packed_cache::bind), of K and of V: float table[layers]
/// [kv_heads][1 + head_dim][head_dim], of each head its mean, then the columns of its matrix, the
/// first coordinate's first. The same tables serve every rank. Sequences of the view are that
/// layer, or whole sets of `layers` layers one after another. The tables are the model's, and not
/// part of the stored bytes.
///
/// Requires: ranks 1 to 256 and at most head_dim; layers * kv_heads at most 2047 (invalid_option);
/// bound tables (invalid_pointer). Cost: encode head_dim * rank multiplications a token, head and
/// half; attention 2 * rank a token and query head, nothing is rebuilt. Per token of a head
/// (key_rank + value_rank) * sizeof(T) bytes. Source: arXiv:2410.14731; ranks there are multiples
/// of 32, and 64 is half of 128.
template <element T = f16>
struct matryoshkakv {
  static constexpr quantizer_traits traits{};

  struct options {
    index_t layers = 1;       ///< in the tables
    index_t kv_heads = 8;     ///< of a layer
    index_t key_rank = 64;    ///< numbers of a token's key, for each head
    index_t value_rank = 64;  ///< of its value
    index_t residual = 0;     ///< newest tokens kept exact; the authors keep none
  };
  options opt = {};

  [[nodiscard]] KVSLIM_HD constexpr auto key_codec() const noexcept {
    return of_head<dense_key<T>>(opt.key_rank);
  }
  [[nodiscard]] KVSLIM_HD constexpr auto value_codec() const noexcept {
    return of_head<dense_value<T>>(opt.value_rank);
  }

 private:
  template <class Base>
  [[nodiscard]] KVSLIM_HD constexpr latent<Base, basis_from::table_with_mean, false, float> of_head(
      index_t rank) const noexcept {
    return {{}, rank, opt.residual, {}, 1, opt.layers * opt.kv_heads, -1};
  }
};
static_assert(quantizer<matryoshkakv<>>);

KVSLIM_END_NAMESPACE
