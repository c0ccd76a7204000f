// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Corrections of codes, by the kernels of this processor or by plain loops.

#include <kvslim/isa/attend_kernels.hpp>
#include <kvslim/isa/convert.hpp>
#include <kvslim/isa/encode_kernels.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Adds weight(line) * (number - what its code stands for) to the place of every number kept aside
/// of lines [line, line + lines), where the place is in [first, first + n). Weights are counted
/// from `line` on, places from `first` on. where(line)(place) gives a
/// parameterized_code.
template <class Param, class Where>
KVSLIM_HD inline void add_aside(aside_numbers const& aside, index_t line, index_t lines,
                                head_floats<float const> const& weights, index_t first, index_t n,
                                index_t heads, head_floats<float> const& to,
                                Where const& where) noexcept {
  if (aside.each == 0) return;
#if KVSLIM_DETAIL_KERNELS
  if (with_kernels(1, [&](auto kernels, index_t, index_t) {
        using isa = decltype(kernels);
        if (heads <= 4)
          isa::template add_aside<Param, 1>(aside, line, lines, weights, first, n, heads, to,
                                            where);
        else
          isa::template add_aside<Param, 2>(aside, line, lines, weights, first, n, heads, to,
                                            where);
      }))
    return;
#endif
  for (index_t l = 0; l < lines; ++l)
    for (index_t i = 0; i < aside.each; ++i) {
      index_t const at = (line + l) * aside.each + i, place = aside.place(at);
      if (place < first || place >= first + n) continue;
      auto const x = where(line + l)(static_cast<std::uint32_t>(place));
      float const code = static_cast<float>(static_cast<std::int32_t>(x.code));
      float const more = widen(aside.values[at]) - (code * to_float(*x.scale) + to_float(*x.low));
      for (index_t h = 0; h < heads; ++h) *to.of(h, place - first) += *weights.of(h, l) * more;
    }
}

/// to[h][i] += sum over j of along[h][j] * u[i][j], for n tokens of `rank` coefficients.
KVSLIM_HD inline void add_coefficients(f16 const* u, index_t rank, index_t n,
                                       head_floats<float const> const& along, index_t heads,
                                       head_floats<float> const& to) noexcept {
#if KVSLIM_DETAIL_KERNELS
  if (with_kernels(1, [&](auto kernels, index_t, index_t) {
        using isa = decltype(kernels);
        if (heads <= 4)
          isa::template add_coefficients<1>(u, rank, n, along, heads, to);
        else
          isa::template add_coefficients<2>(u, rank, n, along, heads, to);
      }))
    return;
#endif
  for (index_t i = 0; i < n; ++i)
    for (index_t j = 0; j < rank; ++j) {
      float const x = widen(u[i * rank + j]);
      for (index_t h = 0; h < heads; ++h) *to.of(h, i) += *along.of(h, j) * x;
    }
}
/// along[h][j] += sum over i of weights[h][i] * u[i][j], for n tokens of `rank` coefficients.
KVSLIM_HD inline void sum_coefficients(f16 const* u, index_t rank, index_t n,
                                       head_floats<float const> const& weights, index_t heads,
                                       head_floats<float> const& along) noexcept {
#if KVSLIM_DETAIL_KERNELS
  if (with_kernels(1, [&](auto kernels, index_t, index_t) {
        using isa = decltype(kernels);
        if (heads <= 4)
          isa::template sum_coefficients<1>(u, rank, n, weights, heads, along);
        else
          isa::template sum_coefficients<2>(u, rank, n, weights, heads, along);
      }))
    return;
#endif
  for (index_t i = 0; i < n; ++i)
    for (index_t j = 0; j < rank; ++j) {
      float const x = widen(u[i * rank + j]);
      for (index_t h = 0; h < heads; ++h) *along.of(h, j) += *weights.of(h, i) * x;
    }
}

/// ops::add_projections, but for rounding; false where no kernel does so.
[[nodiscard]] KVSLIM_HD inline bool add_projections([[maybe_unused]] float const* x,
                                                    [[maybe_unused]] float const* basis,
                                                    [[maybe_unused]] index_t rank,
                                                    [[maybe_unused]] index_t dim,
                                                    [[maybe_unused]] float* sums) noexcept {
#if KVSLIM_DETAIL_KERNELS
  return with_encoders(
      dim, [&](auto kernels) { decltype(kernels)::add_projections(x, basis, rank, dim, sums); });
#else
  return false;
#endif
}
/// along[h][j] = q[h] . direction j, of `rank` directions of f16.
KVSLIM_HD inline void dot_directions(f16 const* directions, index_t rank, index_t dim,
                                     float const* q, index_t heads,
                                     head_floats<float> const& along) noexcept {
  site one{.n = 1, .dim = dim};
  for (index_t h = 0; h < heads; ++h)
    for (index_t j = 0; j < rank; ++j) *along.of(h, j) = 0.0f;
  for (index_t j = 0; j < rank; ++j) {
    f16 const* const x = directions + j * dim;
    if (dot_row(x, one, q, heads, along.at + j)) continue;
    for (index_t h = 0; h < heads; ++h)
      for (index_t d = 0; d < dim; ++d) *along.of(h, j) += q[h * dim + d] * widen(x[d]);
  }
}
/// out[h] += sum over j of along[h][j] * direction j.
KVSLIM_HD inline void add_directions(f16 const* directions, index_t rank, index_t dim,
                                     head_floats<float> const& along, index_t heads,
                                     float* out) noexcept {
  site all{.n = rank, .dim = dim};
  all.apart = along.apart;
  auto const* const rows = static_cast<std::byte const*>(static_cast<void const*>(directions));
  if (accumulate_rows<f16>(rows, all, along.at, heads, out)) return;
  for (index_t j = 0; j < rank; ++j)
    for (index_t d = 0; d < dim; ++d) {
      float const x = widen(directions[j * dim + d]);
      for (index_t h = 0; h < heads; ++h) out[h * dim + d] += *along.of(h, j) * x;
    }
}

}  // namespace detail

KVSLIM_END_NAMESPACE
