// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/planar.hpp>

KVSLIM_BEGIN_NAMESPACE

/// K quantized per channel over all tokens of the prompt: a channel of a row has one scale and one
/// minimum. Later tokens are coded by them too, and cut where they lie beyond.
///
/// State: Param scale[dim], Param low[dim]. Byte layout of a block of 32 tokens: codes, dim / 4 K
/// units. Requires: head_dim a multiple of 4 (invalid_shape); residual between 0 and 2^20
/// (invalid_option). Error: codec/affine.hpp, for what lies in the prompt's range; where no token
/// of the prompt was coded the range is -16 to 16.
template <int Bits, element Tail = f16, affine_parameter Param = f16>
struct prompt_channel_key {
  using tail_type = Tail;
  static constexpr codec_traits traits{
      .form = detail::affine_form<Tail, Param>(detail::form_kind::prompt_channel_key, Bits),
      .rewrites = true,
      .fitted = true};

  index_t residual = 0;  ///< newest tokens kept exact

  [[nodiscard]] KVSLIM_HD constexpr status check(index_t dim) const noexcept {
    if (auto const s = detail::check_residual(residual); !s.ok()) return s;
    return detail::check_key_channels(dim);
  }
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes sizes(index_t dim, index_t) const noexcept {
    return {.block_tokens = block_tokens,
            .block_bytes = block_tokens * dim * Bits / 8,
            .keep_exact = residual,
            .state_bytes = detail::parameter_array<Param>::bytes(dim),
            .fit_floats = 3 * dim};
  }
  [[nodiscard]] KVSLIM_HD constexpr float limit() const noexcept {
    return detail::largest_affine<Tail, Param>(Bits, rounding::precise);
  }
  [[nodiscard]] constexpr form written() const noexcept {
    return {traits.form.value, {static_cast<std::uint32_t>(residual)}};
  }
  [[nodiscard]] static constexpr status read(form const& f, prompt_channel_key& out) noexcept {
    if (!detail::is_form(f, traits.form, 1)) return detail::foreign_form();
    prompt_channel_key const found{f.words[0]};
    if (!detail::check_residual(found.residual).ok()) return detail::foreign_form();
    out = found;
    return {};
  }

  /// The range of every channel.
  template <class Read>
  KVSLIM_HD void fit(Read const& read, index_t n, site const& at, std::byte* state,
                     float* scratch) const {
    index_t const dim = at.dim;
    float *const row = scratch, *const least = row + dim, *const most = least + dim;
    for (index_t d = 0; d < dim; ++d) {
      least[d] = -unknown;
      most[d] = unknown;
    }
    for (index_t t = 0; t < n; ++t) {
      read(index_t{0}, t, row);
      for (index_t d = 0; d < dim && t == 0; ++d) least[d] = most[d] = row[d];
      for (index_t d = 0; d < dim; ++d) ops::widen_ranges<1>(row + d, least + d, most + d);
    }
    auto const stored = detail::parameters_at<Param>(state, dim);
    for (index_t d = 0; d < dim; ++d)
      stored.set(d, detail::fit_affine<Param>({least[d], most[d]}, Bits, rounding::precise));
  }
  KVSLIM_HD void encode(float const* rows, site const& at, std::byte* block) const noexcept {
    auto const stored = parameters(at);
    for (index_t i = 0; i < at.n; ++i)
      for (index_t d = 0; d < at.dim; ++d)
        detail::put_key<Bits>(
            detail::codes_of(block), at.first + i, d, at.dim,
            detail::encode_affine(rows[i * at.dim + d], stored[d], Bits, rounding::precise));
  }
  [[nodiscard]] KVSLIM_HD std::uint32_t code(std::byte const* block, site const& at,
                                             index_t d) const noexcept {
    return detail::get_key<Bits>(detail::codes_of(block), at.first, d, at.dim);
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, site const& at,
                                       index_t d) const noexcept {
    return parameters(at)[d].decode(code(block, at, d));
  }
  KVSLIM_HD void dot(std::byte const* block, site const& at, float const* q, index_t heads,
                     float* scores) const noexcept {
    index_t const dim = at.dim;
    auto const* const codes = detail::codes_of(block);
    auto const stored = parameters(at);
    if (detail::dot_channels<Bits>(codes, stored.scale, stored.low, at, q, heads, scores)) return;
    detail::by_heads(heads, [&](auto count, index_t h0) {
      constexpr index_t n = decltype(count)::value;
      float const* const mine = q + h0 * dim;
      detail::local<float, n> base;
      detail::local<float, n, block_tokens> sums;
      for (index_t h = 0; h < n; ++h)
        base[h] = detail::sum_of(
            dim, [&](index_t d) { return mine[h * dim + d] * detail::widen(stored.low[d]); });
      detail::dot_codes<Bits, n>(
          codes, dim, mine, [&](index_t d) { return detail::widen(stored.scale[d]); }, sums);
      for (index_t h = 0; h < n; ++h)
        for (index_t i = 0; i < at.n; ++i)
          scores[(h0 + h) * run_tokens + i] += sums[h][at.first + i] + base[h];
    });
  }

 private:
  template <class>
  friend struct warp_codec;
  static constexpr index_t block_tokens = detail::unit_tokens;
  static constexpr float unknown = 16.0f;

  [[nodiscard]] static KVSLIM_HD auto parameters(site const& at) noexcept {
    return detail::parameters_at<Param>(at.state, at.dim);
  }
};

static_assert(key_codec<prompt_channel_key<4>> &&
              detail::check_codec<prompt_channel_key<4>>::value);

KVSLIM_END_NAMESPACE
