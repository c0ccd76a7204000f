// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda_block.cuh>
#include <kvslim/run/device_row.cuh>
#include <kvslim/run/select_pages.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

inline constexpr int summary_threads = 128;

/// One block per row of the step; its threads share the channels of each page.
template <class Index, class Packed>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(summary_threads)
    update_index_kernel(Index index, Packed packed, step at) {
  auto const& e = packed.extents();
  index_t const r = at.first_sequence * e.kv_heads + blockIdx.x, unit = index.page_tokens();
  if (!is_filled(packed) || !is_active(at, e, r)) return;
  packed_row& x = packed.raw_row(r);
  auto const keys = packed.keys(r);
  for (index_t page = stale_page(x, unit, 0); page * unit < x.slots;
       page = stale_page(x, unit, page + 1)) {
    index_t const begin = page * unit, n = min(unit, x.slots - begin);
    auto* const fields = page_fields<Index>(packed, r, page);
    for (index_t d = threadIdx.x; d < e.head_dim; d += summary_threads)
      write_fields(index, fields, e.head_dim, d,
                   page_channel{[&](index_t t) { return keys.decode(begin + t, d); }, n});
  }
  __syncthreads();  // every thread has read the counts
  if (threadIdx.x == 0) count_summarized(x, unit);
}

/// The largest bound that queries have for a page, by a warp.
template <class Index>
[[nodiscard]] __device__ float page_score_by_warp(Index const& index,
                                                  index_element<Index> const* page, float const* q,
                                                  index_t queries, index_t dim) {
  float best = -INFINITY;
  for (index_t i = 0; i < queries; ++i) {
    float sum = 0.0f;
    for (index_t d = lane_of_warp(); d < dim; d += warp_threads) {
      float of[Index::traits.fields];
      for (index_t f = 0; f < Index::traits.fields; ++f) of[f] = to_float(page[f * dim + d]);
      sum += index.term(q[i * dim + d], of);
    }
    best = fmaxf(best, over_warp(sum, [](float a, float b) { return a + b; }));
  }
  return best;
}

/// One block per row of the request: bounds by warps, then the threshold that the pages to read
/// reach, then their spans in order.
template <class Index, class Packed>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(block_threads)
    select_pages_kernel(Index index, Packed packed, attend_request<cuda_space> a, page_spans to,
                        float* scratch, index_t words) {
  auto const& e = packed.extents();
  index_t const i = blockIdx.x, s = i / e.kv_heads, h = i % e.kv_heads,
                r = a.first_sequence * e.kv_heads + i;
  if (!is_filled(packed) || (a.active != nullptr && a.active[s] == 0)) return;
  packed_row const& x = packed.raw_row(r);
  index_t const unit = index.page_tokens(), slots = x.slots, all = div_up(slots, unit),
                reads = min(all, index.reads(slots)), newest = min(reads, index.newest()),
                ranked = all - newest, group = a.q.heads / e.kv_heads, n = a.q.tokens,
                queries = group * n;
  if (!is_summarized(x, unit) || reads > to.most) {
    if (threadIdx.x != 0) return;
    set_failed(packed, r, errc::corrupt);
    to.counts[r] = 0;
    return;
  }
  auto* const keys = static_cast<std::uint64_t*>(static_cast<void*>(scratch + i * words));
  float* const q = scratch + (i + 1) * words - round_up(queries * e.head_dim, 2);
  for (index_t j = threadIdx.x; j < queries * e.head_dim; j += block_threads) {
    index_t const row = j / e.head_dim;
    q[j] = a.q.at(s, h * group + row / n, row % n, j % e.head_dim);
  }
  __syncthreads();
  for (index_t p = threadIdx.x / warp_threads; p < ranked; p += block_threads / warp_threads) {
    float const score =
        page_score_by_warp(index, page_fields<Index>(packed, r, p), q, queries, e.head_dim);
    if (lane_of_warp() == 0) keys[p] = ops::order_key(score, p);
  }
  __syncthreads();
  std::uint64_t threshold = 0;
  if (reads - newest < ranked && reads > newest)
    threshold = block_threshold(reads - newest, [&](auto const& use) {
      for (index_t p = threadIdx.x; p < ranked; p += block_threads) use(keys[p]);
    });
  auto const is_read = [&](index_t p) {
    if (p >= ranked) return p < all;
    return reads > newest && keys[p] >= threshold;
  };
  std::int32_t* const spans = to.begin_end + r * to.most * 2;
  index_t const count = block_list(
      all, to.most, [&](index_t p) { return is_read(p) && (p == 0 || !is_read(p - 1)); },
      [&](index_t p, index_t place) { spans[2 * place] = static_cast<std::int32_t>(p * unit); });
  block_list(
      all, to.most, [&](index_t p) { return is_read(p) && (p + 1 == all || !is_read(p + 1)); },
      [&](index_t p, index_t place) {
        spans[2 * place + 1] = static_cast<std::int32_t>(min(slots, (p + 1) * unit));
      });
  if (threadIdx.x == 0) to.counts[r] = static_cast<std::int32_t>(count);
}

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

/// update_index() on a stream: one block per row. Needs no scratch.
template <class Plan, class Key, class Value>
status update_index(cuda exec, Plan const& plan, packed_cache<Key, Value, cuda_space> const& packed,
                    step at = {}) {
  if (auto const s = detail::check_index(plan, packed); !s) return s;
  auto const& e = packed.extents();
  if (auto const s = detail::resolve(at, e); !s) return s;
  using index = std::remove_cvref_t<decltype(plan.template stage<index_tag>())>;
  return detail::launch(exec, {at.sequences * e.kv_heads, detail::summary_threads},
                        detail::update_index_kernel<index, packed_cache<Key, Value, cuda_space>>,
                        plan.template stage<index_tag>(), packed, at);
}

/// select_pages() on a stream: one block per row. A row that is newer than its summaries gets no
/// spans and packed_row::failed says corrupt.
template <class Plan, class Key, class Value>
status select_pages(cuda exec, Plan const& plan, packed_cache<Key, Value, cuda_space> const& packed,
                    attend_request<cuda_space> const& a, page_spans const& to, workspace scratch) {
  if (auto const s = detail::check_index(plan, packed); !s) return s;
  if (auto const s = detail::check_pages(packed, a, to, most_spans(plan)); !s) return s;
  std::size_t const needed = select_pages_bytes(plan, a.q.heads, a.q.tokens);
  if (needed == 0)
    return detail::fail(errc::invalid_shape, "kvslim: select_pages was asked for too much at once");
  if (auto const s = detail::check_workspace(scratch, needed); !s) return s;
  using index = std::remove_cvref_t<decltype(plan.template stage<index_tag>())>;
  return detail::launch(exec, {a.q.sequences * packed.extents().kv_heads, detail::block_threads},
                        detail::select_pages_kernel<index, packed_cache<Key, Value, cuda_space>>,
                        plan.template stage<index_tag>(), packed, a, to,
                        static_cast<float*>(static_cast<void*>(scratch.data)),
                        detail::page_words(plan, a.q.heads, a.q.tokens));
}

KVSLIM_END_NAMESPACE
