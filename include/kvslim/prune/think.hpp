// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// ThinK stores keys without the channels in which the last queries and the keys are shortest, and
// keeps the newest tokens whole. "ThinK: Thinner Key Cache by Query-Driven Pruning",
// arXiv:2407.21018, sections 3.2 and 3.3. Authors' code: SalesforceAIResearch/ThinK d200577,
// ThinK_eager/src/kv_pruning_utils.py (key_pruner_query_driven); kvpress 0.5.5, think_press.py.
//
// Fidelity: a channel's score is mean q^2 over the last queries, times mean k^2 over all kept
//   tokens, the newest included: both codes', the square of the paper's norms.
// Fidelity: the authors' code chooses channels for every query head, on keys that are repeated for
//   each; here for every KV head, by the mean of its query heads, as kvpress does.
// Fidelity: the newest tokens stay whole, as theirs; kvpress zeroes their channels too. Here that
//   window moves on with the text, where theirs keeps all tokens that were generated whole; plan
//   with so many draft_tokens, or never settle(), for the same.
// Fidelity: in front of KIVI, with recent = 0, what KIVI codes has fewer channels, as in their
//   ThinK_kivi; what waits to be coded is whole.
// Fidelity: of equal channels the earlier stays; torch.topk does not say which.

#include <kvslim/codec/chosen_channels.hpp>
#include <kvslim/core/concepts.hpp>
#include <kvslim/ops/query_energy.hpp>
#include <kvslim/quant/dense.hpp>

KVSLIM_BEGIN_NAMESPACE

struct think_options {
  float share = 0.4f;    ///< of K's channels that is left out (authors; their function: 0.3)
  index_t recent = 32;   ///< newest tokens whose keys stay whole (authors; their function: 128)
  index_t multiple = 1;  ///< of channels that stay: more of them than the share says, if need be
};

/// Stores K as another quantizer does, of fewer channels, and V as it does: think{dense<f16>{}},
/// think{kivi<2>{}, {.recent = 0, .multiple = 4}}.
///
/// What the queries say is a table that the cache is bound to while it is filled, float
/// [rows][head_dim] in memory of its space: ops::query_energy(exec, queries of the last 32 tokens,
/// kv_heads, table), then packed.bind({.key = table}). Reading the cache does not need it.
///
/// Requires: share in [0, 1), multiple 1 to 256, a quantizer whose keys are single rows without a
/// state (invalid_option); what it asks for of so many channels: those that code keys want
/// multiples of 4 (invalid_shape); a bound table (invalid_pointer). Cost: encode one more pass over
/// K; attention the quantizer's, of fewer channels. Bytes of a coded key:
/// the quantizer's for head_dim - floor(head_dim * share) channels, and 2 bytes for each of those a
/// row. Source: arXiv:2407.21018; defaults of the authors' scripts.
template <class Quantizer = dense<f16>>
struct think {
  static_assert(kvslim::quantizer<Quantizer>, "kvslim: think goes in front of a quantizer");
  static constexpr quantizer_traits traits{};

  using options = think_options;
  Quantizer quantizer = {};
  options opt = {};

  [[nodiscard]] KVSLIM_HD constexpr auto key_codec() const noexcept {
    using inner = decltype(quantizer.key_codec());
    return chosen_channels<inner>{quantizer.key_codec(), opt.share, opt.recent, opt.multiple};
  }
  [[nodiscard]] KVSLIM_HD constexpr auto value_codec() const noexcept {
    return quantizer.value_codec();
  }
};
template <class Quantizer>
think(Quantizer) -> think<Quantizer>;
template <class Quantizer>
think(Quantizer, think_options) -> think<Quantizer>;

static_assert(quantizer<think<>>);
static_assert(key_codec<decltype(think<>{}.key_codec())> &&
              detail::check_codec<decltype(think<>{}.key_codec())>::value);

KVSLIM_END_NAMESPACE
