// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Codecs that turn, scale, choose or project channels in front of another one: their blocks are its
// blocks, which matrix units read with queries and sums in its channels.

#include <kvslim/codec/chosen_channels.hpp>
#include <kvslim/codec/latent.hpp>
#include <kvslim/codec/rotated_rows.hpp>
#include <kvslim/codec/runs.cuh>
#include <kvslim/codec/scaled_rows.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

template <class Inner>
struct fragment_codec<rotated_rows<Inner>> : inner_fragments<Inner> {
  [[nodiscard]] static KVSLIM_HD constexpr Inner const& of(rotated_rows<Inner> const& c) {
    return c.inner;
  }
};
template <class Inner, class Factor, factors_from From>
struct fragment_codec<scaled_rows<Inner, Factor, From>> : inner_fragments<Inner> {
  [[nodiscard]] static KVSLIM_HD constexpr Inner const& of(
      scaled_rows<Inner, Factor, From> const& c) {
    return c.inner;
  }
};
template <class Inner>
struct fragment_codec<chosen_channels<Inner>> : inner_fragments<Inner> {
  [[nodiscard]] static KVSLIM_HD constexpr Inner const& of(chosen_channels<Inner> const& c) {
    return c.inner;
  }
};
/// Not where a mean is one coordinate more.
template <class Base, basis_from From, bool Grouped, element T>
requires(From != basis_from::table_with_mean) struct fragment_codec<latent<Base, From, Grouped, T>>
    : inner_fragments<Base> {
  [[nodiscard]] static KVSLIM_HD constexpr Base const& of(latent<Base, From, Grouped, T> const& c) {
    return c.base;
  }
};

KVSLIM_END_CUDA_NAMESPACE
