// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What the kernels of several verbs do with a stored row.

#include <kvslim/codec/centred_rows.cuh>
#include <kvslim/codec/channel_key.cuh>
#include <kvslim/codec/chosen_channels.cuh>
#include <kvslim/codec/codebook_key.cuh>
#include <kvslim/codec/codebook_value.cuh>
#include <kvslim/codec/dense.cuh>
#include <kvslim/codec/fp8_rows.cuh>
#include <kvslim/codec/ggml.cuh>
#include <kvslim/codec/latent.cuh>
#include <kvslim/codec/low_rank_sum.cuh>
#include <kvslim/codec/outlier_key.cuh>
#include <kvslim/codec/outlier_value.cuh>
#include <kvslim/codec/prompt_channel_key.cuh>
#include <kvslim/codec/rebuilt_key.cuh>
#include <kvslim/codec/rotated_rows.cuh>
#include <kvslim/codec/scaled_rows.cuh>
#include <kvslim/codec/shared_direction.cuh>
#include <kvslim/codec/token_key.cuh>
#include <kvslim/codec/token_value.cuh>
#include <kvslim/codec/turbo_rows.cuh>
#include <kvslim/store/packed_cache.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// Whether the storage holds a cache of this shape; a kernel has no other way to know.
template <class Packed>
[[nodiscard]] __device__ bool is_filled(Packed const& packed) {
  packed_header const& h = packed.raw_header();
  return h.magic == packed_magic && h.version == packed_version &&
         h.sequences == packed.extents().sequences && h.kv_heads == packed.extents().kv_heads;
}

/// Notes what only the device could see. Of several failures the one with the largest code stays.
template <class Packed>
__device__ void set_failed(Packed const& packed, index_t r, errc code) {
  atomicMax(&packed.raw_row(r).failed, static_cast<int>(code));
}

[[nodiscard]] __device__ inline int lane_of_warp() {
  return static_cast<int>(threadIdx.x) % warp_threads;
}

/// Whether a codec's blocks depend on one stretch of tokens only, and on what was fitted to the row
/// before, so that warps can encode side by side.
template <class Codec>
inline constexpr bool warp_encodable = !Codec::traits.grouped;

/// Warps that encode a stretch of a codec's tokens together.
template <class Codec>
inline constexpr int warps_of = warp_codec<Codec>::warps;

/// Blocks of so many warps that a multiprocessor has registers for: four warps have 128 a thread.
template <int Warps>
inline constexpr int blocks_beside = Warps == 1 ? 8 : 4;

/// Writes n slots of a half from rows that every thread of the team can read: blocks up to
/// half.coded, then the ring. The caller synchronises afterwards.
template <class Team, class Half>
__device__ void encode_slots(Half const& half, index_t first, index_t n, float* rows) {
  for (index_t t = first; t < first + n;) {
    bool const coded = t < half.coded;
    index_t const end = coded ? min(first + n, half.coded) : first + n;
    bool const whole = coded && half.sizes.block_tokens >= run_tokens;
    index_t const take = whole ? half.in_block(t, end) : min(end - t, half.reach(t));
    half.visit(t, take, [&](auto const& codec, std::byte* block, site const& at) {
      using form = warp_codec<std::remove_cvref_t<decltype(codec)>>;
      encode_by<Team, form>(codec, rows + (t - first) * half.dim, at, block);
    });
    t += take;
  }
}

/// Writes n slots into blocks, wherever half.coded is; of one block, or of several that hold fewer
/// than run_tokens tokens. The caller synchronises afterwards.
template <class Team, class Half>
__device__ void encode_blocks(Half const& half, index_t slot, index_t n, float* rows) {
  encode_by<Team, warp_codec<typename Half::codec_type>>(
      half.codec, rows, half.at(slot % half.sizes.block_tokens, n, slot), half.block(slot));
}

/// Writes one slot of the ring, by a warp. The caller synchronises afterwards.
template <class Half>
__device__ void store_exact(Half const& half, index_t slot, float* row) {
  index_t const p = half.place(slot), tokens = half.tail_sizes.block_tokens;
  warp_codec<std::remove_cvref_t<decltype(half.tail)>>::encode(
      half.tail, row, half.at(p % tokens, 1, slot),
      half.exact + p / tokens * half.tail_sizes.block_bytes);
}

/// Reads n slots as float rows, a slot by a warp. The caller synchronises afterwards.
template <class Team, class Half>
__device__ void load_slots(Half const& half, index_t slot, index_t n, float* rows) {
  for (index_t i = Team::warp(); i < n; i += Team::warps) {
    float* const row = rows + i * half.dim;
    if constexpr (in_own_basis<typename Half::codec_type>) {
      if (slot + i < half.coded) {
        half.visit(slot + i, 1, [&](auto const& codec, std::byte const* block, site const& at) {
          using form = std::remove_cvref_t<decltype(codec)>;
          if constexpr (in_own_basis<form>) warp_codec<form>::load(codec, block, at, row);
        });
        continue;
      }
    }
    for (index_t d = lane_of_warp(); d < half.dim; d += warp_threads)
      row[d] = half.decode(slot + i, d);
  }
}

KVSLIM_END_CUDA_NAMESPACE
