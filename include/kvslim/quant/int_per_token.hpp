// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Plain asymmetric integers, one scale and minimum per token and head: the honest baseline that
// engines ship.
//
// Fidelity: no paper; affine variant A1 with f16 parameters, quantized with the stored parameters,
// ties to even.

#include <kvslim/codec/affine.hpp>
#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Requires: head_dim a multiple of 4 (invalid_shape); residual >= 0 (invalid_option).
/// Cost: encode one read and one write; per token and head 2 * (head_dim * Bits / 8 + 4) bytes plus
/// the f16 tail.
template <int Bits, element Tail = f16>
struct int_per_token {
  static_assert(Bits == 4 || Bits == 8, "kvslim: int_per_token has 4 or 8 bits");
  using stage = quantizer_tag;

  struct options {
    index_t residual = 0;  ///< newest tokens kept exact
  };
  options opt = {};

  [[nodiscard]] KVSLIM_HD constexpr token_key<Bits, Tail> key_codec() const noexcept {
    return {opt.residual};
  }
  [[nodiscard]] KVSLIM_HD constexpr token_value<Bits, Tail> value_codec() const noexcept {
    return {0, opt.residual, rounding::precise};
  }
  [[nodiscard]] KVSLIM_HD static constexpr std::uint32_t scheme() noexcept {
    return 0x0300u + static_cast<std::uint32_t>(Bits);
  }
};
static_assert(quantizer<int_per_token<8>> && quantizer<int_per_token<4>>);

KVSLIM_END_NAMESPACE
