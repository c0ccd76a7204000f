// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Fitting what codecs learn of a prompt: by a block to a row or, where that is a subspace iteration
// (ops/subspace.cuh), by as many as rows and directions are worth.

#include <kvslim/ops/subspace.cuh>
#include <kvslim/run/kept_rows.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

inline constexpr index_t fit_static_bytes = 5 * 1024;  ///< of shared memory that fits keep, at most

/// Threads that merge, at least one of `most`, of those that `floats` have room for.
[[nodiscard]] constexpr index_t readers_in(index_t floats, index_t of_reader,
                                           index_t most) noexcept {
  return of_reader == 0 ? 1 : max(index_t{1}, min(most, floats / of_reader));
}

/// Where a fit has the tokens that it reads: `batch` at a time in shared memory or, if that is 0,
/// one in the row's part of the workspace.
struct fit_cut {
  index_t batch, readers;  // threads that merge rows
  index_t shared_floats, staging_floats;
};

/// token_floats: of all members. `most_bytes`: of shared memory.
template <bool Keys, class Plan>
[[nodiscard]] fit_cut cut_fit(Plan const& plan, index_t token_floats, bool grouped,
                              index_t most_bytes) noexcept {
  index_t const limit = (most_bytes - fit_static_bytes) / static_cast<index_t>(sizeof(float)),
                other = grouped ? 0 : reader_floats(plan);
  fit_cut cut{};
  cut.batch = max(index_t{0}, min(run_tokens, (limit - other) / token_floats));
  cut.readers = readers_in(cut.batch > 0 ? limit - cut.batch * token_floats : 0, other, run_tokens);
  cut.shared_floats = cut.batch > 0 ? cut.batch * token_floats + cut.readers * other : 0;
  cut.staging_floats = plan.staging_floats();
  return cut;
}

/// How a block reads the tokens of `first`, a row by itself or the first one of a group, in its
/// part of the workspace, `mine`.
template <bool Keys, class Plan, class Cells, class Packed, class Half>
[[nodiscard]] __device__ auto reader_of(Plan const& plan, Cells const& cells, keep_set const& keep,
                                        Packed const& packed, Half const& first, fit_cut const& cut,
                                        float* mine, float* shared) {
  float* const other = mine + packed.layout().block_floats();
  float* const staged = cut.batch > 0 ? shared : mine;
  index_t const batch = max(index_t{1}, cut.batch);
  if constexpr (Half::codec_type::traits.grouped)
    return group_rows<Keys, Plan, Cells, Packed>{
        plan, cells, keep, packed, group_of(first.codec), first.row, other, staged, batch};
  else
    return kept_rows<Keys, Plan, Cells, Half>{plan,
                                              cells,
                                              keep,
                                              packed.raw_row(first.row),
                                              first,
                                              other,
                                              cut.batch > 0 ? shared + batch * first.dim : other,
                                              staged,
                                              batch,
                                              cut.readers};
}

/// All that a row holds, for a fit.
template <class Half>
[[nodiscard]] __device__ site whole_row(Half const& half, packed_row const& entry) {
  site whole = half.whole();
  whole.held = entry.slots;
  return whole;
}

/// What a fit works in, behind what reading needs.
template <class Plan, class Packed>
[[nodiscard]] __device__ float* fit_room(Plan const& plan, Packed const& packed, float* mine) {
  return mine + packed.layout().block_floats() + 4 * plan.wide();
}

/// Fits the state of K or V of every row, or to the first row of every group: one block each.
template <bool Keys, class Plan, class Cells, class Packed>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(fit_threads, 1)
    fit_kernel(Plan plan, Cells cells, keep_set keep, Packed packed, float* staging, fit_cut cut) {
  KVSLIM_DETAIL_DYNAMIC_SHARED(shared);
  index_t const r = blockIdx.x;
  packed_row const& entry = packed.raw_row(r);
  auto const half = half_of<Keys>(packed, r);
  if (entry.failed != 0 || half.member != 0) return;
  float* const mine = staging + r * cut.staging_floats;
  using codec = typename std::remove_cvref_t<decltype(half)>::codec_type;
  warp_codec<codec>::fit(
      half.codec, reader_of<Keys>(plan, cells, keep, packed, half, cut, mine, shared), half.coded,
      whole_row(half, entry), half.state, fit_room(plan, packed, mine));
}

/// One pass of a subspace iteration: `slices` blocks to a row, tile_directions directions each. A
/// row of a group has its share of the group's tokens, and sums of its own.
template <bool Keys, class Plan, class Cells, class Packed>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(fit_threads, 1)
    subspace_pass_kernel(Plan plan, Cells cells, keep_set keep, Packed packed, float* staging,
                         fit_cut cut, index_t slices) {
  KVSLIM_DETAIL_DYNAMIC_SHARED(shared);
  float* const along = shared;  // nothing static: `launch` asks for all that a block may have
  index_t const r = blockIdx.x / slices, slice = blockIdx.x % slices;
  auto const own = half_of<Keys>(packed, r);
  auto const group = group_of(own.codec);
  auto const half = half_of<Keys>(packed, group.first_row(plan.extents(), r));
  using codec = typename std::remove_cvref_t<decltype(half)>::codec_type;
  auto const shape = warp_codec<codec>::subspace(half.codec, half.dim);
  index_t const width = shape.width, rank = shape.rank, share = div_up(rank, slices),
                begin = slice * share, count = min(share, rank - begin);
  if (count <= 0) return;
  float* const mine = staging + r * cut.staging_floats;
  float const* const basis =
      fit_room(plan, packed, staging + half.row * cut.staging_floats) + begin * width;
  float* const sums = fit_room(plan, packed, mine) + (rank + begin) * width;
  for (index_t i = threadIdx.x; i < count * width; i += blockDim.x) sums[i] = 0.0f;
  __syncthreads();
  auto const reader =
      reader_of<Keys>(plan, cells, keep, packed, half, cut, mine, shared + tile_floats);
  site const whole = whole_row(half, packed.raw_row(half.row));
  warp_codec<codec>::subspace_rows(half.codec, reader, whole)
      .by_block(half.coded * own.member / group.size(),
                half.coded * (own.member + 1) / group.size(),
                [&](float const* rows, index_t, index_t n) {
                  add_projections_by_block(rows, n, basis, count, width, sums, along);
                });
}

