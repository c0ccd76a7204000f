// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// TurboQuant (Zandieh, Daliri, Hadian, Mirrokni; arXiv:2504.19874): a random rotation, then for
// every coordinate the nearest of the levels that are best for coordinates of random directions
// (Algorithm 1), and for inner products without bias one bit less and the signs of a random
// projection of what is missed (Algorithm 2, QJL). The authors published no code. Published
// implementations read: tonbistudio/turboquant-pytorch 9997138, turboquant/turboquant.py and
// lloyd_max.py; vllm-project/vllm 06d0369, model_executor/layers/quantization/turboquant, and
// 0135d08, v1/attention/backends/turboquant_attn.py.
//
// Fidelity: the rotation is a signed Hadamard matrix, as in vLLM (seed = 0: without signs, as
//   there); the paper's and turboquant-pytorch's is a dense random one, head_dim^2 multiplications
//   for a token and a query.
// Fidelity: the projection of what is missed is sqrt(head_dim) times a second such rotation of
//   rotated rows; the paper's has independent normal entries. Its constant, sqrt(pi / 2) /
//   head_dim, is the paper's: an orthogonal one of random directions needs 1 / (4 head_dim) less.
//   QJL (arXiv:2406.03482, section 4.2) also makes its projection orthogonal.
// Fidelity: levels solve the paper's conditions for head_dim channels (within 2e-6 of a standard
//   deviation); turboquant-pytorch and vLLM take the normal distribution's
//   (turbo_levels::gaussian).
// Fidelity: at a tie the lower level is taken, as in turboquant-pytorch; vLLM takes the upper one.
// Fidelity: the length is the row's, as in the paper; vLLM's "norm correction" is
//   turbo_length::decoded; turbo_length::least is DRIVE's and EDEN's scale (arXiv:2604.18555).
//   Lengths are f16; what is missed is what the stored length misses.
// Fidelity: vLLM stores V unrotated, as integers per token, and so does codec_pair{turbo_key<4>{},
//   token_value<4>{}}; the paper codes both alike, and mixes widths over channels, which is not
//   done here.
// Fidelity: of 1 bit, inner is QJL's sketch of K with as many bits as channels; QJL's outlier
//   channels are not done here.

#include <kvslim/codec/turbo_rows.hpp>
#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Stores K in KeyBits and V in ValueBits bits: turboquant<3>, turboquant<4, 2, turbo_form::inner>
/// (K without bias in inner products; V as levels, because sums of many average what is missed).
///
/// Requires: head_dim (and value_dim) m * 2^k with m 1, 12, 20, 28 or 36, 16 to 1024, head_dim a
/// multiple of 4 (invalid_shape); residual between 0 and 2^20, length and levels of those named
/// (invalid_option). Cost: encode one read and one write; bits for each element: Bits + 16 /
/// head_dim, inner Bits + 32 / head_dim (of 1 bit 1 + 16 / head_dim), plus the tail. One rotation
/// (inner: two) for every token stored and for every query and sum of attention, which has kernels
/// on x86-64: 4096 tokens of 8 KV heads of 128 and 32 query heads took 0.95 ms in 4 bits, 1.5 in 3,
/// 1.7 in 3 of inner (AVX2: 1.6, 1.2, 1.6), ggml's q4_0 1.2 (2.0) and plain loops 10, 10 and 13
/// (one thread of a busy machine, -O2).
template <int KeyBits, int ValueBits = KeyBits, turbo_form Key = turbo_form::mse,
          turbo_form Value = turbo_form::mse, element Tail = f16>
struct turboquant {
  static constexpr quantizer_traits traits{};

  struct options {
    index_t residual = 0;    ///< newest tokens kept exact; the paper keeps none
    std::uint64_t seed = 1;  ///< of the channels' signs; 0: none changes (vLLM)
    turbo_length length = turbo_length::row;
    turbo_levels levels = turbo_levels::exact;
  };
  options opt = {};

  [[nodiscard]] KVSLIM_HD constexpr turbo_key<KeyBits, Key, Tail> key_codec() const noexcept {
    return {opt.residual, opt.seed, opt.length, opt.levels};
  }
  [[nodiscard]] KVSLIM_HD constexpr turbo_value<ValueBits, Value, Tail> value_codec()
      const noexcept {
    return {opt.residual, opt.seed, opt.length, opt.levels};
  }
};
static_assert(quantizer<turboquant<4>> && quantizer<turboquant<3, 2, turbo_form::inner>>);

KVSLIM_END_NAMESPACE
