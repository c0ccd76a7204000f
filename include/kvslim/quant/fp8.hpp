// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// The 8-bit floats that engines store caches in, with a scale: vllm-project/vllm 0492a43
// (csrc/quantization/w8a8/fp8), whose newer caches have one for each token and head; Micikevicius
// et al., arXiv:2209.05433, for e4m3 and e5m2. Without any scale it is dense<e4m3>.
//
// Fidelity: codes and scales of a token (group = 0) and of groups of channels are those of
//   pytorch/ao 0.18.0, quantize_ and dequantize_affine_float8 with a scale for each row or block,
//   bit for bit. vLLM bounds a token's scale from below; here that of a group below 2^-90 is 0.
// Fidelity: engines have one scale for a tensor, from the checkpoint or 1 (key_scale,
//   value_scale); what is larger than it reaches, they clip, and here it is refused.
// Fidelity: AMD's e4m3fnuz is not stored.

#include <kvslim/codec/fp8_rows.hpp>
#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Stores K and V as 8-bit floats, each its own type: fp8<e4m3, e5m2>.
///
/// Requires: head_dim (and value_dim) a multiple of group (invalid_shape); residual between 0 and
/// 2^20; group not negative; a scale 0 or between 2^-100 and 2^100, then without a group
/// (invalid_option). Cost: encode one read and one write; bits for each element: 8 + 32 / group (8
/// + 32 / head_dim without one, 8 with a given scale), plus the tail. Attention reads groups head
/// by head: for four heads a KV head it took 3.8 times as long as with a scale for each token.
template <element Key = e4m3, element Value = Key, element Tail = f16>
struct fp8 {
  static constexpr quantizer_traits traits{};

  struct options {
    index_t residual = 0;      ///< newest tokens kept exact; engines keep none
    index_t group = 0;         ///< channels that share a scale; 0: all of a token's, as vLLM
    float key_scale = 0.0f;    ///< of all keys, as a checkpoint states it; 0: each token its own
    float value_scale = 0.0f;  ///< of all values, likewise
  };
  options opt = {};

  [[nodiscard]] KVSLIM_HD constexpr fp8_key<Key, Tail> key_codec() const noexcept {
    return {opt.residual, opt.group, opt.key_scale};
  }
  [[nodiscard]] KVSLIM_HD constexpr fp8_value<Value, Tail> value_codec() const noexcept {
    return {opt.residual, opt.group, opt.value_scale};
  }
};
static_assert(quantizer<fp8<>> && quantizer<fp8<e4m3, e5m2>>);

KVSLIM_END_NAMESPACE
