// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/run/append.hpp>
#include <kvslim/run/device_row.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// True if a lane met a value beyond `limit`, or NaN.
[[nodiscard]] __device__ inline bool exceeds(rows<cuda_space> const& from, index_t s, index_t h,
                                             index_t t, float limit) {
  bool bad = false;
  from.visit(s, h, t, [&](auto const* in) {
    for (index_t d = lane_of_warp(); d < from.head_dim; d += warp_threads)
      bad = bad || !(fabsf(to_float(in[d * from.layout.channel])) <= limit);
  });
  return bad;
}
__device__ inline void load_by_warp(rows<cuda_space> const& from, index_t s, index_t h, index_t t,
                                    float* out) {
  from.visit(s, h, t, [&](auto const* in) {
    for (index_t d = lane_of_warp(); d < from.head_dim; d += warp_threads)
      out[d] = to_float(in[d * from.layout.channel]);
  });
}

/// One warp per row of the step: its tokens go to the ring, or, if one cannot be taken, none does.
template <class Packed>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(warp_threads)
    append_kernel(Packed packed, rows<cuda_space> k, rows<cuda_space> v, float* scratch, step at) {
  auto const& e = packed.extents();
  index_t const i = blockIdx.x, r = at.first_sequence * e.kv_heads + i, s = i / e.kv_heads,
                h = i % e.kv_heads, n = k.tokens;
  if (!is_filled(packed) || !is_active(at, e, r)) return;
  int const lane = lane_of_warp();
  if (fault_of_append(packed, r, n) != nullptr) {
    if (lane == 0) set_failed(packed, r, errc::capacity_exceeded);
    return;
  }
  bool bad = false;
  for (index_t t = 0; t < n; ++t)
    bad = exceeds(k, s, h, t, packed.layout().key.limit()) ||
          exceeds(v, s, h, t, packed.layout().value.limit()) || bad;
  if (__any_sync(0xffffffffu, bad) != 0) {
    if (lane == 0) set_failed(packed, r, errc::non_finite);
    return;
  }
  packed_row& x = packed.raw_row(r);
  auto const keys = packed.keys(r);
  auto const values = packed.values(r);
  float* const row = scratch + i * round_up(e.head_dim + e.value_width(), 16);
  for (index_t t = 0; t < n; ++t) {
    load_by_warp(k, s, h, t, row);
    load_by_warp(v, s, h, t, row + e.head_dim);
    __syncwarp();
    store_exact(keys, x.slots + t, row);
    if constexpr (!Packed::layout_type::shares_keys)
      store_exact(values, x.slots + t, row + e.head_dim);
    __syncwarp();
  }
  std::int32_t* const positions = packed.stored_positions(r);
  float* const biases = packed.biases(r);
  std::uint8_t* const pins = packed.pins(r);
  for (index_t t = lane; t < n; t += warp_threads) {
    if (positions != nullptr)
      positions[x.slots + t] = x.next_position + static_cast<std::int32_t>(t);
    if (biases != nullptr) biases[x.slots + t] = 0.0f;
    if (pins != nullptr) pins[x.slots + t] = 0;
  }
  __syncwarp();
  if (lane != 0) return;
  x.slots += static_cast<std::int32_t>(n);
  x.next_position += static_cast<std::int32_t>(n);
}

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

/// append() on a stream: one warp per row. A row that cannot take all of the tokens (it or its tail
/// is full, or they hold NaN, infinity or what its type cannot) stays as it is and its
/// packed_row::failed says capacity_exceeded or non_finite. Scratch: append_bytes(layout).
template <class Key, class Value>
status append(cuda exec, packed_cache<Key, Value, cuda_space> const& packed,
              rows<cuda_space> const& k, rows<cuda_space> const& v, workspace scratch,
              step at = {}) {
  auto const& e = packed.extents();
  if (k.data == nullptr || v.data == nullptr || packed.storage() == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: append was given a null pointer");
  if (auto const s = packed.layout().check(); !s) return s;
  if (auto const s = detail::resolve(at, e); !s) return s;
  index_t const n = k.tokens;
  if (n < 1 || !k.has_shape(at.sequences, e.kv_heads, n, e.head_dim) ||
      !v.has_shape(at.sequences, e.kv_heads, n, e.value_width()))
    return detail::fail(errc::invalid_shape,
                        "kvslim: append needs k and v as [sequences, kv_heads, tokens, dim]");
  if (auto const s = detail::check_workspace(scratch, append_bytes(packed.layout())); !s) return s;
  auto* const floats = static_cast<float*>(static_cast<void*>(scratch.data));
  return detail::launch(exec, {at.sequences * e.kv_heads, detail::warp_threads},
                        detail::append_kernel<packed_cache<Key, Value, cuda_space>>, packed, k, v,
                        floats, at);
}

KVSLIM_END_NAMESPACE
