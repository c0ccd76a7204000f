// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/ops/gate.cuh>
#include <kvslim/ops/score_tokens.cuh>
#include <kvslim/ops/text_order.cuh>
#include <kvslim/run/device_row.cuh>
#include <kvslim/run/evict.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

inline constexpr int victim_threads = 128;

/// worst_slot() of one row, by the threads of a block.
template <class Plan, class Text>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(victim_threads)
    victims_kernel(Plan plan, Text text, score_view scores, std::int32_t* victims, step at) {
  __shared__ quota given;
  __shared__ std::uint64_t shares[victim_threads / warp_threads];
  auto const& e = text.extents();
  index_t const r = at.first_sequence * e.kv_heads + blockIdx.x, s = r / e.kv_heads,
                h = r % e.kv_heads, n = text.tokens(s, h);
  if (!is_active(at, e, r)) {
    if (threadIdx.x == 0) victims[r] = -1;
    return;
  }
  if (threadIdx.x == 0) given = quota_of_row(plan, r, n);
  __syncthreads();
  quota const q = given;
  constexpr std::uint64_t none = ~std::uint64_t{0};
  auto const lower = [](std::uint64_t a, std::uint64_t b) { return a < b ? a : b; };
  std::uint64_t worst = none;
  bool const over = n > q.count, looks = over || q.least > -INFINITY;
  for (index_t i = threadIdx.x; i < n && looks; i += victim_threads)
    if (ops::protection(text.pinned(s, h, i), q, i, n) == 3)
      worst = lower(worst, ops::order_key(scores.row(r)[i], i));
  worst = over_warp(worst, lower);
  if (lane_of_warp() == 0) shares[threadIdx.x / warp_threads] = worst;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (std::uint64_t const share : shares) worst = lower(worst, share);
  index_t const rank = ops::key_index(worst);
  bool const stays = worst == none || (!over && ops::reaches(scores.row(r)[rank], q.least));
  victims[r] = stays ? -1 : static_cast<std::int32_t>(text.cell(s, h, rank));
}

template <class Packed>
struct evict_body {
  Packed packed;
  std::int32_t const* victims;
  step at;
  __device__ void operator()(index_t i) const {
    auto const& e = packed.extents();
    index_t const r = at.first_sequence * e.kv_heads + i;
    std::int32_t const slot = victims[r];
    if (slot == -1 || !is_filled(packed) || !is_active(at, e, r)) return;
    std::int32_t* const positions = packed.stored_positions(r);
    if (slot < 0 || slot >= packed.raw_row(r).slots || positions[slot] == empty_slot)
      return set_failed(packed, r, errc::invalid_shape);
    positions[slot] = empty_slot;
    ++packed.raw_row(r).holes;
  }
};

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

/// choose_victims() on a stream: one block per row. `victims` is device memory, [rows].
template <class Plan, class Key, class Value>
status choose_victims(cuda exec, Plan const& plan,
                      packed_cache<Key, Value, cuda_space> const& packed, std::int32_t* victims,
                      workspace scratch, step at = {}) {
  if (auto const s = detail::check_victims(plan, packed, victims); !s) return s;
  if (auto const s = detail::resolve(at, packed.extents()); !s) return s;
  if (auto const s = detail::check_workspace(scratch, victim_bytes(plan)); !s) return s;
  detail::carver carve(scratch.data);
  auto const w = detail::carve_victims(plan, carve);
  using cells_type = detail::packed_cells<packed_cache<Key, Value, cuda_space>>;
  auto e = packed.extents();
  e.tokens = plan.most_slots();
  text<cells_type> ordered{cells_type{packed, e}};
  if (auto const s =
          ops::make_text_order(exec, ordered.cells, {w.cells, w.counts, w.keys}, ordered.order);
      !s)
    return s;
  score_view const scores{w.scores, e.tokens};
  if (auto const s =
          detail::score_stored(exec, plan.template stage<scorer_tag>(), ordered, w.gated, scores);
      !s)
    return s;
  return detail::launch(exec, {at.sequences * e.kv_heads, detail::victim_threads},
                        detail::victims_kernel<Plan, text<cells_type>>, plan, ordered, scores,
                        victims, at);
}

/// evict() on a stream. A victim that is no slot with a token changes nothing; packed_row::failed
/// then says invalid_shape.
template <class Key, class Value>
status evict(cuda exec, packed_cache<Key, Value, cuda_space> const& packed,
             std::int32_t const* victims, step at = {}) {
  if (packed.storage() == nullptr || victims == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: evict was given a null pointer");
  auto const& e = packed.extents();
  if (auto const s = packed.layout().check(); !s) return s;
  if (!packed.layout().lets_go())
    return detail::fail(errc::unsupported,
                        "kvslim: tokens leave only caches planned with .evicts = true, whose rows "
                        "share no blocks and have no index");
  if (auto const s = detail::resolve(at, e); !s) return s;
  return detail::launch_for_each(
      exec, at.sequences * e.kv_heads,
      detail::evict_body<packed_cache<Key, Value, cuda_space>>{packed, victims, at});
}

KVSLIM_END_NAMESPACE
