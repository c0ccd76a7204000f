// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Exact storage: what dense is made of, and the tail of other codecs.

#include <kvslim/codec/form.hpp>
#include <kvslim/isa/attend_kernels.hpp>
#include <kvslim/isa/convert.hpp>
#include <kvslim/isa/encode_kernels.hpp>
#include <kvslim/isa/lanes.hpp>

KVSLIM_BEGIN_NAMESPACE

/// K as T in tiles of 16 tokens. Byte layout of a block: T[dim][16]: channel d of token t at
/// element d * 16 + t, so that one load advances 16 tokens and needs no horizontal sum.
template <element T>
struct dense_key {
  using tail_type = T;
  static constexpr index_t tile = 16;
  static constexpr codec_traits traits{.form = detail::dense_form<T>(detail::form_kind::dense_key),
                                       .rewrites = true,
                                       .encodes_stored = true,
                                       .long_runs = true};

  [[nodiscard]] KVSLIM_HD constexpr status check(index_t dim) const noexcept {
    return detail::check_channels(dim);
  }
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes sizes(index_t dim, index_t) const noexcept {
    return {.block_tokens = tile, .block_bytes = tile * dim * static_cast<index_t>(sizeof(T))};
  }
  [[nodiscard]] KVSLIM_HD constexpr float limit() const noexcept { return largest_finite<T>(); }
  [[nodiscard]] constexpr form written() const noexcept { return {traits.form.value}; }
  [[nodiscard]] static constexpr status read(form const& f, dense_key& out) noexcept {
    if (!detail::is_form(f, traits.form, 0)) return detail::foreign_form();
    out = {};
    return {};
  }

  /// Stores rows of T that lie side by side; false where no kernel does, and nothing was written.
  template <element From>
  [[nodiscard]] KVSLIM_HD bool encode_stored(From const* rows, site const& at,
                                             std::byte* block) const noexcept {
    if constexpr (std::same_as<From, T>)
      return at.n == tile && detail::turn_tile(rows, at, detail::array_at<T>(block));
    else
      return false;
  }
  KVSLIM_HD void encode(float const* rows, site const& at, std::byte* block) const noexcept {
    auto* const out = detail::array_at<T>(block);
    if (at.n == tile) {
      if (detail::encode_tile(rows, at.dim, out)) return;
      for (index_t d = 0; d < at.dim; ++d) {
        detail::local<float, tile> x;
        for (index_t i = 0; i < tile; ++i) x[i] = rows[i * at.dim + d];
        detail::narrow16(x, out + d * tile);
      }
      return;
    }
    for (index_t i = 0; i < at.n; ++i)
      for (index_t d = 0; d < at.dim; d += tile) {
        index_t const n = detail::min(tile, at.dim - d);
        float const* const in = rows + i * at.dim + d;
        detail::local<T, tile> x;
        if (!detail::narrow_run(in, n, x + 0))
          for (index_t c = 0; c < n; ++c) x[c] = from_float<T>(in[c]);
        for (index_t c = 0; c < n; ++c) out[(d + c) * tile + at.first + i] = x[c];
      }
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, site const& at,
                                       index_t d) const noexcept {
    return to_float(detail::array_at<T>(block)[d * tile + at.first]);
  }
  KVSLIM_HD void dot(std::byte const* block, site const& at, float const* q, index_t heads,
                     float* scores) const noexcept {
    if (detail::dot_tiles<T>(block, at, q, heads, scores)) return;
    index_t const dim = at.dim;
    for (index_t done = 0; done < at.n;) {
      index_t const t0 = (at.first + done) % tile, n = detail::min(at.n - done, tile - t0);
      auto const* const in = detail::array_at<T>(block) + (at.first + done) / tile * tile * dim;
      float* const to = scores + done / run_tokens * at.apart + done % run_tokens;
      detail::by_heads(heads, [&](auto count, index_t h0) {
        constexpr index_t m = decltype(count)::value;
        detail::local<float, m, tile> sum;
        dot_tile<m>(in, q + h0 * dim, dim, sum);
        for (index_t h = 0; h < m; ++h)
          for (index_t i = 0; i < n; ++i) to[(h0 + h) * run_tokens + i] += sum[h][t0 + i];
      });
      done += n;
    }
  }

 private:
  /// sum[h][t] = q[h] . k[t]. The channels are summed in pieces, which keeps rounding errors apart.
  template <index_t Heads>
  static KVSLIM_HD void dot_tile(T const* in, float const* q, index_t dim,
                                 detail::local<float, Heads, tile>& sum) noexcept {
    constexpr index_t piece = 32;
    detail::lane_sums<Heads, tile> total;
    for (index_t begin = 0; begin < dim; begin += piece) {
      detail::lane_sums<Heads, tile> part;
      index_t const end = detail::min(dim, begin + piece);
      for (index_t d = begin; d < end; ++d) {
        detail::local<float, tile> k;
        detail::widen16(in + d * tile, k);
        part.add(k, [&](index_t h) { return q[h * dim + d]; });
      }
      total.add(part);
    }
    total.store(sum);
  }
};

namespace detail {
template <class Codec>
inline constexpr bool is_dense_key = false;
template <element T>
inline constexpr bool is_dense_key<dense_key<T>> = true;
}  // namespace detail

