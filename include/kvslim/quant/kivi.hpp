// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// KIVI quantizes keys per channel and values per token, and keeps the newest tokens exact. "KIVI: A
// Tuning-Free Asymmetric 2bit Quantization for KV Cache", arXiv:2402.02750, section 3. Authors'
// code: jy-yuan/KIVI 876b4d2, quant/new_pack.py and models/llama_kivi.py.
//
// Fidelity: split, flush rule and grouping are the authors'; `rounding::authors` also rounds inputs
//   and every step to f16 as their tensors do, and then gives their codes and parameters bit for
//   bit. The default computes in float with the stored parameters.
// Fidelity: values are code * scale + low in float, as in the authors' attention kernel; their
//   separate unpack routine rounds the product and the sum to f16.
// Fidelity: theirs are 2, 4 and 8 bits; other widths are the same arithmetic with 2^bits - 1 steps,
//   stored in parts of 4, 2 and 1 bits (codec/bit_parts.hpp).
// Fidelity: codes are packed in planar units instead of the authors' 32-bit words (same codes,
//   other order), because attention reads units without a transpose.
// Fidelity: a group of equal values is 0/0 in the authors' code; here it decodes to exactly that
//   value. A group whose step rounds to zero in f16 divides by zero there; here it has the smallest
//   step.

#include <kvslim/codec/channel_key.hpp>
#include <kvslim/codec/token_value.hpp>
#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Requires: a group of keys that fills runs of 32 tokens within 1024 (codec/channel_key.hpp), such
/// as 16, 32, 48, 160 or 256; a divisor of head_dim in `value_group`, or in group; residual a
/// multiple of group and of 32, at most 2^20; head_dim a multiple of 4 (invalid_option,
/// invalid_shape).
/// Cost: encode one read and one write; per token and head head_dim * (KeyBits / 8 + ValueBits / 8
/// + 4 * sizeof(Param) / group) bytes plus the tail.
/// Source: arXiv:2402.02750; defaults from the paper (group 32, residual 128).
template <int KeyBits, int ValueBits = KeyBits, element Tail = f16, affine_parameter Param = f16>
struct kivi {
  static_assert(KeyBits >= 1 && KeyBits <= 8, "kvslim: kivi's keys have 1 to 8 bits");
  static_assert(ValueBits >= 1 && ValueBits <= 8, "kvslim: kivi's values have 1 to 8 bits");
  static constexpr quantizer_traits traits{};

  struct options {
    index_t group = 32;       ///< tokens per key group and channels per value group
    index_t residual = 128;   ///< newest tokens kept exact
    index_t value_group = 0;  ///< channels per value group; 0: same as group
    kvslim::rounding rounding = kvslim::rounding::precise;
  };
  options opt = {};

  [[nodiscard]] KVSLIM_HD constexpr channel_key<KeyBits, Tail, Param> key_codec() const noexcept {
    return {opt.group, opt.residual, opt.rounding};
  }
  [[nodiscard]] KVSLIM_HD constexpr token_value<ValueBits, Tail, Param> value_codec()
      const noexcept {
    return {opt.value_group == 0 ? opt.group : opt.value_group, opt.residual, opt.rounding};
  }
};
static_assert(quantizer<kivi<2>> && quantizer<kivi<4, 2, bf16>>);

KVSLIM_END_NAMESPACE
