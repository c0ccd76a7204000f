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
  /// Writes run.n tokens. Every lane calls; rows [members, run.n, dim] are visible to all of them.
  /// Blocks of fewer than run_tokens tokens are handed several at once (then members is 1), larger
  /// ones whole. The caller synchronises afterwards.
  static __device__ void encode(Codec const& codec, float const* rows, block_run const& run,
                                std::byte* block) {
    if (threadIdx.x % detail::warp_threads != 0) return;
    if (codec.block_tokens() >= run_tokens) return codec.encode(rows, run, block);
    for (index_t done = 0; done < run.n;) {
      block_run part = token(codec, run, done);
      part.n = detail::min(run.n - done, codec.block_tokens() - part.first);
      codec.encode(rows + done * run.dim, part, at(codec, run, done, block));
      done += part.n;
    }
  }

  /// Calls use(d, x) for every channel of token run.first, in order: how one lane reads a key.
  template <class Use>
  static __device__ void each_channel(Codec const& codec, std::byte const* block,
                                      block_run const& run, Use const& use) {
    for (index_t d = 0; d < run.dim; ++d) use(d, codec.decode(block, run, d));
  }

  /// Calls use(i, x) for channel d of each of the run.n tokens, in order: how one lane reads
  /// values.
  template <class Use>
  static __device__ void each_token(Codec const& codec, std::byte const* block,
                                    block_run const& run, index_t d, Use const& use) {
    for (index_t i = 0; i < run.n; ++i)
      use(i, codec.decode(at(codec, run, i, block), token(codec, run, i), d));
  }

 private:
  /// The run that is token i of `run` alone, and its block.
  static __device__ block_run token(Codec const& codec, block_run run, index_t i) {
    run.first = (run.first + i) % codec.block_tokens();
    run.n = 1;
    run.token += i;
    run.positions.first += static_cast<std::int32_t>(i);
    if (run.positions.list != nullptr) run.positions.list += i;
    return run;
  }
  template <class Byte>
  static __device__ Byte* at(Codec const& codec, block_run const& run, index_t i, Byte* block) {
    return block + (run.first + i) / codec.block_tokens() * codec.block_bytes(run.dim);
  }
};

KVSLIM_END_NAMESPACE
