// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/planar.hpp>

KVSLIM_BEGIN_NAMESPACE

/// K quantized per token over all of head_dim, with an exact tail of `residual` tokens.
///
/// Byte layout of a block of 32 tokens: codes (32 * dim * Bits / 8 bytes), Param scale[32], Param
/// low[32]. Requires: residual between 0 and 2^20; dim a multiple of 4 (invalid_option,
/// invalid_shape). Error: codec/affine.hpp.
template <int Bits, element Tail = f16, affine_parameter Param = f16>
struct token_key {
  using tail_type = Tail;
  static constexpr codec_traits traits{
      .form = detail::affine_form<Tail, Param>(detail::form_kind::token_key, Bits),
      .rewrites = true,
      .encodes_stored = true,
      .long_runs = true};

  index_t residual = 0;

  [[nodiscard]] KVSLIM_HD constexpr status check(index_t dim) const noexcept {
    if (auto const result = detail::check_residual(residual); !result.ok()) return result;
    return detail::check_key_channels(dim);
  }
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes sizes(index_t dim, index_t) const noexcept {
    constexpr index_t parameter_bytes = detail::parameter_array<Param>::bytes(block_tokens);
    return {.block_tokens = block_tokens,
            .block_bytes = coded(dim).bytes() + parameter_bytes,
            .keep_exact = residual};
  }
  [[nodiscard]] KVSLIM_HD constexpr float limit() const noexcept {
    return detail::largest_affine<Tail, Param>(Bits, rounding::precise);
  }
  [[nodiscard]] constexpr form written() const noexcept {
    return {traits.form.value, {static_cast<std::uint32_t>(residual)}};
  }
  [[nodiscard]] static constexpr status read(form const& f, token_key& out) noexcept {
    if (!detail::is_form(f, traits.form, 1)) return detail::foreign_form();
    token_key const found{f.words[0]};
    if (!detail::check_residual(found.residual).ok()) return detail::foreign_form();
    out = found;
    return {};
  }

  /// Codes rows of T that lie side by side, where a kernel does; those of T but float hold finite
  /// values. False: nothing was written.
  template <element T>
  [[nodiscard]] KVSLIM_HD bool encode_stored(T const* rows, site const& at,
                                             std::byte* block) const noexcept {
    auto const stored = parameters(block, at.dim);
    return at.n == block_tokens &&
           detail::encode_tokens<Bits>(rows, at, detail::codes_of(block), stored.scale, stored.low);
  }
  KVSLIM_HD void encode(float const* rows, site const& at, std::byte* block) const noexcept {
    index_t const dim = at.dim;
    auto* const codes = detail::codes_of(block);
    auto const stored = parameters(block, dim);
    bool const whole = at.n == block_tokens;
    if (whole && encode_stored(rows, at, block)) return;
    for (index_t i = 0; i < at.n; ++i) {
      float const* const x = rows + i * dim;
      auto const a =
          detail::fit_affine<Param>(ops::group_range(x, dim, 1), Bits, rounding::precise);
      stored.set(at.first + i, a);
      for (index_t d = 0; d < dim && !whole; ++d)
        coded(dim).put(codes, at.first + i, d,
                       detail::encode_affine(x[d], a, Bits, rounding::precise));
    }
    if (!whole) return;
    auto const params = [&](index_t t, index_t, auto channels, float* scale, float* low) {
      float const token_scale = detail::widen(stored.scale[t]),
                  token_low = detail::widen(stored.low[t]);
      for (index_t j = 0; j < decltype(channels)::value; ++j) {
        scale[j] = token_scale;
        low[j] = token_low;
      }
    };
    detail::encode_key_run<Bits>(rows, dim, rounding::precise, params, codes);
  }
  [[nodiscard]] KVSLIM_HD std::uint32_t code(std::byte const* block, site const& at,
                                             index_t d) const noexcept {
    return coded(at.dim).get(detail::codes_of(block), at.first, d);
  }
  /// How a block's codes lie.
  [[nodiscard]] static KVSLIM_HD constexpr auto coded(index_t dim) noexcept {
    return detail::key_run<Bits>(dim);
  }
  /// The parameters of all tokens of a block.
  template <class Byte>
  [[nodiscard]] KVSLIM_HD auto parameters(Byte* block, index_t dim) const noexcept {
    return detail::parameters_at<Param>(block + coded(dim).bytes(), block_tokens);
  }
  /// The parameters of one value.
  [[nodiscard]] KVSLIM_HD affine<Param> parameters(std::byte const* block, site const& at,
                                                   index_t) const noexcept {
    return parameters(block, at.dim)[at.first];
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, site const& at,
                                       index_t d) const noexcept {
    return parameters(block, at, d).decode(code(block, at, d));
  }
  KVSLIM_HD void dot(std::byte const* block, site const& at, float const* q, index_t heads,
                     float* scores) const noexcept {
    auto const all = parameters(block, at.dim);
    index_t const bytes = sizes(at.dim, 0).block_bytes;
    if (detail::dot_tokens<Bits>(
            detail::key_blocks{detail::codes_of(block), all.scale, all.low, bytes}, at, q, heads,
            scores))
      return;
    site run = at;
    for (index_t i = 0; i < at.n; i += block_tokens, block += bytes, scores += at.apart) {
      run.n = detail::min(at.n - i, block_tokens);
      dot_run(block, run, q, heads, scores);
    }
  }

 private:
  static constexpr index_t block_tokens = detail::unit_tokens;

  /// What dot does for one block, by plain loops.
  KVSLIM_HD void dot_run(std::byte const* block, site const& at, float const* q, index_t heads,
                         float* scores) const noexcept {
    index_t const dim = at.dim;
    auto const stored = parameters(block, dim).from(at.first);
    detail::by_heads(heads, [&](auto count, index_t h0) {
      constexpr index_t n = decltype(count)::value;
      float const* const heads_q = q + h0 * dim;
      detail::local<float, n> total;
      detail::local<float, n, block_tokens> sums;
      for (index_t h = 0; h < n; ++h)
        total[h] = detail::sum_of(dim, [&](index_t d) { return heads_q[h * dim + d]; });
      detail::dot_codes<Bits, n>(
          detail::codes_of(block), dim, heads_q, [](index_t) { return 1.0f; }, sums);
      for (index_t i = 0; i < at.n; ++i) {
        float const scale = detail::widen(stored.scale[i]), low = detail::widen(stored.low[i]);
        for (index_t h = 0; h < n; ++h)
          scores[(h0 + h) * run_tokens + i] += sums[h][at.first + i] * scale + total[h] * low;
      }
    });
  }
};

static_assert(key_codec<token_key<8>> && detail::check_codec<token_key<8>>::value);

KVSLIM_END_NAMESPACE
