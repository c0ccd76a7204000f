// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// K or V in floats of 8 bits times a scale: of a token, of a group of its channels, or one for all.
// Attention reads the codes as it reads dense ones; scales join scores and weights.

#include <kvslim/codec/dense.hpp>

KVSLIM_BEGIN_NAMESPACE

/// K (`Keys`) or V as T (e4m3 or e5m2). A value is code * scale in float; scale is the largest
/// magnitude of the token's group / T's largest value, or `scale` where that is given.
///
/// Byte layout of a block of 32 tokens, groups g of G channels: K `T code[g][2][G][16]` (tiles of
/// 16 tokens, dense_key's), V `T code[g][32][G]`; then, unless the scale is given, `float
/// scale[g][32]`. Bits for each element: 8 + 32 / G, 8 where the scale is given.
///
/// Requires: head_dim a multiple of group (invalid_shape); residual between 0 and 2^20, group not
/// negative, no group beside a given scale, which is 0 or between 2^-100 and 2^100
/// (invalid_option); magnitudes within T's largest value times a given scale (non_finite). Error:
/// half a step of T, 2^-4 (e4m3) or 2^-3 (e5m2) of a value, or of the smallest normal one times
/// the scale where the value is less. Cost: encode one read and one write.
template <bool Keys, element T, element Tail = f16>
struct fp8_rows {
  static_assert(std::same_as<T, e4m3> || std::same_as<T, e5m2>, "kvslim: fp8 stores e4m3 or e5m2");
  using tail_type = Tail;
  static constexpr codec_traits traits{
      .form = form_id{detail::dense_form<T>(Keys ? detail::form_kind::fp8_key
                                                 : detail::form_kind::fp8_value)
                          .value |
                      detail::element_number<Tail>() << 4},
      .rewrites = true};

  index_t residual = 0;
  index_t group = 0;   ///< channels that share a scale; 0: all of a token's
  float scale = 0.0f;  ///< of all tokens; 0: each has its own

  [[nodiscard]] KVSLIM_HD constexpr status check(index_t dim) const noexcept {
    if (auto const s = check_options(); !s) return s;
    if (group > 0 && dim % group != 0)
      return detail::fail(errc::invalid_shape,
                          "kvslim: fp8 needs head_dim to be a multiple of its group");
    return detail::check_channels(dim);
  }
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes sizes(index_t dim, index_t) const noexcept {
    index_t const scales = scale > 0.0f ? 0 : dim / width(dim);
    return {.block_tokens = block_tokens,
            .block_bytes = block_tokens * (dim + 4 * scales),
            .keep_exact = residual};
  }
  [[nodiscard]] KVSLIM_HD constexpr float limit() const noexcept {
    constexpr float tail = largest_finite<Tail>();
    float const mine = scale > 0.0f ? most * scale : tail;
    return mine < tail ? mine : tail;
  }
  [[nodiscard]] constexpr form written() const noexcept {
    return {traits.form.value,
            {static_cast<std::uint32_t>(residual), static_cast<std::uint32_t>(group),
             detail::bit_cast<std::uint32_t>(scale)}};
  }
  [[nodiscard]] static constexpr status read(form const& f, fp8_rows& out) noexcept {
    if (!detail::is_form(f, traits.form, 3)) return detail::foreign_form();
    fp8_rows const found{f.words[0], f.words[1], detail::bit_cast<float>(f.words[2])};
    if (!found.check_options()) return detail::foreign_form();
    out = found;
    return {};
  }

