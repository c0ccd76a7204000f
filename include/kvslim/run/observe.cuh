// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/run/device_row.cuh>
#include <kvslim/run/observe.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

inline constexpr int observe_threads = 128;

/// A thread per slot, `blocks` blocks per row. Slots for which there are no logits learn nothing.
template <class Scorer, class Packed>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(observe_threads)
    observe_slots_kernel(Scorer scorer, Packed packed, attend_request<cuda_space> a,
                         index_t blocks) {
  auto const& e = packed.extents();
  index_t const i = blockIdx.x / blocks, r = a.first_sequence * e.kv_heads + i;
  if (!is_filled(packed) || (a.active != nullptr && a.active[i / e.kv_heads] == 0)) return;
  index_t const end = min(packed.raw_row(r).slots, a.logits_stride);
  for (index_t slot = blockIdx.x % blocks * observe_threads + threadIdx.x; slot < end;
       slot += blocks * observe_threads)
    observe_slots(scorer, packed, a, r, slot, 1);
}

/// From now on the columns of all slots are there.
template <class Packed>
struct observed_body {
  Packed packed;
  attend_request<cuda_space> a;
  __device__ void operator()(index_t i) const {
    auto const& e = packed.extents();
    if (!is_filled(packed) || (a.active != nullptr && a.active[i / e.kv_heads] == 0)) return;
    index_t const r = a.first_sequence * e.kv_heads + i;
    packed_row& x = packed.raw_row(r);
    x.observed = x.next_position;
    if (x.slots > a.logits_stride) set_failed(packed, r, errc::invalid_shape);
  }
};

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

/// observe() on a stream: a thread per slot. Where logits_stride is below a row's slots,
/// packed_row::failed says invalid_shape.
template <class Scorer, class Key, class Value>
status observe(cuda exec, Scorer const& scorer, packed_cache<Key, Value, cuda_space> const& packed,
               attend_request<cuda_space> const& a) {
  using packed_type = packed_cache<Key, Value, cuda_space>;
  static_assert(Scorer::traits.observes, "kvslim: this scorer observes nothing");
  if (auto const s =
          detail::check_observe(packed, a, detail::column_bytes<detail::column_of<Scorer>>);
      !s)
    return s;
  if (a.logits_stride < 1)
    return detail::fail(errc::invalid_shape, "kvslim: logits_stride is below a row's slots");
  index_t const rows = a.q.sequences * packed.extents().kv_heads;
  index_t const blocks = detail::min(64, detail::div_up(a.logits_stride, detail::observe_threads));
  if (auto const s = detail::launch(exec, {rows * blocks, detail::observe_threads},
                                    detail::observe_slots_kernel<Scorer, packed_type>, scorer,
                                    packed, a, blocks);
      !s)
    return s;
  return detail::launch_for_each(exec, rows, detail::observed_body<packed_type>{packed, a});
}

KVSLIM_END_NAMESPACE
