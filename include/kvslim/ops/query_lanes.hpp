// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Many query vectors side by side, one to a lane: their products with some keys, and softmax over
/// all keys without a place for all products. By kernels where the processor has them, by plain
/// loops elsewhere.

#include <kvslim/core/logit.hpp>
#include <kvslim/isa/score_kernels.hpp>
#include <kvslim/ops/exp.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// out[i][j] = q[.][j] . k[i] for `Keys` keys and lanes [first, lanes): the plain loop.
template <std::size_t Keys>
inline void multiply_plainly(float const* q, index_t first, index_t lanes, float const* k,
                             index_t dim, float* out, index_t apart) noexcept {
  constexpr auto keys = static_cast<index_t>(Keys);
  constexpr std::size_t wide = 32;
  constexpr auto chunk = static_cast<index_t>(wide);
  index_t j = first;
  for (; j + chunk <= lanes; j += chunk) {
    float sum[Keys][wide] = {};
    for (index_t d = 0; d < dim; ++d)
      for (index_t i = 0; i < keys; ++i)
        for (index_t l = 0; l < chunk; ++l) sum[i][l] += q[d * lanes + j + l] * k[i * dim + d];
    for (index_t i = 0; i < keys; ++i)
      for (index_t l = 0; l < chunk; ++l) out[i * apart + j + l] = sum[i][l];
  }
  for (; j < lanes; ++j)
    for (index_t i = 0; i < keys; ++i) {
      float sum = 0.0f;
      for (index_t d = 0; d < dim; ++d) sum += q[d * lanes + j] * k[i * dim + d];
      out[i * apart + j] = sum;
    }
}

/// out[i][j] = sum over d of q[d][j] * k[i][d], each sum in the order of channels.
///
/// Shapes: q [dim, lanes], k [n, dim], out [n, lanes] with rows `apart` floats apart. Cost: 2 * n *
/// lanes * dim flop; fastest where lanes is a multiple of 64 and n of 6.
inline void multiply_lanes(float const* q, index_t lanes, float const* k, index_t dim, index_t n,
                           float* out, index_t apart) noexcept {
  index_t done = 0;
  static_cast<void>(detail::with_score_kernels([&](auto kernels) {
    done = decltype(kernels)::multiply_lanes(q, lanes, k, dim, n, out, apart);
  }));
  if (done == lanes) return;
  index_t i = 0;
  for (; i + 4 <= n; i += 4)
    multiply_plainly<4>(q, done, lanes, k + i * dim, dim, out + i * apart, apart);
  for (; i < n; ++i) multiply_plainly<1>(q, done, lanes, k + i * dim, dim, out + i * apart, apart);
}

// What follows asks for a multiple of 16 lanes.

/// Caps logits [n] at `cap` > 0; n a multiple of 16.
inline void cap_logits(float cap, index_t n, float* x) noexcept {
  if (detail::with_score_kernels([&](auto kernels) { decltype(kernels)::cap_logits(cap, n, x); }))
    return;
  for (index_t i = 0; i < n; ++i) x[i] = detail::soft_capped(cap, x[i]);
}

/// Brings logits x [n, lanes] into each lane's softmax: `most` becomes the largest so far, total -
/// lost the sum of e^(x - most), where `lost` is what the sum's roundings took too little off.
inline void add_totals(float const* x, index_t n, index_t lanes, float* most, float* total,
                       float* lost) noexcept {
  if (detail::with_score_kernels(
          [&](auto kernels) { decltype(kernels)::add_totals(x, n, lanes, most, total, lost); }))
    return;
  for (index_t j = 0; j < lanes; j += 16) {
    float peak[16], sum[16] = {};
    for (index_t l = 0; l < 16; ++l) peak[l] = most[j + l];
    for (index_t i = 0; i < n; ++i)
      for (index_t l = 0; l < 16; ++l)
        peak[l] = x[i * lanes + j + l] > peak[l] ? x[i * lanes + j + l] : peak[l];
    for (index_t i = 0; i < n; ++i)
      for (index_t l = 0; l < 16; ++l) sum[l] += exp_nonpositive(x[i * lanes + j + l] - peak[l]);
    for (index_t l = 0; l < 16; ++l) {
      float const shrink = exp_nonpositive(most[j + l] - peak[l]), held = total[j + l] * shrink,
                  add = sum[l] - lost[j + l] * shrink, after = held + add;
      most[j + l] = peak[l];
      total[j + l] = after;
      lost[j + l] = (after - held) - add;
    }
  }
}

/// x[i][j] becomes e^(x[i][j] - most[j]) * factor[j].
inline void make_shares(float* x, index_t n, index_t lanes, float const* most,
                        float const* factor) noexcept {
  if (detail::with_score_kernels(
          [&](auto kernels) { decltype(kernels)::make_shares(x, n, lanes, most, factor); }))
    return;
  for (index_t i = 0; i < n; ++i)
    for (index_t j = 0; j < lanes; ++j)
      x[i * lanes + j] = exp_nonpositive(x[i * lanes + j] - most[j]) * factor[j];
}

/// Sums of `count` lanes from each of `heads` on, n times: out[h * apart + i] = sum of
/// x[i][h * count + .].
inline void sum_lanes(float const* x, index_t n, index_t lanes, index_t heads, index_t count,
                      float* out, index_t apart) noexcept {
  if (detail::with_score_kernels([&](auto kernels) {
        for (index_t i = 0; i < n; ++i)
          for (index_t h = 0; h < heads; ++h)
            out[h * apart + i] = decltype(kernels)::sum_lanes(x + i * lanes + h * count, count);
      }))
    return;
  for (index_t i = 0; i < n; ++i)
    for (index_t h = 0; h < heads; ++h) {
      float const* const mine = x + i * lanes + h * count;
      float part[8] = {};
      index_t j = 0;
      for (; j + 8 <= count; j += 8)
        for (index_t l = 0; l < 8; ++l) part[l] += mine[j + l];
      for (index_t l = 0; j + l < count; ++l) part[l] += mine[j + l];
      out[h * apart + i] =
          ((part[0] + part[4]) + (part[1] + part[5])) + ((part[2] + part[6]) + (part[3] + part[7]));
    }
}

}  // namespace ops

KVSLIM_END_NAMESPACE
