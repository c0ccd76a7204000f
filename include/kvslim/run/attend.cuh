// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/affine.cuh>
#include <kvslim/codec/dense.cuh>
#include <kvslim/run/attend.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

inline constexpr int attend_warps = 4;
inline constexpr int attend_channels = 8;  // of each lane, in registers
inline constexpr index_t attend_max_dim = attend_channels * warp_threads;

/// Floats of shared memory: queries [dim][heads] and weights [warps][run_tokens][heads], later the
/// warps' results [warps][heads][dim + 2].
[[nodiscard]] constexpr index_t attend_shared_floats(index_t heads, index_t dim) noexcept {
  return max(heads * (dim + attend_warps * run_tokens), attend_warps * heads * (dim + 2));
}

/// One block per (row, up to Heads query heads, split). Its warps take turns at runs of 32 tokens:
/// for scores a lane is a token, for values a lane is every 32nd channel. Every warp has a running
/// maximum and sum per head; they are merged at the end. With several splits a block writes [dim]
/// output and its log-sum-exp to `partial` [sequence, q_head, split][dim + 1].
template <int Heads, class Packed, class Query, class Out>
__global__ void __launch_bounds__(attend_warps* warp_threads)
    attend_kernel(Packed packed, Query query, Out out, float* lse, float scale, index_t splits,
                  float* partial) {
  extern __shared__ float shared[];
  auto const& e = packed.plan().extents();
  index_t const group = query.heads / e.kv_heads, pieces = div_up(group, Heads),
                split = blockIdx.x % splits, work = blockIdx.x / splits;
  index_t const r = work / pieces, s = r / e.kv_heads,
                first = r % e.kv_heads * group + work % pieces * Heads;
  int const dim = static_cast<int>(e.head_dim),
            heads = static_cast<int>(min(Heads, group - work % pieces * Heads));
  int const lane = static_cast<int>(threadIdx.x) % warp_threads,
            warp = static_cast<int>(threadIdx.x) / warp_threads;
  float* const q = shared;
  float* const weights = shared + dim * Heads + warp * run_tokens * Heads;
  for (int i = static_cast<int>(threadIdx.x); i < dim * Heads; i += attend_warps * warp_threads) {
    int const h = i / dim, d = i % dim;
    q[d * Heads + h] =
        h < heads ? to_float(query.row(s, first + h)[d * query.layout.channel]) * scale : 0.0f;
  }
  __syncthreads();

  auto const keys = packed.keys(r);
  auto const values = packed.values(r);
  bool const weighted = packed.plan().keeps_log_weight();
  float const* const log_weight = weighted ? packed.stored_weights(r) : nullptr;
  index_t const count = packed.row(r).count;
  float most[Heads], total[Heads] = {}, sums[Heads][attend_channels] = {};
  for (float& x : most) x = -INFINITY;
  for (index_t begin = (split * attend_warps + warp) * run_tokens; begin < count;
       begin += splits * attend_warps * run_tokens) {
    index_t const n = min(run_tokens, count - begin);
    float x[Heads] = {};
    if (lane < n) {
      keys.visit(begin + lane, 1,
                 [&](auto const& codec, std::byte const* block, block_run const& run) {
                   warp_codec<std::remove_cvref_t<decltype(codec)>>::each_channel(
                       codec, block, run, [&](index_t d, float k) {
                         unrolled<Heads>([&](int h) { x[h] += q[d * Heads + h] * k; });
                       });
                 });
    }
    unrolled<Heads>([&](int h) {
      float const logit =
          lane < n ? x[h] + (weighted ? log_weight[begin + lane] : 0.0f) : -INFINITY;
      float const high =
          fmaxf(most[h], over_warp(logit, [](float a, float b) { return fmaxf(a, b); }));
      float const shrink =
          high == -INFINITY
              ? 1.0f
              : ops::exp_nonpositive(most[h] - high);  // -INFINITY: nothing visible yet
      float const p = high == -INFINITY ? 0.0f : ops::exp_nonpositive(logit - high);
      total[h] = total[h] * shrink + p;
      most[h] = high;
      unrolled<attend_channels>([&](int j) { sums[h][j] *= shrink; });
      weights[lane * Heads + h] = p;
    });
    __syncwarp();
    for (index_t done = 0; done < n;) {
      index_t const m = min(n - done, values.reach(begin + done));
      values.visit(
          begin + done, m, [&](auto const& codec, std::byte const* block, block_run const& run) {
            unrolled<attend_channels>([&](int j) {
              if (int const d = lane + j * warp_threads; d < dim)
                warp_codec<std::remove_cvref_t<decltype(codec)>>::each_token(
                    codec, block, run, d, [&](index_t i, float v) {
                      unrolled<Heads>(
                          [&](int h) { sums[h][j] += weights[(done + i) * Heads + h] * v; });
                    });
            });
          });
      done += m;
    }
    __syncwarp();
  }

  __syncthreads();
  unrolled<Heads>([&](int h) {
    float* const mine = shared + (warp * Heads + h) * (dim + 2);
    unrolled<attend_channels>([&](int j) {
      if (int const d = lane + j * warp_threads; d < dim) mine[d] = sums[h][j];
    });
    float const sum = over_warp(total[h], [](float a, float b) { return a + b; });
    if (lane == 0) {
      mine[dim] = most[h];
      mine[dim + 1] = sum;
    }
  });
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < heads * (dim + 1);
       i += attend_warps * warp_threads) {
    int const h = i / (dim + 1), d = i % (dim + 1);  // d == dim: the log-sum-exp
    auto const of = [&](int w) { return shared + (w * Heads + h) * (dim + 2); };
    float high = -INFINITY, sum = 0.0f, value = 0.0f;
    for (int w = 0; w < attend_warps; ++w) high = fmaxf(high, of(w)[dim]);
    for (int w = 0; w < attend_warps && high > -INFINITY; ++w) {
      float const weight = ops::exp_nonpositive(of(w)[dim] - high);
      sum += weight * of(w)[dim + 1];
      if (d < dim) value += weight * of(w)[d];
    }
    float const result =
        d < dim ? (sum > 0.0f ? value / sum : 0.0f) : (sum > 0.0f ? high + logf(sum) : -INFINITY);
    index_t const head = s * query.heads + first + h;
    if (splits > 1)
      partial[(head * splits + split) * (dim + 1) + d] = result;
    else if (d < dim)
      out.row(s, first + h)[d * out.layout.channel] = from_float<typename Out::value_type>(result);
    else
      lse[head] = result;
  }
}

