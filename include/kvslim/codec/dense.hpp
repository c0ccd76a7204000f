// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Exact storage: what dense is made of, and the tail of other codecs.

#include <kvslim/core/codec.hpp>
#include <kvslim/isa/convert.hpp>

KVSLIM_BEGIN_NAMESPACE

/// K as T in tiles of 16 tokens. Byte layout of a block: T[dim][16]: channel d of token t at
/// element d * 16 + t, so that one load advances 16 tokens and needs no horizontal sum.
template <element T>
struct dense_key {
  using tail_type = T;
  static constexpr index_t tile = 16;

  [[nodiscard]] KVSLIM_HD status check(index_t) const noexcept { return {}; }
  [[nodiscard]] KVSLIM_HD constexpr index_t block_tokens() const noexcept { return tile; }
  [[nodiscard]] KVSLIM_HD constexpr index_t block_bytes(index_t dim) const noexcept {
    return tile * dim * static_cast<index_t>(sizeof(T));
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t coded(index_t tokens) const noexcept { return tokens; }
  [[nodiscard]] KVSLIM_HD constexpr index_t tail_tokens() const noexcept { return 0; }
  [[nodiscard]] KVSLIM_HD constexpr bool whole_blocks() const noexcept { return false; }

  KVSLIM_HD void encode(float const* rows, block_run const& run, std::byte* block) const noexcept {
    auto* const out = reinterpret_cast<T*>(block);
    if (run.n == tile) {
      for (index_t d = 0; d < run.dim; ++d) {
        float x[tile];
        for (index_t i = 0; i < tile; ++i) x[i] = rows[i * run.dim + d];
        detail::narrow16(x, out + d * tile);
      }
      return;
    }
    for (index_t i = 0; i < run.n; ++i)
      for (index_t d = 0; d < run.dim; ++d)
        out[d * tile + run.first + i] = from_float<T>(rows[i * run.dim + d]);
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, block_run const& run,
                                       index_t d) const noexcept {
    return to_float(reinterpret_cast<T const*>(block)[d * tile + run.first]);
  }
  KVSLIM_HD void dot(std::byte const* block, block_run const& run, float const* q, index_t heads,
                     float* scores) const noexcept {
    index_t const dim = run.dim;
    for (index_t done = 0; done < run.n;) {
      index_t const t0 = (run.first + done) % tile, n = detail::min(run.n - done, tile - t0);
      auto const* const in =
          reinterpret_cast<T const*>(block) + (run.first + done) / tile * tile * dim;
      detail::by_heads(heads, [&](auto count, index_t h0) {
        constexpr index_t m = decltype(count)::value;
        float sum[m][tile] = {};
        for (index_t d = 0; d < dim; ++d) {
          float k[tile];
          detail::widen16(in + d * tile, k);
          for (index_t h = 0; h < m; ++h)
            for (index_t t = 0; t < tile; ++t) sum[h][t] += q[(h0 + h) * dim + d] * k[t];
        }
        for (index_t h = 0; h < m; ++h)
          for (index_t i = 0; i < n; ++i)
            scores[(h0 + h) * run_tokens + done + i] += sum[h][t0 + i];
      });
      done += n;
    }
  }
};

/// V as T, token after token. Byte layout of a block: T[dim].
template <element T>
struct dense_value {
  using tail_type = T;

  [[nodiscard]] KVSLIM_HD status check(index_t) const noexcept { return {}; }
  [[nodiscard]] KVSLIM_HD constexpr index_t block_tokens() const noexcept { return 1; }
  [[nodiscard]] KVSLIM_HD constexpr index_t block_bytes(index_t dim) const noexcept {
    return dim * static_cast<index_t>(sizeof(T));
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t coded(index_t tokens) const noexcept { return tokens; }
  [[nodiscard]] KVSLIM_HD constexpr index_t tail_tokens() const noexcept { return 0; }
  [[nodiscard]] KVSLIM_HD constexpr bool whole_blocks() const noexcept { return false; }

  KVSLIM_HD void encode(float const* rows, block_run const& run, std::byte* block) const noexcept {
    auto* const out = reinterpret_cast<T*>(block);
    index_t d = 0;
    for (; d + 16 <= run.dim; d += 16) detail::narrow16(rows + d, out + d);
    for (; d < run.dim; ++d) out[d] = from_float<T>(rows[d]);
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, block_run const&,
                                       index_t d) const noexcept {
    return to_float(reinterpret_cast<T const*>(block)[d]);
  }
  KVSLIM_HD void accumulate(std::byte const* block, block_run const& run, float const* p,
                            index_t heads, float* out) const noexcept {
    index_t const dim = run.dim, n = run.n;
    auto const* const in = reinterpret_cast<T const*>(block) + run.first * dim;
    constexpr index_t chunk = 32;
    index_t d = 0;
    for (; d + chunk <= dim; d += chunk)
      detail::by_heads(heads, [&](auto count, index_t h0) {
        constexpr index_t m = decltype(count)::value;
        float sum[m][chunk] = {};
        for (index_t t = 0; t < n; ++t) {
          float v[chunk];
          detail::widen16(in + t * dim + d, v);
          detail::widen16(in + t * dim + d + 16, v + 16);
          for (index_t h = 0; h < m; ++h)
            for (index_t i = 0; i < chunk; ++i) sum[h][i] += p[(h0 + h) * run_tokens + t] * v[i];
        }
        for (index_t h = 0; h < m; ++h)
          for (index_t i = 0; i < chunk; ++i) out[(h0 + h) * dim + d + i] += sum[h][i];
      });
    for (; d < dim; ++d)
      for (index_t h = 0; h < heads; ++h)
        for (index_t t = 0; t < n; ++t)
          out[h * dim + d] += p[h * run_tokens + t] * to_float(in[t * dim + d]);
  }
};

static_assert(key_codec<dense_key<f16>> && value_codec<dense_value<f16>>);

KVSLIM_END_NAMESPACE
