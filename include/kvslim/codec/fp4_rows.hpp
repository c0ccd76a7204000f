// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Rows of 4-bit floats in blocks, MXFP4 or NVFP4, byte for byte as ggml writes them.

#include <kvslim/codec/form.hpp>
#include <kvslim/codec/fp4_block.hpp>
#include <kvslim/isa/attend_kernels.hpp>
#include <kvslim/isa/lanes.hpp>

KVSLIM_BEGIN_NAMESPACE

/// K or V as 4-bit floats, token after token, with an exact tail of `residual` tokens.
///
/// Byte layout of a block: one row as in codec/fp4_block.hpp. A value is e2m1's times its block's
/// scale (times `scale`, nvfp4 only). Bits for each element: 4.25 (mxfp4) or 4.5 (nvfp4).
///
/// Requires: head_dim a multiple of 32, nvfp4 of 16 (invalid_shape); residual between 0 and 2^20,
/// scale between 2^-60 and 2^60, of mxfp4 1 (invalid_option); nvfp4: magnitudes up to 2688 * scale
/// (non_finite). Error: half the distance of e2m1's neighbours, which is at most the block's scale;
/// mxfp4's scale reaches 6 of 8, so that the largest of a block may lose a quarter. Source:
/// quant/fp4.hpp.
template <fp4_block Type, element Tail = f16>
struct fp4_rows {
  using tail_type = Tail;
  static constexpr codec_traits traits{
      .form = form_id{static_cast<std::uint32_t>(detail::form_kind::fp4_rows) << 16 |
                      static_cast<std::uint32_t>(Type) << 8 | detail::element_number<Tail>()},
      .rewrites = true};

  index_t residual = 0;
  fp4_rounding rounding = fp4_rounding::ggml;
  float scale = 1.0f;  ///< of all tokens

  [[nodiscard]] KVSLIM_HD constexpr status check(index_t dim) const noexcept {
    if (auto const s = check_options(); !s) return s;
    if (dim % (format::nv ? 16 : 32) != 0)
      return detail::fail(errc::invalid_shape,
                          "kvslim: mxfp4 needs head_dim to be a multiple of 32, nvfp4 of 16");
    return detail::check_channels(dim);
  }
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes sizes(index_t dim, index_t) const noexcept {
    return {.block_tokens = 1, .block_bytes = row_bytes(dim), .keep_exact = residual};
  }
  [[nodiscard]] KVSLIM_HD constexpr float limit() const noexcept {
    constexpr float tail = largest_finite<Tail>();
    float const mine = format::nv ? 2688.0f * scale : tail;
    return mine < tail ? mine : tail;
  }
  [[nodiscard]] constexpr form written() const noexcept {
    return {traits.form.value,
            {static_cast<std::uint32_t>(residual), static_cast<std::uint32_t>(rounding),
             detail::bit_cast<std::uint32_t>(scale)}};
  }
  [[nodiscard]] static constexpr status read(form const& f, fp4_rows& out) noexcept {
    if (!detail::is_form(f, traits.form, 3) || f.words[1] > 1) return detail::foreign_form();
    fp4_rows const found{f.words[0], static_cast<fp4_rounding>(f.words[1]),
                         detail::bit_cast<float>(f.words[2])};
    if (!found.check_options()) return detail::foreign_form();
    out = found;
    return {};
  }

  /// Bytes of one head's row.
  [[nodiscard]] static KVSLIM_HD constexpr index_t row_bytes(index_t dim) noexcept {
    return dim / format::scaled + dim / 2;
  }
  KVSLIM_HD void encode(float const* rows, site const& at, std::byte* block) const noexcept {
    for (index_t i = 0; i < at.n; ++i)
      detail::encode_fp4<Type>(rows + i * at.dim, at.dim, scale, rounding,
                               block + i * row_bytes(at.dim));
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, site const& at,
                                       index_t d) const noexcept {
    float const x = detail::fp4_value<Type>(block, d, at.dim);
    return format::nv ? x * scale : x;
  }
  KVSLIM_HD void dot(std::byte const* block, site const& at, float const* q, index_t heads,
                     float* scores) const noexcept {
    if (scale == 1.0f) return dot_unscaled(block, at, q, heads, scores);
    for (index_t h0 = 0; h0 < heads; h0 += run_heads) {
      index_t const m = detail::min(heads - h0, run_heads);
      detail::local<float, run_heads* run_tokens> sums = {};
      dot_unscaled(block, at, q + h0 * at.dim, m, sums);
      for (index_t h = 0; h < m; ++h)
        for (index_t i = 0; i < at.n; ++i)
          scores[(h0 + h) * run_tokens + i] += sums[h * run_tokens + i] * scale;
    }
  }
  KVSLIM_HD void accumulate(std::byte const* block, site const& at, float const* p, index_t heads,
                            float* out) const noexcept {
    if (scale == 1.0f) return add_unscaled(block, at, p, heads, out);
    for (index_t h0 = 0; h0 < heads; h0 += run_heads) {
      index_t const m = detail::min(heads - h0, run_heads);
      detail::local<float, run_heads * run_tokens> weights;
      for (index_t h = 0; h < m; ++h)
        for (index_t i = 0; i < at.n; ++i)
          weights[h * run_tokens + i] = p[(h0 + h) * run_tokens + i] * scale;
      add_unscaled(block, at, weights, m, out + h0 * at.dim);
    }
  }

