// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// KVQuant stores keys before RoPE, each channel within thresholds of its own, and values within
// thresholds of their token; codes are levels of a codebook that was fitted offline, where errors
// cost most, the one percent beyond the thresholds is kept exact, and so is the first token.
// "KVQuant: Towards 10 Million Context Length LLM Inference with KV Cache Quantization",
// arXiv:2401.18079, section 3. Authors' code: SqueezeAILab/KVQuant 57a2383,
// quant/kvquant/simquant_module_quantizer.py (SimQuant.quantize, get_outliers,
// get_outliers_dynamic, quant_fn_nuq_recon): the functions that its accuracy figures come from.
//
// Fidelity: what is loaded is what their quantize gives (upper and lower thresholds, a codebook).
//   Q-Norm is a second codebook to read codes by: normscale * level + normoffset.
// Fidelity: a head is quantized alone. Theirs takes a token's values of all heads together, and of
//   keys 42 outliers at most in a token of 4096 channels; here values are of one head, and keys
//   have room for `outliers` of each 32 tokens of a head. With one head and enough room the two are
//   equal.
// Fidelity: of values that equal a token's quantile, theirs keeps all; here as many at either end
// as
//   without ties, sorted by size, then place.
// Fidelity: a value whose thresholds are one decodes to them; theirs gives 0.
// Fidelity: the newest up to 31 tokens wait as Tail for their block of 32 (values: up to 3, for
//   blocks of 4); theirs are coded at once. A prompt that fills no block has no exact first token.
// Fidelity: codebook_from::prompt is not theirs: thresholds are percentiles of the prompt's keys as
//   theirs are of calibration data, codebooks its k-means without Fisher weights (their
//   quantize without `fisher`), of 2048 tokens at most, in 512 bins, one for each head.

#include <kvslim/codec/codebook_key.hpp>
#include <kvslim/codec/codebook_value.hpp>
#include <kvslim/codec/rebuilt_key.hpp>
#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// codebook_from::table reads two tables that the cache binds (packed_cache::bind), of layers *
/// kv_heads records each, in floats: of K levels[2^KeyBits] to choose codes by and as many to read
/// them as, lower[head_dim] and upper[head_dim] thresholds before RoPE; of V the levels twice.
/// Sequences of the view are that layer, or whole sets of `layers` layers one after another. The
/// tables are the model's, and not part of the stored bytes.
///
/// Requires: head_dim a multiple of 4 and at most 512 (invalid_shape); outliers in [0, 0.1]; sinks
/// 0 to 1024; a rope that fits head_dim; layers and kv_heads at least 1 (invalid_option); bound
/// tables (invalid_pointer).
/// Cost: attention rotates every key (codec/rebuilt_key.hpp). Bits for each element: KeyBits + 32 *
/// outliers of K, ValueBits + (32 + 48 * (1 + head_dim * outliers / 2)) / head_dim of V (Param of
/// two bytes); per row 4 * sinks * head_dim bytes and, from the prompt, its records.
/// 4096 tokens of 8 KV heads of 128 took kvquant<4> with levels of the prompt 0.11 s to encode and
/// 4.9 ms to attend to with 32 query heads (27 ms key by key; plain loops 22), kivi<4> 3.3 ms and
/// 0.7 ms (one thread, AVX-512, -O2; attention on a busy machine).
/// Source: arXiv:2401.18079; one percent and one exact token are the authors' released settings.
template <int KeyBits, int ValueBits = KeyBits, codebook_from From = codebook_from::table,
          element Tail = f16, affine_parameter Param = f16>
struct kvquant {
  static constexpr quantizer_traits traits{};

  struct options {
    index_t layers = 1;      ///< in the tables
    index_t kv_heads = 8;    ///< of a layer
    index_t sinks = 1;       ///< first tokens kept exact
    float outliers = 0.01f;  ///< share of values kept aside
    rope rotation = {};      ///< of the view's keys
  };
  options opt = {};

  [[nodiscard]] KVSLIM_HD constexpr rebuilt_key<codebook_key<KeyBits, From, Tail>> key_codec()
      const noexcept {
    return {{opt.sinks, opt.outliers, records()}, opt.rotation};
  }
  [[nodiscard]] KVSLIM_HD constexpr codebook_value<ValueBits, From, Tail, Param> value_codec()
      const noexcept {
    return {opt.sinks, opt.outliers, records()};
  }

  /// Floats of one layer's and head's record in either table.
  [[nodiscard]] static KVSLIM_HD constexpr index_t key_floats(index_t head_dim) noexcept {
    return codebook_key<KeyBits, From, Tail>::record_floats(head_dim);
  }
  [[nodiscard]] static KVSLIM_HD constexpr index_t value_floats() noexcept {
    return codebook_value<ValueBits, From, Tail, Param>::record_floats(0);
  }

 private:
  [[nodiscard]] KVSLIM_HD constexpr index_t records() const noexcept {
    return From == codebook_from::table ? opt.layers * opt.kv_heads : 1;
  }
};
static_assert(quantizer<kvquant<4>> && quantizer<kvquant<3, 2, codebook_from::prompt>>);
static_assert(key_codec<decltype(kvquant<4>{}.key_codec())> &&
              detail::check_codec<decltype(kvquant<4>{}.key_codec())>::value);

KVSLIM_END_NAMESPACE