/// Merges the splits of one (sequence, query head): one block each, threads over channels.
template <class Out>
__global__ void merge_splits_kernel(Out out, float* lse, index_t splits, float const* partial) {
  index_t const head = blockIdx.x, dim = out.head_dim;
  float const* const mine = partial + head * splits * (dim + 1);
  float high = -INFINITY, sum = 0.0f;
  for (index_t i = 0; i < splits; ++i) high = fmaxf(high, mine[i * (dim + 1) + dim]);
  auto const weight = [&](index_t i) {
    return high > -INFINITY ? ops::exp_nonpositive(mine[i * (dim + 1) + dim] - high) : 0.0f;
  };
  for (index_t i = 0; i < splits; ++i) sum += weight(i);
  for (index_t d = threadIdx.x; d < dim; d += blockDim.x) {
    float value = 0.0f;
    for (index_t i = 0; i < splits; ++i) value += weight(i) * mine[i * (dim + 1) + d];
    out.row(head / out.heads, head % out.heads)[d * out.layout.channel] =
        from_float<typename Out::value_type>(sum > 0.0f ? value / sum : 0.0f);
  }
  if (threadIdx.x == 0) lse[head] = sum > 0.0f ? high + logf(sum) : -INFINITY;
}

}  // namespace detail

/// attend() on a stream, over the same stored bytes; meant to stay within the CPU's bound, which no
/// GPU has confirmed yet. options.splits blocks share a row if options.scratch is given, which pays
/// while rows are too few to fill the device. Requires: head_dim <= 256 (unsupported); splits >= 1
/// (invalid_option), scratch with more than one (invalid_pointer).
template <class Policy, class Query, class Out>
status attend(cuda exec, Query const& query, packed_cache<Policy, cuda_space> const& packed,
              Out const& out, float* lse, attend_options options = {}) {
  static_assert(
      std::same_as<typename Query::space, cuda_space> &&
          std::same_as<typename Out::space, cuda_space>,
      "kvslim: a CUDA executor was given a host view: view device memory with kvslim::cuda_space");
  if (auto const s = detail::check_attend(packed, query, out, lse); !s) return s;
  auto const& e = packed.plan().extents();
  if (e.head_dim > detail::attend_max_dim)
    return detail::fail(errc::unsupported, "kvslim: attend on CUDA handles head_dim up to 256");
  if (options.splits < 1 || options.splits > 65536)
    return detail::fail(errc::invalid_option, "kvslim: attend needs between 1 and 65536 splits");
  if (options.splits > 1 && options.scratch == nullptr)
    return detail::fail(errc::invalid_pointer,
                        "kvslim: attend with splits needs scratch: see attend_scratch_floats");
  index_t const group = query.heads / e.kv_heads;
  float const scale =
      options.scale != 0.0f ? options.scale : 1.0f / std::sqrt(static_cast<float>(e.head_dim));
  auto const launch = [&](auto together) {
    constexpr int heads = decltype(together)::value;
    auto const blocks =
        static_cast<unsigned>(e.rows() * detail::div_up(group, heads) * options.splits);
    auto const shared =
        static_cast<std::size_t>(detail::attend_shared_floats(heads, e.head_dim)) * sizeof(float);
    constexpr int threads = detail::attend_warps * detail::warp_threads;
    detail::attend_kernel<heads><<<blocks, threads, shared, exec.stream>>>(
        packed, query, out, lse, scale, options.splits, options.scratch);
  };
  if (group == 1)
    launch(std::integral_constant<int, 1>{});
  else if (group <= 4)
    launch(std::integral_constant<int, 4>{});
  else
    launch(std::integral_constant<int, 8>{});
  if (auto const s = detail::cuda_result(cudaPeekAtLastError()); !s || options.splits == 1)
    return s;
  detail::merge_splits_kernel<<<static_cast<unsigned>(query.sequences * query.heads), 128, 0,
                                exec.stream>>>(out, lse, options.splits, options.scratch);
  return detail::cuda_result(cudaPeekAtLastError());
}

KVSLIM_END_NAMESPACE
