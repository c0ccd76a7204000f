// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <cmath>
#include <kvslim/ops/exp.hpp>
#include <kvslim/ops/rows.hpp>
#include <kvslim/store/packed_cache.hpp>

KVSLIM_BEGIN_NAMESPACE

struct attend_options {
  float scale = 0.0f;        ///< logit scale; 0 means 1 / sqrt(head_dim)
  index_t splits = 1;        ///< CUDA: blocks that share a row; the CPU takes rows whole
  float* scratch = nullptr;  ///< CUDA: attend_scratch_floats(plan, q_heads, splits) floats of
                             ///< device memory, null with one split
};

/// Floats of device memory for attend on CUDA with `splits` blocks to a row.
template <class Plan>
[[nodiscard]] constexpr std::size_t attend_scratch_floats(Plan const& plan, index_t q_heads,
                                                          index_t splits) noexcept {
  return splits <= 1 ? 0
                     : static_cast<std::size_t>(plan.extents().sequences * q_heads * splits *
                                                (plan.extents().head_dim + 1));
}

namespace detail {

/// Stack space of one attend_row call.
template <index_t Dim>
struct head_rows {
  float q[run_heads * Dim], out[run_heads * Dim], lse[run_heads];
  KVSLIM_HD head_rows() noexcept {
  }  // left uninitialised on purpose: 64 KiB, written before they are read
};

/// Attention of up to run_heads query heads over one packed row, streamed run by run with one
/// running maximum and sum. q [heads, dim] already scaled; out [heads, dim]; lse [heads], natural
/// logarithm, -inf for an empty range.
template <class Packed>
KVSLIM_HD inline void attend_row(Packed const& packed, index_t r, index_t begin, index_t end,
                                 float const* q, index_t heads, float* out, float* lse) noexcept {
  auto const keys = packed.keys(r);
  auto const values = packed.values(r);
  index_t const dim = packed.plan().extents().head_dim;
  bool const weighted = packed.plan().keeps_log_weight();
  float const* const log_weight = weighted ? packed.stored_weights(r) : nullptr;

  float most[run_heads], total[run_heads], scores[run_heads * run_tokens];
  for (index_t h = 0; h < heads; ++h) {
    most[h] = -INFINITY;
    total[h] = 0.0f;
    for (index_t d = 0; d < dim; ++d) out[h * dim + d] = 0.0f;
  }
  for (index_t t = begin; t < end;) {
    index_t const n = min(end - t, keys.reach(t));
    for (float& x : scores) x = 0.0f;
    keys.visit(t, n, [&](auto const& codec, std::byte const* block, block_run const& run) {
      codec.dot(block, run, q, heads, scores);
    });
    for (index_t h = 0; h < heads; ++h) {
      float* const x = scores + h * run_tokens;
      float high = most[h];
      for (index_t i = 0; i < n; ++i) {
        if (weighted) x[i] += log_weight[t + i];
        high = x[i] > high ? x[i] : high;
      }
      if (high == -INFINITY) {  // nothing visible yet: every logit so far is -inf
        for (index_t i = 0; i < n; ++i) x[i] = 0.0f;
        continue;
      }
      float const shrink = std::exp(most[h] - high);
      if (high > most[h]) {
        total[h] *= shrink;
        for (index_t d = 0; d < dim; ++d) out[h * dim + d] *= shrink;
        most[h] = high;
      }
      for (index_t i = 0; i < n; ++i) x[i] = ops::exp_nonpositive(x[i] - high);
      for (index_t i = 0; i < n; ++i) total[h] += x[i];
    }
    for (index_t done = 0; done < n;) {
      index_t const m = min(n - done, values.reach(t + done));
      values.visit(t + done, m,
                   [&](auto const& codec, std::byte const* block, block_run const& run) {
                     codec.accumulate(block, run, scores + done, heads, out);
                   });
      done += m;
    }
    t += n;
  }
  for (index_t h = 0; h < heads; ++h) {
    float const inverse = total[h] > 0.0f ? 1.0f / total[h] : 0.0f;
    for (index_t d = 0; d < dim; ++d) out[h * dim + d] *= inverse;
    lse[h] = total[h] > 0.0f ? most[h] + std::log(total[h]) : -INFINITY;
  }
}

template <class Packed, class Query, class Out>
[[nodiscard]] status check_attend(Packed const& packed, Query const& q, Out const& out,
                                  float const* lse) noexcept {
  auto const& e = packed.plan().extents();
  if (packed.storage() == nullptr || q.data == nullptr || out.data == nullptr || lse == nullptr)
    return fail(errc::invalid_pointer, "kvslim: attend was given a null pointer");
  if (q.sequences != e.sequences || q.head_dim != e.head_dim || q.tokens != 1 || q.heads < 1 ||
      q.heads % e.kv_heads != 0)
    return fail(errc::invalid_shape,
                "kvslim: the query must be [sequences, n * kv_heads, 1, head_dim]");
  if (out.sequences != q.sequences || out.heads != q.heads || out.tokens != 1 ||
      out.head_dim != q.head_dim)
    return fail(errc::invalid_shape, "kvslim: the output must have the query's shape");
  return {};
}

}  // namespace detail

