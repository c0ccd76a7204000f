// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/channel_codes.hpp>

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
            .block_bytes = coded(dim).bytes(),
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
    float* const row = scratch;
    detail::channel_ranges ranges{row + dim, row + 2 * dim, dim};
    for (index_t t = 0; t < n; ++t) {
      read(index_t{0}, t, row);
      ranges.add(row);
    }
    ranges.store(Bits, rounding::precise, detail::parameters_at<Param>(state, dim));
  }
  KVSLIM_HD void encode(float const* rows, site const& at, std::byte* block) const noexcept {
    auto const stored = parameters(at);
    for (index_t i = 0; i < at.n; ++i)
      for (index_t d = 0; d < at.dim; ++d)
        coded(at.dim).put(
            detail::codes_of(block), at.first + i, d,
            detail::encode_affine(rows[i * at.dim + d], stored[d], Bits, rounding::precise));
  }
  [[nodiscard]] KVSLIM_HD std::uint32_t code(std::byte const* block, site const& at,
                                             index_t d) const noexcept {
    return coded(at.dim).get(detail::codes_of(block), at.first, d);
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, site const& at,
                                       index_t d) const noexcept {
    return parameters(at)[d].decode(code(block, at, d));
  }
  KVSLIM_HD void dot(std::byte const* block, site const& at, float const* q, index_t heads,
                     float* scores) const noexcept {
    detail::dot_by_channels<Bits>(detail::codes_of(block), parameters(at), at, q, heads, scores);
  }

 private:
  template <class>
  friend struct warp_codec;
  static constexpr index_t block_tokens = detail::unit_tokens;
  static constexpr float unknown = detail::channel_ranges::unknown;

  [[nodiscard]] static KVSLIM_HD constexpr auto coded(index_t dim) noexcept {
    return detail::key_run<Bits>(dim);
  }
  [[nodiscard]] static KVSLIM_HD auto parameters(site const& at) noexcept {
    return detail::parameters_at<Param>(at.state, at.dim);
  }
};

static_assert(key_codec<prompt_channel_key<4>> &&
              detail::check_codec<prompt_channel_key<4>>::value);

KVSLIM_END_NAMESPACE