 private:
  using format = detail::fp4_format<Type>;
  static constexpr index_t piece = detail::fp4_piece;

  [[nodiscard]] KVSLIM_HD constexpr status check_options() const noexcept {
    constexpr float least = 8.6736174e-19f, most = 1.1529215e18f;  // 2^-60 and 2^60
    if (!(format::nv ? scale >= least && scale <= most : scale == 1.0f))
      return detail::fail(errc::invalid_option,
                          "kvslim: nvfp4 needs a scale between 2^-60 and 2^60, mxfp4 has none");
    if (rounding != fp4_rounding::ggml && rounding != fp4_rounding::even)
      return detail::fail(errc::invalid_option, "kvslim: fp4 rounds as ggml or to even");
    return detail::check_residual(residual);
  }
  KVSLIM_HD void dot_unscaled(std::byte const* block, site const& at, float const* q, index_t heads,
                              float* scores) const noexcept {
    index_t const dim = at.dim, bytes = row_bytes(dim);
    if (dim % format::channels == 0 && detail::dot_rows<format>(block, bytes, at, q, heads, scores))
      return;
    detail::by_heads(heads, [&](auto count, index_t h0) {
      constexpr index_t n = decltype(count)::value;
      for (index_t i = 0; i < at.n; ++i) {
        // Sixteen sums side by side, then their sum by halves.
        detail::local<float, n, piece> sum = {};
        for (index_t d = 0; d < dim; d += piece) {
          detail::local<float, piece> x;
          detail::load_fp4<Type>(block + i * bytes, d / piece, dim, x);
          for (index_t h = 0; h < n; ++h)
            for (index_t c = 0; c < piece; ++c) sum[h][c] += q[(h0 + h) * dim + d + c] * x[c];
        }
        for (index_t h = 0; h < n; ++h) {
          for (index_t half = piece / 2; half > 0; half /= 2)
            for (index_t c = 0; c < half; ++c) sum[h][c] += sum[h][half + c];
          scores[(h0 + h) * run_tokens + i] += sum[h][0];
        }
      }
    });
  }
  KVSLIM_HD void add_unscaled(std::byte const* block, site const& at, float const* p, index_t heads,
                              float* out) const noexcept {
    index_t const dim = at.dim, bytes = row_bytes(dim);
    if (dim % format::channels == 0 && detail::add_rows<format>(block, bytes, at, p, heads, out))
      return;
    for (index_t d = 0; d < dim; d += piece)
      detail::by_heads(heads, [&](auto count, index_t h0) {
        constexpr index_t n = decltype(count)::value;
        detail::lane_sums<n, piece> sums;
        for (index_t i = 0; i < at.n; ++i) {
          detail::local<float, piece> x;
          detail::load_fp4<Type>(block + i * bytes, d / piece, dim, x);
          sums.add(x, [&](index_t h) { return p[(h0 + h) * run_tokens + i]; });
        }
        detail::local<float, n, piece> sum;
        sums.store(sum);
        for (index_t h = 0; h < n; ++h)
          for (index_t c = 0; c < piece; ++c) out[(h0 + h) * dim + d + c] += sum[h][c];
      });
  }
};

static_assert(key_codec<fp4_rows<fp4_block::mxfp4>> && value_codec<fp4_rows<fp4_block::nvfp4>> &&
              detail::check_codec<fp4_rows<fp4_block::nvfp4>>::value);

KVSLIM_END_NAMESPACE
