// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// MiKV keeps what an eviction policy would evict, in few bits: keys and values per token, keys with
// each channel balanced against the queries' so that neither's outliers take the whole range.
// "No Token Left Behind: Reliable KV Cache Compression via Importance-Aware Mixed Precision
// Quantization", arXiv:2402.18096, sections 3.1 to 3.3. The authors published no code.
//
// This is one class of tokens. Two caches hold two: the first what any scorer and quota choose
// (theirs: H2O's accumulated attention), dense or in 8 bits; the second, in mikv<2> or mikv<4>,
// what ops::rest_of leaves. attend_segments reads both as one. One table of factors serves both.
//
// Fidelity: the balancer is sqrt(max |q| / max |k|) of the prompt, per channel; keys are multiplied
//   by it and queries divided. Here its inverse is what keys are divided by. Over a group of query
//   heads max |q| is of all of them; the paper has one query head for each KV head.
// Fidelity: factors are held between 1 / 100 and 100, and a channel in which K or q is 0 has 1; the
//   paper does not say.
// Fidelity: a token of one head is one group; the paper's groups of fewer channels are not here.
// Fidelity: a token stays in its class. Theirs is demoted when a decoded token takes its place:
//   here what leaves the first cache (evict) is appended to the second by the caller.

#include <kvslim/codec/scaled_rows.hpp>
#include <kvslim/codec/token_key.hpp>
#include <kvslim/codec/token_value.hpp>
#include <kvslim/core/concepts.hpp>
#include <kvslim/ops/key_balance.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Bind what the queries and keys of the prompt say before the cache is filled, float
/// [rows][head_dim] in memory of its space: ops::key_balance(exec, queries, view, table), then
/// packed.bind({.key = table}). Reading the cache does not need it.
///
/// Requires: head_dim a multiple of 4 (invalid_shape); residual between 0 and 2^20
/// (invalid_option); a bound table (invalid_pointer); magnitudes up to 65504 (non_finite).
/// Cost: encode one read and one write; bits for each element: Bits + 32 / head_dim (Param of two
/// bytes), and 16 bits a channel of the row.
/// 4096 tokens of 8 KV heads of 128 took mikv<4> 42 ms to encode, int_per_token<4> 36 ms (CPU time
/// of one thread of a busy machine, -O2).
/// Source: arXiv:2402.18096; 2 bits with the balancer is what the paper retains tokens in.
template <int Bits, element Tail = f16, affine_parameter Param = f16>
struct mikv {
  static_assert(Bits >= 1 && Bits <= 8, "kvslim: mikv has 1 to 8 bits");
  static constexpr quantizer_traits traits{};

  struct options {
    index_t residual = 0;  ///< newest tokens kept exact
  };
  options opt = {};

  [[nodiscard]] KVSLIM_HD constexpr scaled_rows<token_key<Bits, Tail, Param>, Param,
                                                factors_from::table>
  key_codec() const noexcept {
    return {{opt.residual}};
  }
  [[nodiscard]] KVSLIM_HD constexpr token_value<Bits, Tail, Param> value_codec() const noexcept {
    return {0, opt.residual};
  }
};
static_assert(quantizer<mikv<4>> && quantizer<mikv<2, f16, float>>);
static_assert(key_codec<decltype(mikv<4>{}.key_codec())> &&
              detail::check_codec<decltype(mikv<4>{}.key_codec())>::value);

KVSLIM_END_NAMESPACE
