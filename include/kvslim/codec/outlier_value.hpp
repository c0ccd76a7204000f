// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/blocks.hpp>
#include <kvslim/codec/outliers.hpp>
#include <kvslim/codec/token_value.hpp>

KVSLIM_BEGIN_NAMESPACE

/// V quantized per token (codec/token_value.hpp), with the smallest and largest channels of every
/// token kept aside as f16. Codes are made of the token with its mean in their places.
///
/// Byte layout of a block of `tokens` tokens: tokens / 4 blocks of token_value, then f16
/// value[tokens][2 * each], channel[tokens][2 * each] (u8, or u16 where head_dim is above 256),
/// each = max(1, head_dim * outliers / 2), padded to 4 bytes. Requires: what token_value does, but
/// no residual there; tokens a multiple of 4, at most 1024; outliers in [0, 0.5] (invalid_option).
/// Error: that of token_value over what is left, and of f16 for what is kept aside.
template <int Bits, element Tail = f16, affine_parameter Param = f16>
struct outlier_value {
  using tail_type = Tail;
  static constexpr codec_traits traits{
      .form = detail::affine_form<Tail, Param>(detail::form_kind::outlier_value, Bits),
      .whole_blocks = true,
      .long_runs = true,
      .takes_off = true};

  token_value<Bits, Tail, Param> codes = {};
  index_t tokens = 64;
  float outliers = 0.02f;  ///< share of a token's channels, half of them at either end

  [[nodiscard]] KVSLIM_HD constexpr status check(index_t dim) const noexcept {
    if (auto const s = codes.check(dim); !s.ok()) return s;
    return check_options(dim);
  }
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes sizes(index_t dim, index_t) const noexcept {
    return {.block_tokens = tokens,
            .block_bytes = code_bytes(dim) + lists::bytes_of(tokens, each(dim), dim),
            .settle_by = tokens};
  }
  [[nodiscard]] KVSLIM_HD constexpr float limit() const noexcept {
    return detail::within_f16(codes.limit());
  }
  [[nodiscard]] constexpr form written() const noexcept {
    form f = codes.written();
    f.id = traits.form.value;
    f.words[1] = static_cast<std::uint32_t>(tokens);
    f.words[3] = detail::bit_cast<std::uint32_t>(outliers);
    return f;
  }
  [[nodiscard]] static constexpr status read(form const& f, outlier_value& out) noexcept {
    if (!detail::is_form(f, traits.form, 4)) return detail::foreign_form();
    outlier_value found{};
    form const inner{decltype(codes)::traits.form.value, {f.words[0], 0, f.words[2]}};
    if (auto const s = decltype(codes)::read(inner, found.codes); !s.ok()) return s;
    found.tokens = f.words[1];
    found.outliers = detail::bit_cast<float>(f.words[3]);
    if (!found.check_options(1).ok()) return detail::foreign_form();
    out = found;
    return {};
  }

  KVSLIM_HD void encode(float const* rows, site const& at, std::byte* block) const noexcept {
    index_t const dim = at.dim;
    detail::outlier_lists<std::byte> const aside = lists_of(block, dim);
    if (encode_rows(rows, at, aside, block)) return;
    for (index_t i = 0; i < at.n; ++i)
      encode_token(rows + i * dim, at.first + i, dim, aside, block);
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, site const& at,
                                       index_t d) const noexcept {
    auto const aside = lists_of(block, at.dim);
    index_t const i = aside.find(at.first, d);
    return i >= 0 ? aside.value(at.first, i) : decode_code(block, at.dim, at.first, d);
  }
  /// Takes what a whole block stands for off its values, rows of dim.
  KVSLIM_HD void take_off(std::byte const* block, site const& at, float* rows) const noexcept {
    index_t const dim = at.dim;
    auto const aside = lists_of(block, dim);
    if (aside.each > detail::most_aside)
      return detail::take_off_decoded(*this, block, at, tokens, rows);
    for (index_t t = 0; t < tokens; t += inner_tokens)
      aside.keep_missed(
          t, inner_tokens, [&](index_t line, index_t d) { return rows + line * dim + d; },
          [&] {
            codes.take_off(block + t / inner_tokens * inner_bytes(dim),
                           {.n = inner_tokens, .dim = dim}, rows + t * dim);
          });
  }
  KVSLIM_HD void accumulate(std::byte const* block, site const& at, float const* p, index_t heads,
                            float* out) const noexcept {
    index_t const dim = at.dim, bytes = sizes(dim, 0).block_bytes;
    detail::by_blocks(at, tokens, tokens, [&](index_t b, site const& part, index_t weights) {
      add_block(block + b * bytes, part, p + weights, heads, out);
    });
  }