/// The sums of a group's rows, divided by the tokens, become its basis: every row has a share.
template <bool Keys, class Plan, class Packed>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(fit_threads)
    subspace_gather_kernel(Plan plan, Packed packed, float* staging, index_t staging_floats) {
  auto const own = half_of<Keys>(packed, index_t{blockIdx.x});
  auto const group = group_of(own.codec);
  auto const& e = plan.extents();
  index_t const first = group.first_row(e, own.row), members = group.size();
  using codec = typename std::remove_cvref_t<decltype(own)>::codec_type;
  auto const [width, rank, rounds] = warp_codec<codec>::subspace(own.codec, own.dim);
  index_t const all = rank * width, tokens = half_of<Keys>(packed, first).coded,
                end = all * (own.member + 1) / members;
  float const share = tokens > 0 ? 1.0f / static_cast<float>(tokens) : 0.0f;
  auto const room_of = [&](index_t row) {
    return fit_room(plan, packed, staging + row * staging_floats);
  };
  float* const basis = room_of(first);
  for (index_t i = all * own.member / members + threadIdx.x; i < end; i += blockDim.x) {
    float sum = 0.0f;
    for (index_t m = 0; m < members; ++m) sum += room_of(group.member_row(e, first, m))[all + i];
    basis[i] = sum * share;
  }
}

/// Makes the basis of every row or group orthonormal: where the iteration starts (`round` 0), and
/// after every round; the last one writes the state.
template <bool Keys, class Plan, class Packed>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(fit_threads, 1)
    subspace_unit_kernel(Plan plan, Packed packed, float* staging, index_t staging_floats,
                         index_t round) {
  alignas(16) __shared__ float along[tile_floats];
  index_t const r = blockIdx.x;
  auto const half = half_of<Keys>(packed, r);
  if (packed.raw_row(r).failed != 0 || half.member != 0) return;
  using codec = typename std::remove_cvref_t<decltype(half)>::codec_type;
  auto const [width, rank, rounds] = warp_codec<codec>::subspace(half.codec, half.dim);
  float* const basis = fit_room(plan, packed, staging + r * staging_floats);
  if (round == 0)
    start_subspace_by_block(width, rank, basis, along);
  else
    orthonormalize_by_block(basis, rank, width, along);
  if (round == rounds) warp_codec<codec>::put_subspace(half.codec, half.dim, basis, half.state);
}

/// Fits K or V of every row. `staging` is of plan.encode_bytes().
template <bool Keys, class Plan, class Cells, class Packed>
[[nodiscard]] status launch_fit(cuda exec, Plan const& plan, Cells const& cells,
                                keep_set const& keep, Packed const& packed, float* staging) {
  using codec =
      std::conditional_t<Keys, typename Packed::key_codec_type, typename Packed::value_codec_type>;
  auto const layout = plan.layout();
  auto const& e = plan.extents();
  codec const& options = [&]() -> codec const& {
    if constexpr (Keys)
      return layout.key;
    else
      return layout.value;
  }();
  index_t const dim = Keys ? e.head_dim : e.value_width(), token = group_of(options).size() * dim;
  constexpr bool grouped = codec::traits.grouped;
  auto const bytes = [](fit_cut const& cut) {
    return cut.shared_floats * static_cast<index_t>(sizeof(float));
  };
  if constexpr (!fits_subspace<codec>) {
    auto const cut = cut_fit<Keys>(plan, token, grouped, most_shared_bytes);
    return launch(exec, {e.rows(), fit_threads, bytes(cut)}, fit_kernel<Keys, Plan, Cells, Packed>,
                  plan, cells, keep, packed, staging, cut);
  } else {
    constexpr auto tile_bytes = tile_floats * static_cast<index_t>(sizeof(float));
    static_assert(tile_bytes <= fit_static_bytes);
    auto const cut = cut_fit<Keys>(plan, token, grouped, most_opted_bytes);
    auto const [width, rank, rounds] = warp_codec<codec>::subspace(options, dim);
    // What merges, and what has no room in shared memory, works in its row's part of the workspace.
    index_t const slices = Plan::has_merger || cut.batch == 0 ? 1 : div_up(rank, tile_directions);
    auto const unit = [&](index_t round) {
      return launch(exec, {e.rows(), fit_threads}, subspace_unit_kernel<Keys, Plan, Packed>, plan,
                    packed, staging, cut.staging_floats, round);
    };
    if (auto const s = unit(0); !s) return s;
    for (index_t round = 1; round <= rounds; ++round) {
      if (auto const s = launch(exec, {e.rows() * slices, fit_threads, bytes(cut) + tile_bytes},
                                subspace_pass_kernel<Keys, Plan, Cells, Packed>, plan, cells, keep,
                                packed, staging, cut, slices);
          !s)
        return s;
      if (auto const s =
              launch(exec, {e.rows(), fit_threads}, subspace_gather_kernel<Keys, Plan, Packed>,
                     plan, packed, staging, cut.staging_floats);
          !s)
        return s;
      if (auto const s = unit(round); !s) return s;
    }
    return {};
  }
}

KVSLIM_END_CUDA_NAMESPACE
