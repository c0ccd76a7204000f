// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/matrix_unit.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// Whether runs of 32 tokens of a codec's blocks are read by matrix units, and how.
template <class Codec>
struct key_runs {
  static constexpr bool exist = false;
};
template <class Codec>
struct value_runs {
  static constexpr bool exist = false;
};

/// The codec whose blocks a codec's are, `type`, and its options, of(codec): another one's where
/// that works in front of it, in a basis of its own.
template <class Codec>
struct fragment_codec {
  using type = Codec;
  [[nodiscard]] static KVSLIM_HD constexpr Codec const& of(Codec const& codec) { return codec; }
};
template <class Inner>
struct inner_fragments {
  using type = Inner;
};
template <class Codec>
using fragments_of = typename fragment_codec<Codec>::type;

/// In which order fragments have the tokens of a run, and of which type weights are: K's scores
/// become V's weights without moving where the two agree.
enum class run_order { codes, two_bits, f16, bf16, bytes };

/// Whether attention reads runs of a pair of codecs by matrix units.
template <class Key, class Value>
[[nodiscard]] consteval bool reads_runs() {
  using keys = key_runs<fragments_of<Key>>;
  using values = value_runs<fragments_of<Value>>;
  if constexpr (keys::exist && values::exist)
    return keys::order == values::order;
  else
    return false;
}

KVSLIM_END_CUDA_NAMESPACE
