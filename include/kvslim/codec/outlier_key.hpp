// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/channel_key.hpp>
#include <kvslim/codec/outliers.hpp>

KVSLIM_BEGIN_NAMESPACE

/// K quantized per channel (codec/channel_key.hpp), with the smallest and largest values of every
/// channel of a block of `residual` tokens kept aside as f16. Codes are made of the channel with
/// its mean over the block in their places.
///
/// Byte layout of a block of `residual` tokens: blocks of channel_key, then f16
/// value[dim][2 * each], token[dim][2 * each] (u8, or u16 where residual is above 256), each =
/// max(1, residual * outliers / 2), padded to 4 bytes. Requires: what channel_key does; residual at
/// most 1024; outliers in [0, 0.5] (invalid_option). Error: that of channel_key over what is left,
/// and of f16 for what is kept aside.
template <int Bits, element Tail = f16, affine_parameter Param = f16>
struct outlier_key {
  using tail_type = Tail;
  static constexpr codec_traits traits{
      .form = detail::affine_form<Tail, Param>(detail::form_kind::outlier_key, Bits),
      .whole_blocks = true};

  channel_key<Bits, Tail, Param> codes = {32, 64};
  float outliers = 0.02f;  ///< share of a channel's values, half of them at either end

  [[nodiscard]] KVSLIM_HD constexpr status check(index_t dim) const noexcept {
    if (auto const s = codes.check(dim); !s.ok()) return s;
    if (codes.residual > 1024)
      return detail::fail(errc::invalid_option,
                          "kvslim: outliers need a residual of at most 1024 tokens");
    return detail::check_outliers(outliers, dim);
  }
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes sizes(index_t dim, index_t) const noexcept {
    index_t const n = codes.residual;
    return {.block_tokens = n,
            .block_bytes = code_bytes(dim) + lists::bytes_of(dim, each(), n),
            .settle_by = n};
  }
  [[nodiscard]] KVSLIM_HD constexpr float limit() const noexcept {
    return detail::within_f16(codes.limit());
  }
  [[nodiscard]] constexpr form written() const noexcept {
    form f = codes.written();
    f.id = traits.form.value;
    f.words[3] = detail::bit_cast<std::uint32_t>(outliers);
    return f;
  }
  [[nodiscard]] static constexpr status read(form const& f, outlier_key& out) noexcept {
    if (!detail::is_form(f, traits.form, 4)) return detail::foreign_form();
    outlier_key found{};
    form const inner{decltype(codes)::traits.form.value, {f.words[0], f.words[1], f.words[2]}};
    if (auto const s = decltype(codes)::read(inner, found.codes); !s.ok()) return s;
    found.outliers = detail::bit_cast<float>(f.words[3]);
    if (!found.check(4).ok()) return detail::foreign_form();
    out = found;
    return {};
  }

