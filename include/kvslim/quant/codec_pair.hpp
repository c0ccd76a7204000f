// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Any codec for K with any codec for V: K8V4, dense keys beside quantized values, codecs of one's
// own.
//
// Fidelity: no paper; each codec is what its own file says.

#include <kvslim/core/codec.hpp>
#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Stores K as one codec says and V as another: codec_pair{token_key<8>{}, token_value<4>{}}.
/// Requires and cost: those of the two codecs.
template <class Key, class Value>
struct codec_pair {
  static_assert(kvslim::key_codec<Key>, "kvslim: codec_pair's first codec does not store keys");
  static_assert(kvslim::value_codec<Value>,
                "kvslim: codec_pair's second codec does not store values");
  static constexpr quantizer_traits traits{};

  Key key = {};
  Value value = {};

  [[nodiscard]] KVSLIM_HD constexpr Key key_codec() const noexcept { return key; }
  [[nodiscard]] KVSLIM_HD constexpr Value value_codec() const noexcept { return value; }
};
template <class Key, class Value>
codec_pair(Key, Value) -> codec_pair<Key, Value>;

KVSLIM_END_NAMESPACE