/// Attention of one query token per sequence over a compressed cache, read as it is stored: nothing
/// is decoded to memory.
///
/// Shapes: query and out [sequence, q_head, 1, head_dim]; lse [sequence, q_head], natural logarithm
/// of the sum of exponentials. Bound: against attention over the decoded cache, relative L2 error
/// below 2e-5 (float accumulation). Returns: invalid_pointer, invalid_shape, corrupt (never
/// compressed into). Cost: one read of the stored bytes per group of up to 8 query heads; no
/// allocation, no workspace.
template <host_executor Exec, class Policy, class Query, class Out>
status attend(Exec const& exec, Query const& query, packed_cache<Policy, host_space> const& packed,
              Out const& out, float* lse, attend_options options = {}) {
  if (auto const s = detail::check_attend(packed, query, out, lse); !s) return s;
  if (!packed.ready())
    return detail::fail(errc::corrupt, "kvslim: the packed cache was never filled");
  auto const e = packed.plan().extents();
  index_t const group = query.heads / e.kv_heads, pieces = detail::div_up(group, run_heads);
  float const scale =
      options.scale != 0.0f ? options.scale : 1.0f / std::sqrt(static_cast<float>(e.head_dim));
  exec.for_each(e.rows() * pieces, [=](index_t work) {
    constexpr index_t max_dim = 1024;
    detail::head_rows<max_dim> buffer;
    float* const q = buffer.q;
    for (index_t i = 0; i < run_heads * e.head_dim; ++i) q[i] = 0.0f;
    float* const result = buffer.out;
    float* const row_lse = buffer.lse;
    index_t const r = work / pieces, s = r / e.kv_heads, h = r % e.kv_heads;
    index_t const first = work % pieces * run_heads, heads = detail::min(run_heads, group - first);
    for (index_t i = 0; i < heads; ++i) {
      ops::load_row(query.row(s, h * group + first + i), query.layout.channel, e.head_dim,
                    q + i * e.head_dim);
      for (index_t d = 0; d < e.head_dim; ++d) q[i * e.head_dim + d] *= scale;
    }
    detail::attend_row(packed, r, 0, packed.row(r).count, q, heads, result, row_lse);
    for (index_t i = 0; i < heads; ++i) {
      index_t const q_head = h * group + first + i;
      auto* const to = out.row(s, q_head);
      for (index_t d = 0; d < e.head_dim; ++d)
        to[d * out.layout.channel] =
            from_float<typename Out::value_type>(result[i * e.head_dim + d]);
      lse[s * query.heads + q_head] = row_lse[i];
    }
  });
  return {};
}

/// Combines attention over two disjoint sets of tokens: out <- both, lse natural. Rows of head_dim
/// floats.
KVSLIM_HD inline void merge_attention(float* out, float& lse, float const* other, float other_lse,
                                      index_t head_dim) noexcept {
  float const most = lse > other_lse ? lse : other_lse;
  if (most == -INFINITY) return;
  float const a = std::exp(lse - most), b = std::exp(other_lse - most);
  for (index_t d = 0; d < head_dim; ++d) out[d] = (out[d] * a + other[d] * b) / (a + b);
  lse = most + std::log(a + b);
}

KVSLIM_END_NAMESPACE