  KVSLIM_HD void encode(float const* rows, site const& at, std::byte* block) const noexcept {
    constexpr index_t quad = detail::unit_quad, run = detail::unit_tokens;
    index_t const dim = at.dim, group = codes.group, inner_tokens = codes.block_tokens();
    detail::outlier_lists<std::byte> const aside = lists_of(block, dim);
    for (index_t d = 0; d < dim; d += quad) {
      float mean[quad];
      for (index_t c = 0; c < quad; ++c) {
        auto const channel = [&](index_t t) { return rows[t * dim + d + c]; };
        aside.choose(d + c, channel);
        mean[c] = detail::mean_of(codes.residual, channel);
      }
      auto const read = [&](index_t t, float* x) {
        for (index_t c = 0; c < quad; ++c)
          x[c] = aside.find(d + c, t) >= 0 ? mean[c] : rows[t * dim + d + c];
      };
      for (index_t begin = 0; begin < codes.residual; begin += inner_tokens) {
        std::byte* const inner = block + begin / inner_tokens * inner_bytes(dim);
        auto const stored = codes.parameters(inner, dim).from(d);
        float least[quad], most[quad], x[quad], scale[quad], low[quad];
        for (index_t t0 = 0; t0 < inner_tokens; t0 += group) {
          read(begin + t0, least);
          for (index_t c = 0; c < quad; ++c) most[c] = least[c];
          for (index_t t = 1; t < group; ++t) {
            read(begin + t0 + t, x);
            ops::widen_ranges<quad>(x, least, most);
          }
          for (index_t c = 0; c < quad; ++c)
            stored.set(t0 / group * dim + c,
                       detail::fit_affine<Param>({least[c], most[c]}, Bits, codes.rounding));
        }
        for (index_t t0 = 0; t0 < inner_tokens; t0 += run) {
          detail::local<std::uint32_t, run> words;
          for (index_t t = 0; t < run; ++t) {
            auto const mine = stored.from((t0 + t) / group * dim);
            for (index_t c = 0; c < quad; ++c) {
              scale[c] = detail::widen(mine.scale[c]);
              low[c] = detail::widen(mine.low[c]);
            }
            std::uint8_t code[quad];
            read(begin + t0 + t, x);
            detail::encode_affine<quad>(x, scale, low, Bits, codes.rounding, code);
            std::memcpy(words + t, code, sizeof *words);
          }
          ops::pack_words<Bits>(words,
                                detail::codes_of(inner) + detail::key_unit<Bits>(t0, d, dim));
        }
      }
    }
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, site const& at,
                                       index_t d) const noexcept {
    auto const aside = lists_of(block, at.dim);
    index_t const i = aside.find(d, at.first);
    return i >= 0 ? aside.value(d, i) : decode_code(block, at.dim, at.first, d);
  }
  KVSLIM_HD void dot(std::byte const* block, site const& at, float const* q, index_t heads,
                     float* scores) const noexcept {
    index_t const dim = at.dim;
    site inside = at;
    inside.first = at.first % codes.block_tokens();
    codes.dot(block + at.first / codes.block_tokens() * inner_bytes(dim), inside, q, heads, scores);
    auto const aside = lists_of(block, dim);
    for (index_t d = 0; d < dim; ++d)
      for (index_t i = 0; i < 2 * aside.each; ++i) {
        index_t const t = aside.place(d, i);
        if (t < at.first || t >= at.first + at.n) continue;
        float const more = aside.value(d, i) - decode_code(block, dim, t, d);
        for (index_t h = 0; h < heads; ++h)
          scores[h * run_tokens + t - at.first] += q[h * dim + d] * more;
      }
  }

  /// Outliers of a channel at either end.
  [[nodiscard]] KVSLIM_HD constexpr index_t each() const noexcept {
    return detail::outliers_of(codes.residual, outliers);
  }
  template <class Byte>
  [[nodiscard]] KVSLIM_HD detail::outlier_lists<Byte> lists_of(Byte* block,
                                                               index_t dim) const noexcept {
    return {block + code_bytes(dim), dim, each(), codes.residual};
  }

 private:
  using lists = detail::outlier_lists<std::byte const>;

  [[nodiscard]] KVSLIM_HD constexpr index_t inner_bytes(index_t dim) const noexcept {
    return codes.sizes(dim, 0).block_bytes;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t code_bytes(index_t dim) const noexcept {
    return codes.residual / codes.block_tokens() * inner_bytes(dim);
  }
  [[nodiscard]] KVSLIM_HD float decode_code(std::byte const* block, index_t dim, index_t t,
                                            index_t d) const noexcept {
    index_t const tokens = codes.block_tokens();
    return codes.decode(block + t / tokens * inner_bytes(dim), {.first = t % tokens, .dim = dim},
                        d);
  }
};

static_assert(key_codec<outlier_key<2>> && detail::check_codec<outlier_key<2>>::value);

KVSLIM_END_NAMESPACE
