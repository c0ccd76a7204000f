// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/codec.hpp>
#include <kvslim/exec/cuda.cuh>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Warps that work together: those of a block of so many, or any one.
template <int Warps>
struct warp_team {
  static constexpr int warps = Warps, threads = Warps * warp_threads;

  static __device__ int thread() { return static_cast<int>(threadIdx.x) % threads; }
  static __device__ int warp() { return thread() / warp_threads; }
  static __device__ int lane() { return static_cast<int>(threadIdx.x) % warp_threads; }
  static __device__ void synchronize() {
    if constexpr (Warps == 1)
      __syncwarp();
    else
      __syncthreads();
  }
};
using one_warp = warp_team<1>;
inline constexpr int most_team_warps = 4;

/// Channels of 32 keys that a warp has rebuilt: rows of tokens, `apart` floats from one channel to
/// the next. Neither a matrix product's lanes nor a lane for each token meet in a bank.
struct warp_tile {
  static constexpr int channels = 32, apart = 36, floats = channels * apart;
};

/// Whether attention has a warp score a run of keys together, by warp_codec's prepare_row and
/// score_run, instead of a lane for each key by each_channel.
template <class Codec>
inline constexpr bool scores_runs = false;

/// Whether a codec's fit is a subspace iteration, whose rows and directions many blocks share: by
/// warp_codec's subspace, subspace_rows and put_subspace, instead of fit by one block.
template <class Codec>
inline constexpr bool fits_subspace = false;
/// Directions of so many channels, all members' together, after so many rounds.
struct subspace_shape {
  index_t width, rank, rounds;
};

/// What a warp does with a codec about which nothing is known beyond the concept: a lane encodes a
/// block, and codes are decoded one by one.
template <class Codec>
struct plain_warp_codec {
  /// Warps that encode a stretch together: 1 or most_team_warps. Where it is more than one, encode
  /// takes a team as its first template argument, one_warp if none is named.
  static constexpr int warps = 1;

  /// Fits a state, by a block: every thread calls, and the caller synchronises afterwards.
  /// read(0, t, out) reads token t by one thread; read.by_block(begin, end, use) is called by all,
  /// and calls use(rows, first, n) in all threads with a few tokens after the others, at most
  /// run_tokens, in order: rows [n, members, dim] may be overwritten.
  template <class Read>
  static __device__ void fit(Codec const& codec, Read const& read, index_t tokens, site const& at,
                             std::byte* state, float* scratch) {
    if (threadIdx.x == 0) codec.fit(read, tokens, at, state, scratch);
  }

  /// Writes at.n tokens. Every lane calls; rows [members, at.n, at.dim] are visible to all of them.
  /// Blocks of fewer than run_tokens tokens are handed several at once, but to codecs that share
  /// blocks, and lanes take them in turn; larger ones are handed whole. The caller synchronises
  /// afterwards.
  static __device__ void encode(Codec const& codec, float* rows, site const& at, std::byte* block) {
    index_t const lane = threadIdx.x % warp_threads;
    if constexpr (Codec::traits.grouped) {
      if (lane == 0) codec.encode(rows, at, block);
    } else {
      auto const sizes = codec.sizes(at.dim, at.n);
      index_t const tokens = sizes.block_tokens, end = at.first + at.n;
      if (tokens >= run_tokens) {
        if (lane == 0) codec.encode(rows, at, block);
        return;
      }
      for (index_t b = at.first / tokens + lane; b * tokens < end; b += warp_threads) {
        index_t const from = max(at.first, b * tokens), to = min(end, (b + 1) * tokens),
                      done = from - at.first;
        site part = token(sizes, at, done);
        part.n = to - from;
        codec.encode(rows + done * at.dim, part, block + offset(sizes, at, done));
      }
    }
  }

  /// Calls use(d, x) for every channel of token at.first, in order: how one lane reads a key. Where
  /// the basis is the codec's own, this and each_token are about its coordinates.
  template <class Use>
  static __device__ void each_channel(Codec const& codec, std::byte const* block, site const& at,
                                      Use const& use) {
    if constexpr (in_own_basis<Codec>) {
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
      if constexpr (in_own_basis<Codec>)
        use(i, codec.coordinate(from, token(sizes, at, i), d));
      else
        use(i, codec.decode(from, token(sizes, at, i), d));
    }
  }

  /// Channels [d, d + n), then [other, other + m), of the at.n tokens, at most run_tokens, as rows
  /// of a warp_tile: a lane a token. Every lane calls; the caller synchronises before and after.
  static __device__ void load_tile(Codec const& codec, std::byte const* block, site const& at,
                                   index_t d, index_t n, index_t other, index_t m, float* tile) {
    index_t const i = threadIdx.x % warp_threads;
    if (i >= at.n) return;
    auto const sizes = codec.sizes(at.dim, at.n);
    std::byte const* const from = block + offset(sizes, at, i);
    site const one = token(sizes, at, i);
    for (index_t c = 0; c < n + m; ++c)
      tile[c * warp_tile::apart + i] = codec.decode(from, one, c < n ? d + c : other + c - n);
  }

  // Where the basis is the codec's own. Every lane calls, memory is visible to all of them, and the
  // caller synchronises afterwards.
  static __device__ void prepare(Codec const& codec, float const* q, site const& at, float* own) {
    if (threadIdx.x % warp_threads == 0) codec.prepare(q, at, own);
  }
  static __device__ void finish(Codec const& codec, float* sum, site const& at, float* out) {
    if (threadIdx.x % warp_threads == 0) codec.finish(sum, at, out);
  }
  static __device__ void load(Codec const& codec, std::byte const* block, site const& at,
                              float* out) {
    if (threadIdx.x % warp_threads == 0) codec.load(block, at, out);
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

/// Encodes as warp_codec does, by a team: by one of its warps where the codec knows no teams. All
/// of its threads call.
template <class Team, class Form, class Codec>
__device__ void encode_by(Codec const& codec, float* rows, site const& at, std::byte* block) {
  if constexpr (Team::warps == 1)
    Form::encode(codec, rows, at, block);
  else if constexpr (Form::warps == Team::warps)
    Form::template encode<Team>(codec, rows, at, block);
  else if (Team::warp() == 0)
    Form::encode(codec, rows, at, block);
}

}  // namespace detail

/// What a warp does with a codec. A `.cuh` beside a codec may specialise it for speed, wholly or
/// over plain_warp_codec; bytes and values stay the same.
template <class Codec>
struct warp_codec : detail::plain_warp_codec<Codec> {};

KVSLIM_END_NAMESPACE
