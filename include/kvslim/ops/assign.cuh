// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda.cuh>
#include <kvslim/ops/assign.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// One row: sequential, since each list begins where the last one ended.
template <class Text>
struct group_sources_body {
  Text text;
  folding out;
  fate* fates;
  __device__ void operator()(index_t r) const { ops::group_row(text, out, fates, r); }
};

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

template <class Text>
struct list_joining_body {
  Text text;
  folding out;
  float* scratch;
  __device__ void operator()(index_t r) const { ops::list_joining(text, out, r, scratch); }
};

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
    return detail::launch_for_each(exec, text.extents().rows(),
                                   detail::group_sources_body<Text>{text, out, fates});
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
    if (auto const s = detail::launch_for_each(exec, e.rows(),
                                               detail::list_joining_body<Text>{text, out, scratch});
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