  KVSLIM_HD void encode(float const* rows, site const& at, std::byte* block) const noexcept {
    index_t const n = width(at.dim);
    for (index_t i = 0; i < at.n; ++i)
      for (index_t g = 0; g < at.dim / n; ++g) {
        float const* const x = rows + i * at.dim + g * n;
        float high = 0.0f;
        if (scale == 0.0f && !detail::largest_size(x, n, high))
          for (index_t c = 0; c < n; ++c) {
            float const size = x[c] < 0.0f ? -x[c] : x[c];
            high = size > high ? size : high;
          }
        float const s = scale_for(high);
        if (scale == 0.0f) put_scale(block, at, i, g, s);
        for (index_t c = 0; c < n; c += piece) {
          index_t const m = detail::min(piece, n - c);
          auto* const out = detail::array_at<T>(block) + place(at.first + i, g * n + c, n);
          if constexpr (Keys) {  // channels lie a tile apart
            detail::local<T, piece> codes;
            narrow(x + c, m, s, codes + 0);
            for (index_t j = 0; j < m; ++j) out[j * tile] = codes[j];
          } else {
            narrow(x + c, m, s, out);
          }
        }
      }
  }
  /// Channels that have a scale together.
  [[nodiscard]] KVSLIM_HD constexpr index_t width(index_t dim) const noexcept {
    return group > 0 ? group : dim;
  }
  /// The scale of such channels, of which `high` is the largest magnitude.
  [[nodiscard]] KVSLIM_HD float scale_for(float high) const noexcept {
    if (scale > 0.0f) return scale;
    // Below it nothing is stored, whether or not subnormal floats are flushed to zero.
    return high < 8.0779357e-28f ? 0.0f : detail::divide(high, most);  // 2^-90
  }
  /// Stores it for token i of a site and its group g, and the code of one of their channels.
  static KVSLIM_HD void put_scale(std::byte* block, site const& at, index_t i, index_t g,
                                  float s) noexcept {
    scales(block, at.dim)[g * block_tokens + at.first + i] = s;
  }
  KVSLIM_HD void put(std::byte* block, site const& at, index_t i, index_t d, float x,
                     float s) const noexcept {
    detail::array_at<T>(block)[place(at.first + i, d, width(at.dim))] = code(x, s);
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, site const& at,
                                       index_t d) const noexcept {
    index_t const n = width(at.dim);
    return to_float(detail::array_at<T>(block)[place(at.first, d, n)]) *
           scale_of(block, at.dim, d / n, at.first);
  }
  KVSLIM_HD void dot(std::byte const* block, site const& at, float const* q, index_t heads,
                     float* scores) const noexcept requires Keys {
    dense_key<T> const keys{};
    each_group(at, heads, [&](site const& part, index_t g, index_t h0, index_t m) {
      detail::local<float, run_heads* run_tokens> sums = {};
      keys.dot(block + g * part.dim * block_tokens, part, q + h0 * at.dim + g * part.dim, m, sums);
      for (index_t i = 0; i < at.n; ++i) {
        float const s = scale_of(block, at.dim, g, at.first + i);
        for (index_t h = 0; h < m; ++h)
          scores[(h0 + h) * run_tokens + i] += sums[h * run_tokens + i] * s;
      }
    });
  }
  KVSLIM_HD void accumulate(std::byte const* block, site const& at, float const* p, index_t heads,
                            float* out) const noexcept requires(!Keys) {
    dense_value<T> const values{};
    each_group(at, heads, [&](site const& part, index_t g, index_t h0, index_t m) {
      detail::local<float, run_heads * run_tokens> weights;
      for (index_t i = 0; i < at.n; ++i) {
        float const s = scale_of(block, at.dim, g, at.first + i);
        for (index_t h = 0; h < m; ++h)
          weights[h * run_tokens + i] = p[(h0 + h) * run_tokens + i] * s;
      }
      values.accumulate(block + g * part.dim * block_tokens, part, weights, m,
                        out + h0 * at.dim + g * part.dim);
    });
  }

 private:
  static constexpr index_t block_tokens = 32, tile = 16, piece = 64;
  static constexpr float most = largest_finite<T>();

  [[nodiscard]] static KVSLIM_HD T code(float x, float s) noexcept {
    return s > 0.0f ? from_float<T>(detail::divide(x, s)) : T{};
  }
  static KVSLIM_HD void narrow(float const* x, index_t n, float s, T* out) noexcept {
    if (s > 0.0f && detail::narrow_quotients(x, n, s, out)) return;
    for (index_t c = 0; c < n; ++c) out[c] = code(x[c], s);
  }

  [[nodiscard]] KVSLIM_HD constexpr status check_options() const noexcept {
    if (group < 0 || group > detail::most_channels)
      return detail::fail(errc::invalid_option,
                          "kvslim: fp8's group must be between 0 and 1048576");
    bool const fits = scale >= 7.8886091e-31f && scale <= 1.2676506e30f;  // 2^-100 and 2^100
    if (!(scale == 0.0f || (fits && group == 0)))
      return detail::fail(errc::invalid_option,
                          "kvslim: fp8's scale is 0, or between 2^-100 and 2^100 without a group");
    return detail::check_residual(residual);
  }
  /// Of channel d of token t in groups of n channels.
  [[nodiscard]] static KVSLIM_HD constexpr index_t place(index_t t, index_t d, index_t n) noexcept {
    index_t const begin = d / n * n * block_tokens, c = d % n;
    return begin + (Keys ? (t / tile * n + c) * tile + t % tile : t * n + c);
  }
  [[nodiscard]] static KVSLIM_HD float* scales(std::byte* block, index_t dim) noexcept {
    return detail::array_at<float>(block + block_tokens * dim);
  }
  [[nodiscard]] KVSLIM_HD float scale_of(std::byte const* block, index_t dim, index_t g,
                                         index_t t) const noexcept {
    return scale > 0.0f ? scale
                        : detail::array_at<float>(block + block_tokens * dim)[g * block_tokens + t];
  }
  /// Calls f(site of a group's channels, group, first head, heads). Where a token has several
  /// groups, heads come one by one: their channels of a group do not lie side by side.
  template <class F>
  KVSLIM_HD void each_group(site const& at, index_t heads, F const& f) const noexcept {
    site part = at;
    part.dim = width(at.dim);
    index_t const once = part.dim == at.dim ? run_heads : 1;
    for (index_t g = 0; g < at.dim / part.dim; ++g)
      for (index_t h = 0; h < heads; h += once) f(part, g, h, detail::min(heads - h, once));
  }
};

template <element T = e4m3, element Tail = f16>
using fp8_key = fp8_rows<true, T, Tail>;
template <element T = e4m3, element Tail = f16>
using fp8_value = fp8_rows<false, T, Tail>;
static_assert(key_codec<fp8_key<>> && detail::check_codec<fp8_key<>>::value);
static_assert(value_codec<fp8_value<>> && detail::check_codec<fp8_value<>>::value);

KVSLIM_END_NAMESPACE
