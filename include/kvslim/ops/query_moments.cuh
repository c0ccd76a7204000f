// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda.cuh>
#include <kvslim/ops/query_moments.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// Channels of a tile, and queries that are in shared memory at a time.
inline constexpr int moments_tile = 32;
inline constexpr int moments_threads = moments_tile * 8;

/// Queries of head g of one row.
struct moments_row {
  rows<cuda_space> queries;
  index_t sequence, head, first;

  [[nodiscard]] __device__ float at(index_t t, index_t d) const {
    return queries.at(sequence, head, first + t, d);
  }
  [[nodiscard]] __device__ index_t count() const { return queries.tokens - first; }
};

template <class Text>
[[nodiscard]] __device__ moments_row row_of_moments(Text const& text,
                                                    rows<cuda_space> const& queries, index_t sinks,
                                                    index_t g, index_t r) {
  index_t const kv_heads = text.extents().kv_heads, s = r / kv_heads, h = r % kv_heads;
  return {queries, s, h * (queries.heads / kv_heads) + g,
          ops::first_query(queries.tokens, text.tokens(s, h), sinks)};
}

/// One block per (row, tile of channels): threads are channels, eight of them take turns at
/// queries.
template <class Text>
KVSLIM_DETAIL_KERNEL void query_mean_kernel(Text text, rows<cuda_space> queries, index_t sinks,
                                            index_t g, ops::moments_memory out) {
  __shared__ double sums[moments_threads];
  index_t const tiles = div_up(out.dim, moments_tile), r = blockIdx.x / tiles,
                d = blockIdx.x % tiles * moments_tile + threadIdx.x % moments_tile;
  auto const row = row_of_moments(text, queries, sinks, g, r);
  double sum = 0.0;
  for (index_t t = threadIdx.x / moments_tile; d < out.dim && t < row.count();
       t += moments_threads / moments_tile)
    sum += static_cast<double>(row.at(t, d));
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x >= moments_tile || d >= out.dim) return;
  sum = 0.0;
  for (int i = static_cast<int>(threadIdx.x); i < moments_threads; i += moments_tile)
    sum += sums[i];
  out.mean(r)[d] =
      row.count() > 0 ? static_cast<float>(sum / static_cast<double>(row.count())) : 0.0f;
}

/// One block per (row, tile of channel pairs): a thread has four of them.
template <class Text>
KVSLIM_DETAIL_KERNEL void query_covariance_kernel(Text text, rows<cuda_space> queries,
                                                  index_t sinks, index_t g,
                                                  ops::moments_memory out) {
  __shared__ float a[moments_tile][moments_tile + 1], b[moments_tile][moments_tile + 1];
  index_t const tiles = div_up(out.dim, moments_tile), r = blockIdx.x / (tiles * tiles),
                first = blockIdx.x / tiles % tiles * moments_tile,
                second = blockIdx.x % tiles * moments_tile;
  auto const row = row_of_moments(text, queries, sinks, g, r);
  int const me = static_cast<int>(threadIdx.x) % moments_tile,
            part = static_cast<int>(threadIdx.x) / moments_tile;
  constexpr int parts = moments_threads / moments_tile, each = moments_tile / parts;
  float const* const mean = out.mean(r);
  double sum[each] = {};
  for (index_t t0 = 0; t0 < row.count(); t0 += moments_tile) {
    __syncthreads();
    for (int t = part; t < moments_tile; t += parts) {
      auto const centred = [&](index_t d) {
        return t0 + t < row.count() && d < out.dim ? row.at(t0 + t, d) - mean[d] : 0.0f;
      };
      a[t][me] = centred(first + me);
      b[t][me] = centred(second + me);
    }
    __syncthreads();
    unrolled<each>([&](int i) {
      float some = 0.0f;
      for (int t = 0; t < moments_tile; ++t) some += a[t][part + i * parts] * b[t][me];
      sum[i] += static_cast<double>(some);
    });
  }
  for (int i = 0; i < each; ++i) {
    index_t const c = first + part + i * parts, d = second + me;
    if (c < out.dim && d < out.dim)
      out.covariance(r)[c * out.dim + d] =
          row.count() > 0 ? static_cast<float>(sum[i] / static_cast<double>(row.count())) : 0.0f;
  }
}

/// One channel of one row of a table; row -1 is the mean.
struct load_moments_body {
  rows<cuda_space> mean, covariance;
  index_t g, kv_heads;
  ops::moments_memory out;

  __device__ void operator()(index_t at) const {
    index_t const d = at % out.dim, i = at / out.dim % (out.dim + 1) - 1,
                  r = at / out.dim / (out.dim + 1), s = r / kv_heads,
                  head = r % kv_heads * (mean.heads / kv_heads) + g;
    if (i < 0)
      out.mean(r)[d] = mean.at(s % mean.sequences, head, 0, d);
    else if (covariance.data != nullptr)
      out.covariance(r)[i * out.dim + d] = covariance.at(s % covariance.sequences, head, i, d);
  }
};

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

template <>
struct implementation<ops::query_moments_op, cuda> {
  template <class Text, class Space>
  static status run(cuda exec, Text const& text, rows<Space> const& queries, index_t sinks,
                    bool covariance, index_t g, ops::moments_memory const& out) {
    static_assert(std::same_as<Space, cuda_space>,
                  "kvslim: a CUDA executor was given queries in host memory");
    index_t const rows = text.extents().rows(),
                  tiles = detail::div_up(out.dim, detail::moments_tile);
    if (auto const s =
            detail::launch(exec, {rows * tiles, detail::moments_threads},
                           detail::query_mean_kernel<Text>, text, queries, sinks, g, out);
        !s || !covariance)
      return s;
    return detail::launch(exec, {rows * tiles * tiles, detail::moments_threads},
                          detail::query_covariance_kernel<Text>, text, queries, sinks, g, out);
  }
};

template <>
struct implementation<ops::load_moments_op, cuda> {
  template <class Space>
  static status run(cuda exec, extents const& e, rows<Space> const& mean,
                    rows<Space> const& covariance, index_t g, ops::moments_memory const& out) {
    static_assert(std::same_as<Space, cuda_space>,
                  "kvslim: a CUDA executor was given tables in host memory");
    return detail::launch_for_each(exec, e.rows() * (e.head_dim + 1) * e.head_dim,
                                   detail::load_moments_body{mean, covariance, g, e.kv_heads, out});
  }
};

KVSLIM_END_NAMESPACE
