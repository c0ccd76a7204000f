// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/ops/text_order.cuh>
#include <kvslim/run/decode.hpp>
#include <kvslim/run/device_row.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// One warp per (row, rank), more than one rank each where the grid ends.
template <class Text>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(warp_threads)
    decode_kernel(Text text, rows_out<cuda_space> k, rows_out<cuda_space> v,
                  std::int32_t* positions) {
  auto const& e = text.extents();
  int const lane = lane_of_warp();
  for (index_t i = blockIdx.x; i < e.rows() * e.tokens; i += gridDim.x) {
    index_t const r = i / e.tokens, rank = i % e.tokens, s = r / e.kv_heads, h = r % e.kv_heads;
    if (rank == 0 && lane == 0 && text.cells.packed.raw_row(r).slots > e.tokens)
      set_failed(text.cells.packed, r, errc::invalid_shape);
    if (rank >= text.tokens(s, h)) continue;
    auto const key = text.key(s, h, rank);
    auto const value = text.value(s, h, rank);
    for (index_t d = lane; d < e.head_dim; d += warp_threads) k.put(s, h, rank, d, key[d]);
    for (index_t d = lane; d < e.value_width(); d += warp_threads) v.put(s, h, rank, d, value[d]);
    if (positions != nullptr && lane == 0) positions[i] = text.position(s, h, rank);
  }
}

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

/// decode() on a stream: one warp per token. Rows with more slots than the output are cut there;
/// packed_row::failed then says invalid_shape.
template <class Key, class Value>
status decode(cuda exec, packed_cache<Key, Value, cuda_space> const& packed,
              rows_out<cuda_space> const& k, rows_out<cuda_space> const& v, std::int32_t* positions,
              workspace scratch) {
  if (packed.storage() == nullptr || k.data == nullptr || v.data == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: decode was given a null pointer");
  if (auto const s = detail::check_tables(packed); !s) return s;
  if (auto const s = packed.layout().check(); !s) return s;
  auto e = packed.extents();
  index_t const n = k.tokens;
  if (!k.has_shape(e.sequences, e.kv_heads, n, e.head_dim) ||
      !v.has_shape(e.sequences, e.kv_heads, n, e.value_width()))
    return detail::fail(errc::invalid_shape,
                        "kvslim: decode needs k and v as [sequences, kv_heads, tokens, dim]");
  if (auto const s = detail::check_workspace(scratch, decode_bytes(packed.layout(), n)); !s)
    return s;
  detail::carver carve(scratch.data);
  auto const w = detail::carve_decode(e, n, carve);
  e.tokens = n;
  using text_type = text<detail::packed_cells<packed_cache<Key, Value, cuda_space>>>;
  text_type ordered{{packed, e}};
  if (auto const s =
          ops::make_text_order(exec, ordered.cells, {w.cells, w.counts, w.keys}, ordered.order);
      !s)
    return s;
  return detail::launch(exec, {detail::blocks_for(e.rows() * n), detail::warp_threads},
                        detail::decode_kernel<text_type>, ordered, k, v, positions);
}

KVSLIM_END_NAMESPACE