  /// Outliers of a token at either end.
  [[nodiscard]] KVSLIM_HD constexpr index_t each(index_t dim) const noexcept {
    return detail::outliers_of(dim, outliers);
  }
  template <class Byte>
  [[nodiscard]] KVSLIM_HD detail::outlier_lists<Byte> lists_of(Byte* block,
                                                               index_t dim) const noexcept {
    return {block + code_bytes(dim), tokens, each(dim), dim};
  }

 private:
  template <class>
  friend struct warp_codec;
  static constexpr index_t inner_tokens = detail::unit_quad;
  using lists = detail::outlier_lists<std::byte const>;

  /// A token's list and codes.
  KVSLIM_HD void encode_token(float const* row, index_t token, index_t dim,
                              detail::outlier_lists<std::byte> const& aside,
                              std::byte* block) const noexcept {
    index_t const width = codes.width(dim), t = token % inner_tokens;
    auto const channel = [&](index_t d) { return row[d]; };
    aside.choose(token, channel);
    float const mean = detail::mean_of(dim, channel);
    auto const x = [&](index_t d) { return aside.find(token, d) >= 0 ? mean : row[d]; };
    std::byte* const inner = block + token / inner_tokens * inner_bytes(dim);
    auto const stored = codes.parameters(inner, dim).from(t * (dim / width));
    for (index_t g = 0; g < dim / width; ++g) {
      auto const range = ops::range_of(width, true, [&](index_t c) { return x(g * width + c); });
      auto const a = detail::fit_affine<Param>(range, Bits, codes.rounding);
      stored.set(g, a);
      for (index_t d = g * width; d < (g + 1) * width; ++d)
        codes.coded(dim).put(detail::codes_of(inner), t, d,
                             detail::encode_affine(x(d), a, Bits, codes.rounding));
    }
  }

  /// What encode does, by kernels and with a copy of the rows; false: nothing was done.
  [[nodiscard]] KVSLIM_HD bool encode_rows(float const* rows, site const& at,
                                           detail::outlier_lists<std::byte> const& aside,
                                           std::byte* block) const noexcept {
    index_t const dim = at.dim;
    return at.first == 0 && at.n % inner_tokens == 0 &&
           detail::with_stack_rows(at.n * dim, [&](float* rest) {
             if (!detail::set_rows_aside(
                     rows, at.n, dim, aside.each,
                     [&](index_t t, index_t i, float x, index_t d) { aside.put(t, i, x, d); },
                     rest))
               return false;
             codes.encode(rest, {.n = at.n, .dim = dim}, block);
             return true;
           });
  }
  /// What accumulate does for one block.
  KVSLIM_HD void add_block(std::byte const* block, site const& at, float const* p, index_t heads,
                           float* out) const noexcept {
    index_t const dim = at.dim;
    site inside = at;
    inside.first = at.first % inner_tokens;
    codes.accumulate(block + at.first / inner_tokens * inner_bytes(dim), inside, p, heads, out);
    index_t const bytes = inner_bytes(dim), groups = dim / codes.width(dim);
    detail::quick_divisor const group_of(codes.width(dim));
    auto const coded = codes.coded(dim);
    detail::add_aside<Param>(
        lists_of(block, dim).numbers(), at.first, at.n, {p, run_tokens, at.apart}, 0, dim, heads,
        {out, dim, run_tokens}, [=, this](index_t t) {
          auto const first = static_cast<std::uint32_t>(t) % 4;
          std::byte const* const inner = block + t / inner_tokens * bytes;
          auto const stored =
              codes.parameters(inner, dim).from(static_cast<index_t>(first) * groups);
          return [=](std::uint32_t d) {
            std::uint32_t const g = group_of(d);
            return detail::parameterized_code<Param>{
                coded.get(detail::codes_of(inner), static_cast<index_t>(first),
                          static_cast<index_t>(d)),
                stored.scale + g, stored.low + g};
          };
        });
  }
  [[nodiscard]] KVSLIM_HD constexpr status check_options(index_t dim) const noexcept {
    if (codes.residual != 0)
      return detail::fail(errc::invalid_option,
                          "kvslim: values with outliers wait for their block, not in a residual");
    if (tokens < inner_tokens || tokens % inner_tokens != 0 || tokens > 1024)
      return detail::fail(errc::invalid_option,
                          "kvslim: a block of values needs a multiple of 4 tokens, at most 1024");
    return detail::check_outliers(outliers, dim);
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t inner_bytes(index_t dim) const noexcept {
    return codes.sizes(dim, 0).block_bytes;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t code_bytes(index_t dim) const noexcept {
    return tokens / inner_tokens * inner_bytes(dim);
  }
  [[nodiscard]] KVSLIM_HD float decode_code(std::byte const* block, index_t dim, index_t t,
                                            index_t d) const noexcept {
    return codes.decode(block + t / inner_tokens * inner_bytes(dim),
                        {.first = t % inner_tokens, .dim = dim}, d);
  }
};

static_assert(value_codec<outlier_value<2>> && detail::check_codec<outlier_value<2>>::value);

KVSLIM_END_NAMESPACE
