// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// ZipCache stores tokens that attention needs in more bits than the others: keys in one range a
// channel, values per token with each channel divided by the root of its largest magnitude.
// "ZipCache: Accurate and Efficient KV Cache Quantization with Salient Token Identification",
// arXiv:2405.14256, sections 4.1 and 4.3. Authors' code: ThisisBillhe/ZipCache b6932b9,
// zipcache/models/CompressUtils/compress_function.py (true_mixedprec_compress_channelwise,
// true_channel_separate_mixedprec_tokenwise_compress).
//
// This is one class. Two caches hold two: the first what any scorer and quota choose, the second
// what ops::rest_of leaves; attend_segments reads both as one. Which tokens are in which is stored
// as their positions.
//
// Fidelity: their saliency (attention of 5 % newest and 5 % random queries, each key's sum divided
//   by the queries that see it) is a matter of the scorer, and not of this file.
// Fidelity: they scale values by the largest magnitudes of both classes; here of each class. They
//   take a token's values of all heads together; here of one head. With one head and one class the
//   two are equal.
// Fidelity: a channel that is 0 in the prompt is divided by 1 (theirs by 0).
// Fidelity: decoded tokens are coded one by one with the prompt's ranges and factors, cut at their
//   ends, once they leave `residual`; theirs stay exact for 100 steps, then the whole cache is
//   decoded and coded again.

#include <kvslim/codec/prompt_channel_key.hpp>
#include <kvslim/codec/scaled_rows.hpp>
#include <kvslim/codec/token_value.hpp>
#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Requires: head_dim a multiple of 4 (invalid_shape); residual between 0 and 2^20
/// (invalid_option); magnitudes up to 65504 (non_finite).
/// Cost: encode two reads and one write; bits for each element: Bits of K, Bits + 32 / head_dim of
/// V (Param of two bytes), 48 bits a channel of the row, and 4 bytes for a position a token.
/// 4096 tokens of 8 KV heads of 128 took zipcache<4> 0.43 s to encode and 0.65 ms to attend to with
/// 32 query heads, kivi<4> 0.23 s and 0.68 ms (one thread of a busy machine, -O2).
/// Source: arXiv:2405.14256; 4 bits, and 2 for the 40 % less salient ones, in the authors' demo.
template <int Bits, element Tail = f16, affine_parameter Param = f16>
struct zipcache {
  static_assert(Bits >= 1 && Bits <= 8, "kvslim: zipcache has 1 to 8 bits");
  static constexpr quantizer_traits traits{};

  struct options {
    index_t residual = 0;  ///< newest tokens kept exact
  };
  options opt = {};

  [[nodiscard]] KVSLIM_HD constexpr prompt_channel_key<Bits, Tail, Param> key_codec()
      const noexcept {
    return {opt.residual};
  }
  [[nodiscard]] KVSLIM_HD constexpr scaled_rows<token_value<Bits, Tail, Param>, Param> value_codec()
      const noexcept {
    return {{0, opt.residual}};
  }
};
static_assert(quantizer<zipcache<4>> && quantizer<zipcache<2, f16, float>>);
static_assert(value_codec<decltype(zipcache<4>{}.value_codec())> &&
              detail::check_codec<decltype(zipcache<4>{}.value_codec())>::value);

KVSLIM_END_NAMESPACE