/// V as T, token after token. Byte layout of a block: T[dim].
template <element T>
struct dense_value {
  using tail_type = T;
  static constexpr codec_traits traits{
      .form = detail::dense_form<T>(detail::form_kind::dense_value),
      .rewrites = true,
      .encodes_runs = true,
      .encodes_stored = true,
      .long_runs = true};

  [[nodiscard]] KVSLIM_HD constexpr status check(index_t dim) const noexcept {
    return detail::check_channels(dim);
  }
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes sizes(index_t dim, index_t) const noexcept {
    return {.block_tokens = 1, .block_bytes = dim * static_cast<index_t>(sizeof(T))};
  }
  [[nodiscard]] KVSLIM_HD constexpr float limit() const noexcept { return largest_finite<T>(); }
  [[nodiscard]] constexpr form written() const noexcept { return {traits.form.value}; }
  [[nodiscard]] static constexpr status read(form const& f, dense_value& out) noexcept {
    if (!detail::is_form(f, traits.form, 0)) return detail::foreign_form();
    out = {};
    return {};
  }

  /// Stores rows of T that lie side by side; false where no kernel does, and nothing was written.
  template <element From>
  [[nodiscard]] KVSLIM_HD bool encode_stored(From const* rows, site const& at,
                                             std::byte* block) const noexcept {
    if constexpr (std::same_as<From, T>)
      return detail::copy_rows(rows, at, block + at.first * sizes(at.dim, 0).block_bytes);
    else
      return false;
  }
  KVSLIM_HD void encode(float const* rows, site const& at, std::byte* block) const noexcept {
    auto* const out = detail::array_at<T>(block);
    index_t const n = at.n * at.dim, whole = n - n % 16;
    if (detail::narrow_run(rows, n, out)) return;
    for (index_t d = 0; d < whole; d += 16) detail::narrow16(rows + d, out + d);
    for (index_t d = whole; d < n; ++d) out[d] = from_float<T>(rows[d]);
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, site const&,
                                       index_t d) const noexcept {
    return to_float(detail::array_at<T>(block)[d]);
  }
  KVSLIM_HD void accumulate(std::byte const* block, site const& at, float const* p, index_t heads,
                            float* out) const noexcept {
    if (detail::accumulate_rows<T>(block, at, p, heads, out)) return;
    site run = at;
    for (index_t begin = 0; begin < at.n; begin += run_tokens, run.first += run_tokens) {
      run.n = detail::min(at.n - begin, run_tokens);
      add_run(block, run, p + begin / run_tokens * at.apart, heads, out);
    }
  }

 private:
  /// What accumulate does for up to run_tokens tokens, by plain loops.
  static KVSLIM_HD void add_run(std::byte const* block, site const& at, float const* p,
                                index_t heads, float* out) noexcept {
    index_t d = 0;
    for (; d + 32 <= at.dim; d += 32)
      detail::by_heads(heads, [&](auto count, index_t h) {
        constexpr index_t m = decltype(count)::value;
        // Eight registers of sums leave room for what is added to them.
        if constexpr (m * 32 <= 8 * detail::lanes::width || detail::lanes::width == 1) {
          add_channels<m, 32>(block, at, d, p + h * run_tokens, out + h * at.dim);
        } else {
          add_channels<m, 16>(block, at, d, p + h * run_tokens, out + h * at.dim);
          add_channels<m, 16>(block, at, d + 16, p + h * run_tokens, out + h * at.dim);
        }
      });
    for (; d + 16 <= at.dim; d += 16)
      detail::by_heads(heads, [&](auto count, index_t h) {
        add_channels<decltype(count)::value, 16>(block, at, d, p + h * run_tokens,
                                                 out + h * at.dim);
      });
    auto const* const in = detail::array_at<T>(block) + at.first * at.dim;
    for (; d < at.dim; ++d)
      for (index_t h = 0; h < heads; ++h) {
        float sum = 0.0f;
        for (index_t t = 0; t < at.n; ++t)
          sum += p[h * run_tokens + t] * to_float(in[t * at.dim + d]);
        out[h * at.dim + d] += sum;
      }
  }
  /// Channels [d, d + N) of what accumulate adds to `Heads` heads.
  template <index_t Heads, index_t N>
  static KVSLIM_HD void add_channels(std::byte const* block, site const& at, index_t d,
                                     float const* p, float* out) noexcept {
    auto const* const in = detail::array_at<T>(block) + at.first * at.dim + d;
    detail::lane_sums<Heads, N> sums;
    for (index_t t = 0; t < at.n; ++t) {
      detail::local<float, N> v;
      detail::widen_all<N>(in + t * at.dim, v);
      sums.add(v, [&](index_t h) { return p[h * run_tokens + t]; });
    }
    detail::local<float, Heads, N> sum;
    sums.store(sum);
    for (index_t h = 0; h < Heads; ++h)
      for (index_t i = 0; i < N; ++i) out[h * at.dim + d + i] += sum[h][i];
  }
};

static_assert(key_codec<dense_key<f16>> && detail::check_codec<dense_key<f16>>::value);
static_assert(value_codec<dense_value<f16>> && detail::check_codec<dense_value<f16>>::value);

KVSLIM_END_NAMESPACE
