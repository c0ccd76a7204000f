// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// The cache types of ggml and llama.cpp: blocks of 32 channels with one f16 step. Source:
// ggml-org/ggml d99724f, src/ggml-quants.c, quantize_row_*_ref and dequantize_row_*.
//
// Fidelity: bytes are those of the reference routines, whatever the compiler's flags; values are
//   bit for bit what the reference decodes to. A block whose step is below 2^-120 has the codes of
//   step 0; the reference goes on to where its reciprocal overflows. Both decode to nothing but m.
// Fidelity: ggml's own vector code for q8_0 rounds ties to even, with AVX and NEON; the one for AVX
//   also takes 127 / max as reciprocal. Measured with AVX2, one code in 400,000 is off by one for
//   normal floats, one in 740 if they are rounded to bf16. Its CUDA routines leave it to the
//   compiler whether product and sum are fused. The other types use the reference on every CPU.
// Fidelity: the step is used in float while coding and stored as f16, as ggml does: at ties, and
//   where f16 steps are coarse (below 2^-14), codes are not the nearest ones of the stored step.
// Fidelity: what a block decodes to is coded to the same bytes again, as in ggml: always for q8_0,
//   q5_0 and q4_0 (unless the stored step is 0); for q5_1 and q4_1 but for a block in a thousand.
// Fidelity: NaN, infinity and what would make a step or the tail infinite are refused; ggml codes
//   them as something.
// Fidelity: a token that waits in the exact tail is rounded to the tail's type before it is coded:
//   with Tail = float, bytes are ggml's for appended floats too.
// Fidelity: llama.cpp (v0.5.0) also rotates Q, K and V by a Hadamard matrix before it quantizes, if
//   head_dim is a multiple of 64 and LLAMA_ATTN_ROT_DISABLE is not set; that is not done here. Keys
//   and queries that are rotated alike score alike.

#include <kvslim/codec/ggml.hpp>
#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Stores K and V as ggml's blocks, each its own type: ggml<ggml_block::q8_0, ggml_block::q4_0>.
/// Requires: head_dim a multiple of 32 (invalid_shape); residual between 0 and 2^20
/// (invalid_option).
/// Cost: encode one read and one write; per token and head head_dim / 32 times 34 (q8_0), 24
/// (q5_1), 22 (q5_0), 20 (q4_1) or 18 (q4_0) bytes for either half, plus the tail.
template <ggml_block Key, ggml_block Value = Key, element Tail = f16>
struct ggml {
  static constexpr quantizer_traits traits{};

  struct options {
    index_t residual = 0;  ///< newest tokens kept exact; llama.cpp keeps none
  };
  options opt = {};

  [[nodiscard]] KVSLIM_HD constexpr ggml_rows<Key, Tail> key_codec() const noexcept {
    return {opt.residual};
  }
  [[nodiscard]] KVSLIM_HD constexpr ggml_rows<Value, Tail> value_codec() const noexcept {
    return {opt.residual};
  }
};
static_assert(quantizer<ggml<ggml_block::q8_0>> &&
              quantizer<ggml<ggml_block::q8_0, ggml_block::q4_0>>);

KVSLIM_END_NAMESPACE
