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

/// In which order fragments have the tokens of a run, and of which type weights are: K's scores
/// become V's weights without moving where the two agree.
enum class run_order { codes, two_bits, f16, bf16 };

/// Whether attention reads runs of a pair of codecs by matrix units.
template <class Key, class Value>
[[nodiscard]] consteval bool reads_runs() {
  if constexpr (key_runs<Key>::exist && value_runs<Value>::exist)
    return key_runs<Key>::order == value_runs<Value>::order;
  else
    return false;
}

KVSLIM_END_CUDA_NAMESPACE
