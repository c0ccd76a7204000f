// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// GEAR repairs a quantized cache: the largest and smallest values are kept exact beside the codes
// ("sparse"), and what quantization still misses is approximated by few directions a head ("low
// rank"). GEAR-L has the low rank only. "GEAR: An Efficient KV Cache Compression Recipe for
// Near-Lossless Generative Inference of LLM", arXiv:2403.05527, sections 3 and 4. Authors' code:
// HaoKang-Timmy/GEAR efe0bfe, GenerationBench/GenerationTest/GEARLM/Simulated/compress_function.py
// (gearslkivi_channelQ_new, gearslkivi_tokenQ_new, tokenwise_gearlkivi_*): the functions that its
// accuracy figures come from.
//
// Fidelity: the backbone is KIVI's grouping, as in those functions, or KCVT (`kcvt`): one range a
//   channel over the whole prompt, one a token. Theirs is of a token's heads together, here it is
//   of each head; blocks that are decoded later have ranges of their own there and the prompt's
//   here, cut where they lie beyond, which is what makes the stored form smaller.
// Fidelity: outliers of K are chosen per channel of each block of `residual` tokens (theirs: of the
//   whole prompt, as many as merged channels * share / 2 whatever its length), those of V per token
//   and head (theirs: over all heads merged), at least one at either end. With one head and a
//   prompt of one block the two are equal, mean in the outliers' places included.
// Fidelity: the prompt's residual is projected on `rank` directions found by as many rounds of
//   power iteration from a fixed start (theirs is random and not seeded). Their last half round
//   keeps the token side orthonormal; here tokens are projected on the orthonormal channel side,
//   which misses no more than theirs does from the same start.
// Fidelity: outliers, directions and coefficients are f16, scales and minimums Param; theirs are
//   simulated in float and rounded to f16 at the end.
// Fidelity: as theirs, decoded tokens are coded `residual` at a time, each block with directions of
//   its own of rank grown_rank. Blocks have one size, so that each has room for the larger of
//   residual * rank and (residual + head_dim) * grown_rank numbers.
// Fidelity: their outlier variants quantize to bits^2 - 1 steps, which is 2^bits - 1 at the 2 and 4
//   bits that they use; here it always is 2^bits - 1.

#include <kvslim/codec/low_rank_sum.hpp>
#include <kvslim/codec/outlier_key.hpp>
#include <kvslim/codec/outlier_value.hpp>
#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Requires: groups as kivi; residual a multiple of group and of 32, at most 1024; ranks 0 to 16;
/// rounds 1 to 16; outliers in [0, 0.5]; head_dim a multiple of 4, at most 65536 (invalid_option,
/// invalid_shape).
/// Cost: encoding reads the prompt 2 + rounds times and quantizes it 1 + rounds times, a block of
/// threads for a row on CUDA. Bytes per token, head and half: those of kivi (of KCVT's keys its
/// codes alone), 6 * head_dim * outliers (GEAR), and 2 * max(rank, (1 + head_dim / residual) *
/// grown_rank); per head and half 2 * rank * head_dim.
/// Coding a token of one KV head of 128 channels takes 2.2 us with AVX-512, 3.8 with AVX2 and 27 by
/// plain loops, of which those of blocks beyond 8192 numbers and rows beyond 256 channels of V, or
/// more than 8 outliers at an end, stay (one thread, AMD Zen 4, -O2); attending to 4096 tokens of 8
/// KV heads with 32 query heads takes 2.1 ms, gear_l<4> 1.0, kivi<4> in groups of 64 0.7 (AVX-512
/// VNNI). Source: arXiv:2403.05527; defaults from the authors' scripts (group,
/// buffer 64, rank 4 and 2, three rounds, 2 % outliers).
template <int KeyBits, int ValueBits = KeyBits, element Tail = f16, affine_parameter Param = f16>
struct gear {
  static_assert(KeyBits >= 1 && KeyBits <= 8 && ValueBits >= 1 && ValueBits <= 8,
                "kvslim: gear's codes have 1 to 8 bits");
  static constexpr quantizer_traits traits{};

  struct options {
    index_t group = 64;       ///< tokens per key group and channels per value group
    index_t residual = 64;    ///< tokens that are coded together, exact until then
    index_t rank = 4;         ///< directions of the prompt's residual, per head
    index_t grown_rank = 2;   ///< of each block coded later
    index_t rounds = 3;       ///< of power iteration
    float outliers = 0.02f;   ///< share of values kept aside
    index_t value_group = 0;  ///< channels per value group; 0: same as group, of KCVT all
    kvslim::rounding rounding = kvslim::rounding::precise;
    bool kcvt = false;  ///< ranges of K's channels are the prompt's, `group` is only how codes lie
  };
  options opt = {};

  [[nodiscard]] KVSLIM_HD constexpr auto key_codec() const noexcept {
    using base = outlier_key<KeyBits, Tail, Param>;
    return low_rank_sum<base>{{{opt.group, opt.residual, opt.rounding}, opt.outliers, opt.kcvt},
                              opt.residual,
                              opt.rank,
                              opt.grown_rank,
                              opt.rounds};
  }
  [[nodiscard]] KVSLIM_HD constexpr auto value_codec() const noexcept {
    using base = outlier_value<ValueBits, Tail, Param>;
    index_t const group = opt.value_group == 0 && !opt.kcvt ? opt.group : opt.value_group;
    return low_rank_sum<base>{{{group, 0, opt.rounding}, opt.residual, opt.outliers},
                              opt.residual,
                              opt.rank,
                              opt.grown_rank,
                              opt.rounds};
  }
};
static_assert(quantizer<gear<2>> && quantizer<gear<4, 2, bf16>>);

/// GEAR-L: the low rank without outliers. Requires, cost and source as gear. Over KCVT it is gear
/// with `.outliers = 0, .kcvt = true`.
template <int KeyBits, int ValueBits = KeyBits, element Tail = f16, affine_parameter Param = f16>
struct gear_l {
  static_assert(KeyBits >= 1 && KeyBits <= 8 && ValueBits >= 1 && ValueBits <= 8,
                "kvslim: gear_l's codes have 1 to 8 bits");
  static constexpr quantizer_traits traits{};

  struct options {
    index_t group = 64;
    index_t residual = 64;
    index_t rank = 4;
    index_t grown_rank = 2;
    index_t rounds = 3;
    index_t value_group = 0;
    kvslim::rounding rounding = kvslim::rounding::precise;
  };
  options opt = {};

  [[nodiscard]] KVSLIM_HD constexpr auto key_codec() const noexcept {
    return low_rank_sum<channel_key<KeyBits, Tail, Param>>{{opt.group, opt.residual, opt.rounding},
                                                           opt.residual,
                                                           opt.rank,
                                                           opt.grown_rank,
                                                           opt.rounds};
  }
  [[nodiscard]] KVSLIM_HD constexpr auto value_codec() const noexcept {
    index_t const group = opt.value_group == 0 ? opt.group : opt.value_group;
    return low_rank_sum<token_value<ValueBits, Tail, Param>>{
        {group, 0, opt.rounding}, opt.residual, opt.rank, opt.grown_rank, opt.rounds};
  }
};
static_assert(quantizer<gear_l<2>> && quantizer<gear_l<4, 2, bf16>>);

KVSLIM_END_NAMESPACE
