// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Scores of stored keys without matrix units' fragments: a lane for each key, or a warp for a run
// of keys where these are rebuilt.

#include <kvslim/run/attend_cut.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// Floats of shared memory of a block whose warps score runs: what they read of a row, and a tile
/// of each.
template <class Key>
[[nodiscard]] KVSLIM_HD constexpr index_t score_floats(index_t dim) noexcept {
  if constexpr (scores_runs<Key>)
    return warp_codec<Key>::row_words(dim) + attend_warps * warp_tile::floats;
  else
    return 0;
}

/// Fills it. Every thread calls; the caller synchronises afterwards.
template <class Packed>
__device__ void prepare_scores(Packed const& packed, float* memory) {
  using key = typename Packed::key_codec_type;
  if constexpr (scores_runs<key>)
    warp_codec<key>::prepare_row(packed.layout().key, packed.extents().head_dim,
                                 reinterpret_cast<std::uint32_t*>(memory));
}

/// Where the steps of a span begin that are scored from slot `first` on.
template <class Key>
[[nodiscard]] __device__ int first_step(int first) {
  return scores_runs<Key> ? first / 32 * 32 : first;
}

/// logit = q[channel, Heads] times the key of slot step + thread, of n; own_q is for keys in a
/// basis of their own. Every thread calls.
template <int Heads, class Packed>
__device__ void score_slots(Packed const& packed, index_t r, int step, int n, float const* q,
                            float const* own_q, float* memory, float (&logit)[Heads]) {
  using key = typename Packed::key_codec_type;
  int const thread = static_cast<int>(threadIdx.x), slot = step + thread;
  if constexpr (scores_runs<key>) {
    int const warp = thread / warp_threads, run = step + warp * warp_threads,
              dim = static_cast<int>(packed.extents().head_dim);
    auto const keys = packed.keys(r);
    int const stored = min_int(warp_threads, min_int(static_cast<int>(keys.coded), step + n) - run);
    if (stored > 0)
      warp_codec<key>::score_run(
          keys.codec, keys.block(run), keys.at(run % keys.sizes.block_tokens, stored, run), q,
          reinterpret_cast<std::uint32_t const*>(memory),
          memory + warp_codec<key>::row_words(dim) + warp * warp_tile::floats, logit);
    if (slot < run + stored) return;
    for (float& x : logit) x = 0.0f;
  }
  if (thread < n)
    packed.keys(r).visit(slot, 1, [&](auto const& codec, std::byte const* stored, site const& at) {
      using form = std::remove_cvref_t<decltype(codec)>;
      if constexpr (!scores_runs<form>) {
        float const* const mine = in_own_basis<form> ? own_q : q;
        warp_codec<form>::each_channel(codec, stored, at, [&](index_t d, float k) {
          unrolled<Heads>([&](int h) { logit[h] += mine[d * Heads + h] * k; });
        });
      }
    });
}

KVSLIM_END_CUDA_NAMESPACE
