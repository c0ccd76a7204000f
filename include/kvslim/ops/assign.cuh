// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/ops/assign.hpp>
#include <kvslim/ops/text_order.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// ops::group_row by one block per row: its sources in text order, sorted by target, stably.
template <class Text>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(block_threads)
    group_sources_kernel(Text text, folding out, fate* fates) {
  auto const& e = text.extents();
  index_t const r = blockIdx.x, n = text.tokens(r / e.kv_heads, r % e.kv_heads), row = r * e.tokens;
  std::int32_t const* const target = out.target + row;
  std::int32_t *const begins = out.begins + row + r, *const sources = out.sources + row;
  auto const joins = [target](index_t t) { return ops::joins_another(target, t); };
  auto const each = [](index_t count, auto const& use) {
    for (index_t i = threadIdx.x; i < count; i += block_threads) use(i);
    __syncthreads();
  };
  std::int32_t *listed = sources, *other = begins;  // which are made when all is sorted
  index_t const count = block_list(
      n, n, joins, [&](index_t t, index_t place) { listed[place] = static_cast<std::int32_t>(t); });
  for (int shift = 0; shift < 32 && (n - 1) >> shift > 0; shift += order_bits) {
    order_pass(listed, other, count, shift,
               [target](std::int32_t t) { return static_cast<std::uint32_t>(target[t]); });
    std::int32_t* const swapped = listed;
    listed = other;
    other = swapped;
  }
  if (listed != sources) each(count, [&](index_t i) { sources[i] = listed[i]; });
  each(n + 1, [&](index_t t) { begins[t] = 0; });
  each(n, [&](index_t t) {
    if (joins(t)) atomicAdd(&begins[target[t] + 1], 1);
    fates[row + t] = target[t] == t ? fate::kept : fate::evicted;
  });
  std::int32_t end = 0;
  for (index_t base = 0; base <= n; base += block_threads) {
    index_t const t = base + threadIdx.x;
    std::int32_t const mine = t <= n ? begins[t] : 0;
    auto const sum = block_scan(mine);
    if (t <= n) begins[t] = end + sum.before + mine;
    end += sum.total;
  }
}

/// One thread an evicted token, which looks at every kept one; summed as on the CPU.
template <class Text>
struct nearest_kept_body {
  Text text;
  fate const* fates;
  float least;
  folding out;

  __device__ void operator()(index_t at) const {
    auto const& e = text.extents();
    index_t const r = at / e.tokens, t = at % e.tokens, s = r / e.kv_heads, h = r % e.kv_heads;
    index_t const n = text.tokens(s, h), dim = e.head_dim;
    if (t >= n) return;
    bool const evicted = fates[at] == fate::evicted;
    std::int32_t target = evicted ? -1 : static_cast<std::int32_t>(t);
    float strength = -INFINITY;
    if (evicted && text.logit_bias(s, h, t) > -INFINITY) {
      auto const mine = text.key(s, h, t);
      float const norm = sqrtf(ops::dot_channels(mine, mine, dim));
      for (index_t c = 0; c < n; ++c) {
        if (fates[r * e.tokens + c] == fate::evicted || !(text.logit_bias(s, h, c) > -INFINITY))
          continue;
        auto const key = text.key(s, h, c);
        float const u = ops::cosine_of(ops::dot_channels(mine, key, dim), norm,
                                       sqrtf(ops::dot_channels(key, key, dim)));
        if (!(u > strength) || !(u >= least)) continue;
        strength = u;
        target = static_cast<std::int32_t>(c);
      }
    }
    out.target[at] = target;
    out.strength[at] = strength;
  }
};

/// ops::list_joining by one block per row.
template <class Text>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(block_threads)
    list_joining_kernel(Text text, folding out, float* scratch) {
  static_assert(ops::joining_sums == block_threads);
  __shared__ double sums[block_threads];
  auto const& e = text.extents();
  index_t const r = blockIdx.x, n = text.tokens(r / e.kv_heads, r % e.kv_heads), row = r * e.tokens,
                me = threadIdx.x;
  auto const joins = [&](index_t t) { return ops::joins_another(out.target + row, t); };
  double sum = 0.0;
  for (index_t t = me; t < n; t += block_threads)
    if (joins(t)) sum += static_cast<double>(out.strength[row + t]);
  sums[me] = sum;
  index_t const count = block_list(n, n, joins, [&](index_t t, index_t place) {
    out.sources[row + place] = static_cast<std::int32_t>(t);
  });
  for (index_t half = block_threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (me < half) sums[me] += sums[half + me];
  }
  if (me == 0) ops::joining(sums[0], count).write(e, scratch, r);
}

/// One group of rows.
template <class Text>
struct move_threshold_body {
  Text text;
  ops::drop_rule rule;
  folding out;
  float const* scratch;
  index_t rows;
  __device__ void operator()(index_t g) const {
    ops::move_threshold(text, rule, out, scratch, g * rows, rows);
  }
};

/// One thread for the j-th listed tokens of `rows` rows.
template <class Text>
struct drop_place_body {
  Text text;
  folding out;
  float const* scratch;
  index_t rows;
  __device__ void operator()(index_t at) const {
    index_t const tokens = text.extents().tokens;
    ops::drop_place(text, out, scratch, at / tokens * rows, rows, at % tokens);
  }
};

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

template <>
struct implementation<ops::recall_op, cuda> {
  template <class Body>
  static status run(cuda exec, index_t words, Body const& body) {
    return detail::launch_for_each(exec, words, body);
  }
};

template <>
struct implementation<ops::group_sources_op, cuda> {
  template <class Text>
  static status run(cuda exec, Text const& text, folding const& out, fate* fates) {
    return detail::launch(exec, {text.extents().rows(), detail::block_threads},
                          detail::group_sources_kernel<Text>, text, out, fates);
  }
};

template <>
struct implementation<ops::nearest_kept_op, cuda> {
  template <class Text>
  static status run(cuda exec, Text const& text, fate const* fates, float least, folding const& out,
                    float*) {
    auto const& e = text.extents();
    return detail::launch_for_each(exec, e.rows() * e.tokens,
                                   detail::nearest_kept_body<Text>{text, fates, least, out});
  }
};

template <>
struct implementation<ops::drop_unlike_op, cuda> {
  template <class Text>
  static status run(cuda exec, Text const& text, ops::drop_rule const& rule, folding const& out,
                    float* scratch) {
    auto const& e = text.extents();
    index_t const rows = rule.filter == fold_filter::places ? e.kv_heads : 1;
    if (auto const s = detail::launch(exec, {e.rows(), detail::block_threads},
                                      detail::list_joining_kernel<Text>, text, out, scratch);
        !s)
      return s;
    if (out.memory != nullptr)
      if (auto const s = detail::launch_for_each(
              exec, e.rows() / rows,
              detail::move_threshold_body<Text>{text, rule, out, scratch, rows});
          !s)
        return s;
    return detail::launch_for_each(exec, e.rows() / rows * e.tokens,
                                   detail::drop_place_body<Text>{text, out, scratch, rows});
  }
};

KVSLIM_END_NAMESPACE
