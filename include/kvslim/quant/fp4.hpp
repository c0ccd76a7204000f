// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// 4-bit floats in blocks: MXFP4 (OCP Microscaling Formats 1.0; Rouhani et al., arXiv:2310.10537)
// and NVFP4 (NVIDIA). Sources: ggml-org/ggml d99724f, src/ggml-quants.c,
// quantize_row_mxfp4_ref and quantize_row_nvfp4_ref, whose bytes these are; pytorch/ao 0.18.0,
// prototype/mx_formats, for rounding to even and NVFP4's scale of all; flashinfer-ai/flashinfer
// fb28d72, csrc/fp4_kv_quantization.cu, as the last but on devices.
//
// Fidelity: fp4_rounding::ggml writes ggml's bytes, `even` what the specification asks for and
//   hardware does. ggml's e4m3 scales from 256 on are all 448 and those below 2^-6 at most 7 *
//   2^-9, which is kept there. Values decode alike.
// Fidelity: mxfp4's exponent is that of the largest magnitude, exactly; ggml takes log2f of it,
//   which is one more for some of the floats just below a power of two (the last one or two of
//   2^23). Below 2^-120 a block is zeros here.
// Fidelity: pytorch/ao does not let an NVFP4 scale go below 2^-6, and multiplies by reciprocals;
//   here scales have e4m3's subnormals and ties are exact.
// Fidelity: where a scale of all is known (key_scale, value_scale: largest magnitude / 2688), it
//   lies in the header, once. ggml has none. What is larger than it reaches is refused.

#include <kvslim/codec/fp4_rows.hpp>
#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Stores K and V as 4-bit floats, each its own type: fp4<fp4_block::nvfp4, fp4_block::mxfp4>.
///
/// Requires: head_dim (and value_dim) a multiple of 32 for mxfp4, of 16 for nvfp4 (invalid_shape);
/// residual between 0 and 2^20; scales between 2^-60 and 2^60, mxfp4's 1 (invalid_option). Cost:
/// encode one read and one write; per token and head head_dim / 32 times 17 (mxfp4) or 18 (nvfp4)
/// bytes for either half, which is 4.25 or 4.5 bits for each element, plus the tail.
template <fp4_block Key, fp4_block Value = Key, element Tail = f16>
struct fp4 {
  static constexpr quantizer_traits traits{};

  struct options {
    index_t residual = 0;  ///< newest tokens kept exact; engines keep none
    fp4_rounding rounding = fp4_rounding::ggml;
    float key_scale = 1.0f;    ///< nvfp4: of all keys; ggml's and most checkpoints' is 1
    float value_scale = 1.0f;  ///< likewise
  };
  options opt = {};

  [[nodiscard]] KVSLIM_HD constexpr fp4_rows<Key, Tail> key_codec() const noexcept {
    return {opt.residual, opt.rounding, opt.key_scale};
  }
  [[nodiscard]] KVSLIM_HD constexpr fp4_rows<Value, Tail> value_codec() const noexcept {
    return {opt.residual, opt.rounding, opt.value_scale};
  }
};
static_assert(quantizer<fp4<fp4_block::mxfp4>> &&
              quantizer<fp4<fp4_block::nvfp4, fp4_block::mxfp4>>);

KVSLIM_END_NAMESPACE
