// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// The directions in which rows vary most, by subspace iteration: one pass over the rows a round,
/// memory for a few vectors, the same steps on every backend.

#include <kvslim/core/fingerprint.hpp>
#include <kvslim/isa/correction_kernels.hpp>
#include <kvslim/ops/rows.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// Makes vectors [rank, width] orthonormal in order. One that lies in the span of those before it,
/// but for rounding, becomes zero.
KVSLIM_HD inline void orthonormalize(float* vectors, index_t rank, index_t width) noexcept {
  for (index_t i = 0; i < rank; ++i) {
    float* const x = vectors + i * width;
    float const before = norm(x, width);
    for (int pass = 0; pass < 2; ++pass)  // rounding of the first is what the second removes
      for (index_t j = 0; j < i; ++j) {
        float const along = dot(x, vectors + j * width, width);
        for (index_t c = 0; c < width; ++c) x[c] -= along * vectors[j * width + c];
      }
    float const length = norm(x, width);
    float const scale = length > 1e-5f * before ? 1.0f / length : 0.0f;
    for (index_t c = 0; c < width; ++c) x[c] = scale == 0.0f ? 0.0f : x[c] * scale;
  }
}

/// Component c of the i-th vector that iterations start from: uniform in [0, 1), the same in every
/// call.
[[nodiscard]] KVSLIM_HD inline float subspace_start(index_t i, index_t c) noexcept {
  auto const hash =
      detail::mix(static_cast<std::uint64_t>(i) + 1, static_cast<std::uint64_t>(c) + 1);
  return static_cast<float>(hash >> 40) * 0x1p-24f;
}

/// sums[i] += (x . basis[i]) * x, of `rank` vectors; by a kernel where there is one.
KVSLIM_HD inline void add_projections(float const* x, float const* basis, index_t rank,
                                      index_t width, float* sums) noexcept {
  if (detail::add_projections(x, basis, rank, width, sums)) return;
  for (index_t i = 0; i < rank; ++i) {
    float const along = dot(x, basis + i * width, width);
    for (index_t c = 0; c < width; ++c) sums[i * width + c] += along * x[c];
  }
}

/// `basis` [rank, width] becomes orthonormal and spans about what the leading `rank` right singular
/// vectors of the rows do: (X^T X)^rounds of a start that is the same in every call. row(t) gives
/// row t in [0, n) and is called in order; `sums` holds [rank, width] floats. Rows must be shorter
/// than 1e9.
/// Cost: `rounds` passes over the rows of 2 * rank * width multiplications each.
template <class Row>
KVSLIM_HD inline void leading_subspace(index_t n, index_t width, index_t rank, index_t rounds,
                                       Row const& row, float* basis, float* sums) {
  for (index_t i = 0; i < rank; ++i)
    for (index_t c = 0; c < width; ++c) basis[i * width + c] = subspace_start(i, c);
  orthonormalize(basis, rank, width);
  for (index_t round = 0; round < rounds; ++round) {
    for (index_t i = 0; i < rank * width; ++i) sums[i] = 0.0f;
    for (index_t t = 0; t < n; ++t) add_projections(row(t), basis, rank, width, sums);
    float const share = n > 0 ? 1.0f / static_cast<float>(n) : 0.0f;  // keeps squares finite
    for (index_t i = 0; i < rank * width; ++i) basis[i] = sums[i] * share;
    orthonormalize(basis, rank, width);
  }
}

}  // namespace ops

KVSLIM_END_NAMESPACE
