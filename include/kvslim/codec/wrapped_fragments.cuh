// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Codecs that turn or scale channels in front of a planar one: their blocks are its blocks, which
// matrix units read with queries and sums in its channels.

#include <kvslim/codec/planar_fragments.cuh>
#include <kvslim/codec/rotated_rows.hpp>
#include <kvslim/codec/scaled_rows.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

template <class Runs>
concept planar_runs = Runs::exist && requires {
  Runs::bits;
};

template <class Codec, class Inner>
struct inner_key_runs : key_runs<Inner> {
  __device__ inner_key_runs(Codec const& codec, std::byte const* first, int dim)
      : key_runs<Inner>(codec.inner, first, dim) {}
  [[nodiscard]] static constexpr bool serves(Codec const& codec) {
    return key_runs<Inner>::serves(codec.inner);
  }
};
template <class Codec, class Inner>
struct inner_value_runs : value_runs<Inner> {
  __device__ inner_value_runs(Codec const& codec, std::byte const* first, int dim)
      : value_runs<Inner>(codec.inner, first, dim) {}
  [[nodiscard]] static constexpr bool serves(Codec const& codec, index_t dim, bool single) {
    return value_runs<Inner>::serves(codec.inner, dim, single);
  }
};

template <class Inner>
requires planar_runs<key_runs<Inner>>
struct key_runs<rotated_rows<Inner>> : inner_key_runs<rotated_rows<Inner>, Inner> {
  using inner_key_runs<rotated_rows<Inner>, Inner>::inner_key_runs;
};
template <class Inner>
requires planar_runs<value_runs<Inner>>
struct value_runs<rotated_rows<Inner>> : inner_value_runs<rotated_rows<Inner>, Inner> {
  using inner_value_runs<rotated_rows<Inner>, Inner>::inner_value_runs;
};
template <class Inner, class Factor, factors_from From>
requires planar_runs<key_runs<Inner>>
struct key_runs<scaled_rows<Inner, Factor, From>>
    : inner_key_runs<scaled_rows<Inner, Factor, From>, Inner> {
  using inner_key_runs<scaled_rows<Inner, Factor, From>, Inner>::inner_key_runs;
};
template <class Inner, class Factor, factors_from From>
requires planar_runs<value_runs<Inner>>
struct value_runs<scaled_rows<Inner, Factor, From>>
    : inner_value_runs<scaled_rows<Inner, Factor, From>, Inner> {
  using inner_value_runs<scaled_rows<Inner, Factor, From>, Inner>::inner_value_runs;
};

KVSLIM_END_CUDA_NAMESPACE
