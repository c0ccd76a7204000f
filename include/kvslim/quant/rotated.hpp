// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// A Hadamard rotation in front of any quantizer: outliers of a channel become a little of every
// channel. QuaRot (arXiv:2404.00456, section 4.2) and SpinQuant (arXiv:2405.16406, section 3.2)
// rotate K after RoPE, and V through weights, then quantize to 4 bits per token and head. Authors'
// code: spcl/QuaRot 5008669, fake_quant/hadamard_utils.py and quarot/transformers/kv_cache.py;
// facebookresearch/SpinQuant 8f47aa3 has the same rotation of K.
//
// Fidelity: rotated rows are matmul_hadU's, in float as without its CUDA routine; codes, scales and
//   minimums of rotated{int_per_token<4, float, float>{}} are asym_quantize_and_pack_i4's of float
//   tensors, bit for bit. The authors round rotated rows, scales and minimums to f16.
// Fidelity: V is rotated as K is, and sums are rotated back once a query; the authors fold V's
//   rotation into the model's weights (a learned one in SpinQuant), which gives the same sums.
// Fidelity: a span below 1e-5 is 1e-5 in the authors' code; here see codec/affine.hpp.
// Fidelity: signs (`seed`) are not the authors'; QuIP# and others put them in front.

#include <kvslim/codec/rotated_rows.hpp>
#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Without signs, rows that repeat every few channels fall into few coordinates, and what rounding
/// loses adds up in channel 0; signs spread it.
struct rotated_options {
  std::uint64_t seed = 0;  ///< of the channels' signs; 0, none, is QuaRot's
};

/// Stores K and V as another quantizer does, rotated: rotated{int_per_token<4>{}}.
///
/// Requires: head_dim (and value_dim) m * 2^k with m 1, 12, 20, 28 or 36, at most 1024
/// (invalid_shape), and what the quantizer asks for. Cost: the quantizer's; a rotation, head_dim *
/// log2(head_dim) additions, for every token stored and for every query and sum of attention. No
/// bytes of its own.
template <class Quantizer>
struct rotated {
  static_assert(kvslim::quantizer<Quantizer>, "kvslim: rotated goes in front of a quantizer");
  static constexpr quantizer_traits traits{};

  using options = rotated_options;
  Quantizer quantizer = {};
  options opt = {};

  [[nodiscard]] KVSLIM_HD constexpr auto key_codec() const noexcept {
    return rotated_rows{quantizer.key_codec(), opt.seed};
  }
  [[nodiscard]] KVSLIM_HD constexpr auto value_codec() const noexcept {
    return rotated_rows{quantizer.value_codec(), opt.seed};
  }
};
template <class Quantizer>
rotated(Quantizer) -> rotated<Quantizer>;
template <class Quantizer>
rotated(Quantizer, rotated_options) -> rotated<Quantizer>;

KVSLIM_END_NAMESPACE
