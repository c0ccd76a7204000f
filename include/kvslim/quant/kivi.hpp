// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// KIVI quantizes keys per channel and values per token, and keeps the newest tokens exact. "KIVI: A
// Tuning-Free Asymmetric 2bit Quantization for KV Cache", arXiv:2402.02750, section 3. Authors'
// code: jy-yuan/KIVI 876b4d2, quant/new_pack.py and models/llama_kivi.py.
//
// Fidelity: split, flush rule and grouping are the authors'; `rounding::authors` also rounds every
// step to f16 as their tensors
//   do, and then gives their codes and parameters bit for bit. The default computes in float with
//   the stored parameters.
// Fidelity: values are code * scale + low in float, as in the authors' attention kernel; their
// separate unpack routine rounds the
//   product and the sum to f16.
// Fidelity: codes are packed in planar units instead of the authors' 32-bit words (same codes,
// other order), because
//   attention reads units without a transpose.
// Fidelity: a group of equal values is 0/0 in the authors' code; here it decodes to exactly that
// value.

#include <kvslim/codec/affine.hpp>
#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Requires: group 32, 64, 96 or 128 and a divisor of head_dim (or `value_group` one); residual a
/// multiple of group; head_dim a multiple of 4 (invalid_option, invalid_shape). Cost: encode one
/// read and one write; per token and head 2 * head_dim * (Bits / 8 + 4 / group) bytes plus the f16
/// tail. Source: arXiv:2402.02750; defaults from the paper (group 32, residual 128).
template <int Bits, element Tail = f16>
struct kivi {
  static_assert(Bits == 2 || Bits == 4 || Bits == 8, "kvslim: kivi has 2, 4 or 8 bits");
  using stage = quantizer_tag;

  struct options {
    index_t group = 32;       ///< tokens per key group and channels per value group
    index_t residual = 128;   ///< newest tokens kept exact
    index_t value_group = 0;  ///< channels per value group; 0: same as group
    kvslim::rounding rounding = kvslim::rounding::precise;
  };
  options opt = {};

  [[nodiscard]] KVSLIM_HD constexpr channel_key<Bits, Tail> key_codec() const noexcept {
    return {opt.group, opt.residual, opt.rounding};
  }
  [[nodiscard]] KVSLIM_HD constexpr token_value<Bits, Tail> value_codec() const noexcept {
    return {opt.value_group == 0 ? opt.group : opt.value_group, opt.residual, opt.rounding};
  }
  [[nodiscard]] KVSLIM_HD static constexpr std::uint32_t scheme() noexcept {
    return 0x0200u + static_cast<std::uint32_t>(Bits);
  }
};
static_assert(quantizer<kivi<2>>);

KVSLIM_END_NAMESPACE
