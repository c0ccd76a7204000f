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
    if constexpr (Index::traits.grades) {
      __syncthreads();  // the page's numbers are written
      if (threadIdx.x < warp_threads) {
        float least = INFINITY;
        for (index_t t = lane_of_warp(); t < n; t += warp_threads)
          least = fminf(least, index.grade(
                                   e.head_dim, [&](index_t d) { return keys.decode(begin + t, d); },
                                   read_fields<Index>{fields, e.head_dim}));
        least = over_warp(least, [](float a, float b) { return fminf(a, b); });
        if (lane_of_warp() == 0) page_grade<Index>(packed, r, page) = least;
      }
    }
  }
  __syncthreads();  // every thread has read the counts
  if (threadIdx.x == 0) count_summarized(x, unit);
}

/// The score of a page for query i, by a warp: every lane has it.
template <class Index>
[[nodiscard]] __device__ float page_score_by_warp(Index const& index,
                                                  index_element<Index> const* page,
                                                  page_queries const& x, index_t i) {
  float sum = 0.0f;
  for (index_t d = lane_of_warp(); d < x.dim; d += warp_threads) {
    float of[Index::traits.fields];
    for (index_t f = 0; f < Index::traits.fields; ++f) of[f] = to_float(page[f * x.dim + d]);
    if constexpr (Index::traits.shares)
      sum += x.q[i * x.dim + d] * of[0];
    else
      sum += index.term(x.q[i * x.dim + d], of);
  }
  return over_warp(sum, [](float a, float b) { return a + b; });
}
/// page_worth by a warp.
template <class Index>
[[nodiscard]] __device__ float page_worth_by_warp(Index const& index,
                                                  index_element<Index> const* page,
                                                  page_queries const& x) {
  float best = -INFINITY, sum = 0.0f;
  for (index_t i = 0; i < x.count(); ++i) {
    float score = page_score_by_warp(index, page, x, i);
    if constexpr (Index::traits.shares) {
      sum = (i % x.n == 0 ? 0.0f : sum) + x.share(i, score);
      if (i % x.n != x.n - 1) continue;
      score = sum;
    }
    best = fmaxf(best, score);
  }
  return best;
}
/// The softmax states of all queries over the pages that skip(p) leaves, warps taking pages in
/// turn.
template <class Index, class Packed, class Skip>
__device__ void fill_states(Index const& index, Packed const& packed, index_t r,
                            page_queries const& x, index_t ranked, Skip const& skip) {
  constexpr int warps = block_threads / warp_threads;
  __shared__ float most[warps], total[warps];
  int const warp = static_cast<int>(threadIdx.x / warp_threads);
  for (index_t i = 0; i < x.count(); ++i) {
    ops::softmax_state state;
    for (index_t p = warp; p < ranked; p += warps)
      if (!skip(p))
        state.merge(
            {page_score_by_warp(index, page_fields<Index>(packed, r, p), x, i) * x.scale, 1.0});
    if (lane_of_warp() == 0) {
      most[warp] = state.most;
      total[warp] = static_cast<float>(state.total);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int w = 1; w < warps; ++w) state.merge({most[w], static_cast<double>(total[w])});
      x.state[i] = state;
    }
    __syncthreads();
  }
}

/// One block per row of the request: bounds by warps, then the threshold that the pages to read
/// reach, then their spans in order.
template <class Index, class Packed>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(block_threads)
    select_pages_kernel(Index index, Packed packed, attend_request<cuda_space> a, page_spans to,
                        float* scratch, index_t words, index_t pages) {
  auto const& e = packed.extents();
  index_t const i = blockIdx.x, s = i / e.kv_heads, h = i % e.kv_heads,
                r = a.first_sequence * e.kv_heads + i;
  if (!is_filled(packed) || (a.active != nullptr && a.active[s] == 0)) return;
  packed_row const& stored = packed.raw_row(r);
  index_t const unit = index.page_tokens(), slots = stored.slots, all = div_up(slots, unit),
                reads = min(all, index.reads(slots)), newest = min(reads, index.newest(slots)),
                ranked = all - newest, group = a.q.heads / e.kv_heads, n = a.q.tokens,
                queries = group * n;
  if (!is_summarized(stored, unit) || reads > to.most || all > pages) {
    if (threadIdx.x != 0) return;
    set_failed(packed, r, errc::corrupt);
    to.counts[r] = 0;
    return;
  }
  auto* const keys = static_cast<std::uint64_t*>(static_cast<void*>(scratch + i * words));
  page_queries const x{.q = scratch + (i + 1) * words - round_up(queries * e.head_dim, 2),
                       .state = static_cast<ops::softmax_state*>(static_cast<void*>(keys + pages)),
                       .group = group,
                       .n = n,
                       .dim = e.head_dim,
                       .scale = logit_scale(packed.layout().logit, e.head_dim),
                       .logits = nullptr,
                       .pages = pages};
  for (index_t j = threadIdx.x; j < queries * e.head_dim; j += block_threads) {
    index_t const row = j / e.head_dim;
    x.q[j] = a.q.at(s, h * group + row / n, row % n, j % e.head_dim);
  }
  std::uint64_t worst = ~std::uint64_t{0};
  if constexpr (Index::traits.grades) {
    index_t const outliers = min(reads - newest, index.outliers());
    if (outliers >= ranked)
      worst = 0;
    else if (outliers > 0)
      worst = block_threshold(outliers, [&](auto const& use) {
        for (index_t p = threadIdx.x; p < ranked; p += block_threads)
          use(grade_key<Index>(packed, r, p));
      });
  }
  auto const is_outlier = [&](index_t p) {
    if constexpr (Index::traits.grades) return grade_key<Index>(packed, r, p) >= worst;
    return false;
  };
  __syncthreads();
  if constexpr (Index::traits.shares) fill_states(index, packed, r, x, ranked, is_outlier);
  for (index_t p = threadIdx.x / warp_threads; p < ranked; p += block_threads / warp_threads) {
    float const score =
        is_outlier(p) ? INFINITY : page_worth_by_warp(index, page_fields<Index>(packed, r, p), x);
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
  return detail::launch(
      exec, {a.q.sequences * packed.extents().kv_heads, detail::block_threads},
      detail::select_pages_kernel<index, packed_cache<Key, Value, cuda_space>>,
      plan.template stage<index_tag>(), packed, a, to,
      static_cast<float*>(static_cast<void*>(scratch.data)),
      detail::page_words(plan, a.q.heads, a.q.tokens),
      detail::div_up(plan.most_slots(), plan.template stage<index_tag>().page_tokens()));
}

KVSLIM_END_NAMESPACE
