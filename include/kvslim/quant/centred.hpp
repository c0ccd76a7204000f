// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// A scalar codec of our own: the prompt's mean is taken off, a signed Hadamard matrix spreads
// outliers, levels lie at half steps around zero, the clip is searched for every token, and its
// scale takes 5 bits. 1 to 8 bits, K and V apart.
//
// Most of what 4 bits lose is lost in the newest tokens: with none of them exact the reference
// model has seven times the KL that it has with 64 (`sh examples/run.sh`, and residual = 0).
//
// Fidelity: no paper. Hadamard rotations are QuaRot's and QuIP#'s (quant/rotated.hpp), levels and
//   searched clips common; what it stores is in codec/centred_rows.hpp, byte by byte.

#include <kvslim/codec/centred_rows.hpp>
#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Requires: head_dim (and value_dim) m * 2^k with m 1, 12, 20, 28 or 36, at most 1024, head_dim a
/// multiple of 4 (invalid_shape); residual between 0 and 2^20, reference positive (invalid_option).
/// Cost: encode three reads and one write, eight scales tried a token; bits for each element: Bits
/// + 5 / head_dim, and (16 + 32 / head_dim) / tokens of the row for mean and largest magnitude,
/// plus the tail. A rotation for every query and sum of attention.
template <int KeyBits, int ValueBits = KeyBits, element Tail = f16>
struct centred {
  static constexpr quantizer_traits traits{};

  struct options {
    index_t residual = 63;    ///< newest tokens kept exact; with a draft the tail has 64 slots
    float reference = 32.0f;  ///< largest magnitude that an empty prompt is taken to have had
    std::uint64_t seed = 1;   ///< of the channels' signs; 0: none changes
  };
  options opt = {};

  [[nodiscard]] KVSLIM_HD constexpr centred_key<KeyBits, Tail> key_codec() const noexcept {
    return {opt.residual, opt.reference, opt.seed};
  }
  [[nodiscard]] KVSLIM_HD constexpr centred_value<ValueBits, Tail> value_codec() const noexcept {
    return {opt.residual, opt.reference, opt.seed};
  }
};
static_assert(quantizer<centred<4>> && quantizer<centred<6, 5>>);

KVSLIM_END_NAMESPACE
