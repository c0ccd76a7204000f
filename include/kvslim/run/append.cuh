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

inline constexpr int append_warps = 8;  ///< of a block at most

/// One block per row of the step, a warp for each of its tokens in turn: they go to the ring, or,
/// if one cannot be taken, none does. Tokens are staged in shared memory unless there is `scratch`.
template <class Packed>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(append_warps* warp_threads)
    append_kernel(Packed packed, rows<cuda_space> k, rows<cuda_space> v, float* scratch, step at) {
  KVSLIM_DETAIL_DYNAMIC_SHARED(shared);
  auto const& e = packed.extents();
  index_t const warps = blockDim.x / warp_threads, warp = threadIdx.x / warp_threads;
  index_t const i = blockIdx.x, r = at.first_sequence * e.kv_heads + i, s = i / e.kv_heads,
                h = i % e.kv_heads, n = k.tokens;
  if (!is_filled(packed) || !is_active(at, e, r)) return;
  if (fault_of_append(packed, r, n) != nullptr) {
    if (threadIdx.x == 0) set_failed(packed, r, errc::capacity_exceeded);
    return;
  }
  bool bad = false;
  for (index_t t = warp; t < n; t += warps)
    bad = exceeds(k, s, h, t, packed.layout().key.limit()) ||
          exceeds(v, s, h, t, packed.layout().value.limit()) || bad;
  if (__syncthreads_or(bad) != 0) {
    if (threadIdx.x == 0) set_failed(packed, r, errc::non_finite);
    return;
  }
  packed_row& x = packed.raw_row(r);
  auto const keys = packed.keys(r);
  auto const values = packed.values(r);
  index_t const floats = append_floats(packed.layout());
  float* const row = scratch != nullptr ? scratch + i * floats : shared + warp * floats;
  for (index_t t = warp; t < n; t += warps) {
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
  for (index_t t = threadIdx.x; t < n; t += blockDim.x) {
    if (positions != nullptr)
      positions[x.slots + t] = x.next_position + static_cast<std::int32_t>(t);
    if (biases != nullptr) biases[x.slots + t] = 0.0f;
    if (pins != nullptr) pins[x.slots + t] = 0;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  x.slots += static_cast<std::int32_t>(n);
  x.next_position += static_cast<std::int32_t>(n);
}

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

/// append() on a stream: one block per row. A row that cannot take all of the tokens (it or its
/// tail is full, or they hold NaN, infinity or what its type cannot) stays as it is and its
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
  index_t const bytes =
                    detail::append_floats(packed.layout()) * static_cast<index_t>(sizeof(float)),
                fit = detail::most_shared_bytes / bytes,
                warps = detail::max(1, detail::min(detail::min(n, detail::append_warps), fit));
  auto* const staging = fit > 0 ? nullptr : static_cast<float*>(static_cast<void*>(scratch.data));
  return detail::launch(exec,
                        {at.sequences * e.kv_heads, static_cast<int>(warps) * detail::warp_threads,
                         fit > 0 ? warps * bytes : 0},
                        detail::append_kernel<packed_cache<Key, Value, cuda_space>>, packed, k, v,
                        staging, at);
}

KVSLIM_END_NAMESPACE
