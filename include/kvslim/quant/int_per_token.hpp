// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Plain asymmetric integers of 1 to 8 bits, one scale and minimum per token and head: the honest
// baseline that engines ship (in 8 and 4 bits).
//
// Fidelity: no paper; affine variant A1, quantized with the stored parameters, ties to even.

#include <kvslim/codec/token_key.hpp>
#include <kvslim/codec/token_value.hpp>
#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Requires: head_dim a multiple of 4 (invalid_shape); residual between 0 and 2^20
/// (invalid_option).
/// Cost: encode one read and one write; per token and head head_dim * Bits / 8 + 2 * sizeof(Param)
/// bytes for K, and as much for V with its width rounded up to 32 channels, plus the tail.
template <int Bits, element Tail = f16, affine_parameter Param = f16>
struct int_per_token {
  static_assert(Bits >= 1 && Bits <= 8, "kvslim: int_per_token has 1 to 8 bits");
  static constexpr quantizer_traits traits{};

  struct options {
    index_t residual = 0;  ///< newest tokens kept exact
  };
  options opt = {};

  [[nodiscard]] KVSLIM_HD constexpr token_key<Bits, Tail, Param> key_codec() const noexcept {
    return {opt.residual};
  }
  [[nodiscard]] KVSLIM_HD constexpr token_value<Bits, Tail, Param> value_codec() const noexcept {
    return {0, opt.residual, rounding::precise};
  }
};
static_assert(quantizer<int_per_token<8>> && quantizer<int_per_token<4>>);

KVSLIM_END_NAMESPACE
