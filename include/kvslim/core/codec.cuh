// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/codec.hpp>
#include <kvslim/exec/cuda.cuh>

KVSLIM_BEGIN_NAMESPACE

/// What a warp does with a codec. This primary template asks for nothing beyond the codec concept:
/// one lane encodes, and codes are decoded one by one. A `.cuh` beside a codec may specialise it
/// for speed; bytes and values stay the same.
template <class Codec>
struct warp_codec {
  /// Writes at.n tokens. Every lane calls; rows [members, at.n, dim] are visible to all of them.
  /// Blocks of fewer than run_tokens tokens are handed several at once (then members is 1), larger
  /// ones whole. The caller synchronises afterwards.
  static __device__ void encode(Codec const& codec, float* rows, site const& at, std::byte* block) {
    if (threadIdx.x % detail::warp_threads != 0) return;
    auto const sizes = codec.sizes(at.dim, at.n);
    if (sizes.block_tokens >= run_tokens) return codec.encode(rows, at, block);
    for (index_t done = 0; done < at.n;) {
      site part = token(sizes, at, done);
      part.n = detail::min(at.n - done, sizes.block_tokens - part.first);
      codec.encode(rows + done * at.dim, part, block + offset(sizes, at, done));
      done += part.n;
    }
  }

  /// Calls use(d, x) for every channel of token at.first, in order: how one lane reads a key. Where
  /// the basis is the codec's own, this and each_token are about its coordinates.
  template <class Use>
  static __device__ void each_channel(Codec const& codec, std::byte const* block, site const& at,
                                      Use const& use) {
    if constexpr (detail::in_own_basis<Codec>) {
      index_t const own = codec.sizes(at.dim, at.n).own_dim;
      for (index_t j = 0; j < own; ++j) use(j, codec.coordinate(block, at, j));
    } else {
      for (index_t d = 0; d < at.dim; ++d) use(d, codec.decode(block, at, d));
    }
  }

  /// Calls use(i, x) for channel d of each of the at.n tokens, in order: how one lane reads
  /// values.
  template <class Use>
  static __device__ void each_token(Codec const& codec, std::byte const* block, site const& at,
                                    index_t d, Use const& use) {
    auto const sizes = codec.sizes(at.dim, at.n);
    for (index_t i = 0; i < at.n; ++i) {
      std::byte const* const from = block + offset(sizes, at, i);
      if constexpr (detail::in_own_basis<Codec>)
        use(i, codec.coordinate(from, token(sizes, at, i), d));
      else
        use(i, codec.decode(from, token(sizes, at, i), d));
    }
  }

  // Where the basis is the codec's own. Every lane calls, memory is visible to all of them, and the
  // caller synchronises afterwards.
  static __device__ void prepare(Codec const& codec, float const* q, site const& at, float* own) {
    if (threadIdx.x % detail::warp_threads == 0) codec.prepare(q, at, own);
  }
  static __device__ void finish(Codec const& codec, float* sum, site const& at, float* out) {
    if (threadIdx.x % detail::warp_threads == 0) codec.finish(sum, at, out);
  }
  static __device__ void load(Codec const& codec, std::byte const* block, site const& at,
                              float* out) {
    if (threadIdx.x % detail::warp_threads == 0) codec.load(block, at, out);
  }

 private:
  /// The site that is token i of `at` alone, and where its block lies.
  static __device__ site token(codec_sizes const& sizes, site at, index_t i) {
    at.first = (at.first + i) % sizes.block_tokens;
    at.n = 1;
    at.token += i;
    at.positions.first += static_cast<std::int32_t>(i);
    if (at.positions.list != nullptr) at.positions.list += i;
    return at;
  }
  static __device__ index_t offset(codec_sizes const& sizes, site const& at, index_t i) {
    return (at.first + i) / sizes.block_tokens * sizes.block_bytes;
  }
};

KVSLIM_END_NAMESPACE
