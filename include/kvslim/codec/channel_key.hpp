// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/channel_codes.hpp>

KVSLIM_BEGIN_NAMESPACE

/// K quantized per channel over `group` tokens, with an exact tail of up to `residual` tokens.
///
/// A block is the fewest tokens that are whole groups and, because units hold 32 tokens, whole runs
/// of 32: `group` where that is a multiple of 32, 32 for a group of 16, 96 for one of 48. Byte
/// layout: codes (tokens * dim * Bits / 8 bytes), Param scale[groups][dim], Param low[groups][dim].
/// Requires: a group whose block holds at most 1024 tokens, so that blocks waiting to be coded stay
/// small (multiples of 32 to 1024, of 16 to 512, of 8 to 256, and so on); residual a positive
/// multiple of a block, at most 2^20; dim a multiple of 4 (invalid_option, invalid_shape). Error:
/// codec/affine.hpp. Cost: dot reads a run once for every group that has tokens in it.
template <int Bits, element Tail = f16, affine_parameter Param = f16>
struct channel_key {
  using tail_type = Tail;
  static constexpr index_t most_tokens = 1024;  ///< of a block
  static constexpr codec_traits traits{
      .form = detail::affine_form<Tail, Param>(detail::form_kind::channel_key, Bits),
      .whole_blocks = true,
      .encodes_stored = true,
      .long_runs = true,
      .takes_off = true};

  index_t group = 32;
  index_t residual = 128;
  kvslim::rounding rounding = kvslim::rounding::precise;

  [[nodiscard]] KVSLIM_HD constexpr status check(index_t dim) const noexcept {
    if (auto const result = check_options(); !result.ok()) return result;
    return detail::check_key_channels(dim);
  }
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes sizes(index_t dim, index_t) const noexcept {
    return {.block_tokens = block_tokens(), .block_bytes = block_bytes(dim), .settle_by = residual};
  }
  [[nodiscard]] KVSLIM_HD constexpr float limit() const noexcept {
    return detail::largest_affine<Tail, Param>(Bits, rounding);
  }
  [[nodiscard]] constexpr form written() const noexcept {
    return {traits.form.value,
            {static_cast<std::uint32_t>(group), static_cast<std::uint32_t>(residual),
             static_cast<std::uint32_t>(rounding)}};
  }
  [[nodiscard]] static constexpr status read(form const& f, channel_key& out) noexcept {
    if (!detail::is_form(f, traits.form, 3) || f.words[2] > 1) return detail::foreign_form();
    channel_key const found{f.words[0], f.words[1], static_cast<kvslim::rounding>(f.words[2])};
    if (!found.check_options().ok()) return detail::foreign_form();
    out = found;
    return {};
  }

  /// Codes rows of T that lie side by side, where a kernel does; those of T but float hold finite
  /// values. False: nothing was written.
  template <element T>
  [[nodiscard]] KVSLIM_HD bool encode_stored(T const* rows, site const& at,
                                             std::byte* block) const noexcept {
    auto const stored = parameters(block, at.dim);
    return group == block_tokens() && rounding == kvslim::rounding::precise &&
           detail::encode_channels<Bits>(rows, group, at, detail::codes_of(block), stored.scale,
                                         stored.low);
  }
  KVSLIM_HD void encode(float const* rows, site const& at, std::byte* block) const noexcept {
    index_t const dim = at.dim, tokens = block_tokens();
    auto const stored = parameters(block, dim);
    if (encode_stored(rows, at, block)) return;
    for (index_t t0 = 0; t0 < tokens; t0 += group)
      detail::by_channels(dim, [&](auto channels, index_t d) {
        constexpr index_t n = decltype(channels)::value;
        float const* const x = rows + t0 * dim + d;
        detail::local<float, n> least, most;
        for (index_t i = 0; i < n; ++i) least[i] = most[i] = x[i];
        for (index_t t = 1; t < group; ++t) ops::widen_ranges<n>(x + t * dim, least, most);
        for (index_t i = 0; i < n; ++i)
          stored.set(t0 / group * dim + d + i,
                     detail::fit_affine<Param>({least[i], most[i]}, Bits, rounding));
      });
    for (index_t t0 = 0; t0 < tokens; t0 += detail::unit_tokens) {
      auto const params = [&](index_t t, index_t d, auto channels, float* scale, float* low) {
        constexpr index_t n = decltype(channels)::value;
        auto const mine = stored.from((group == tokens ? 0 : (t0 + t) / group) * dim + d);
        detail::widen_all<n>(mine.scale, scale);
        detail::widen_all<n>(mine.low, low);
      };
      detail::encode_key_run<Bits>(rows + t0 * dim, dim, rounding, params,
                                   detail::run_of_keys<Bits>(detail::codes_of(block), t0, dim));
    }
  }
  [[nodiscard]] KVSLIM_HD std::uint32_t code(std::byte const* block, site const& at,
                                             index_t d) const noexcept {
    return detail::get_key<Bits>(detail::codes_of(block), at.first, d, at.dim);
  }
  /// Tokens of a block.
  [[nodiscard]] KVSLIM_HD constexpr index_t block_tokens() const noexcept {
    return detail::unit_tokens * (group / detail::min(group & -group, detail::unit_tokens));
  }
  /// Bytes of a block's codes, which its parameters follow.
  [[nodiscard]] KVSLIM_HD constexpr index_t code_bytes(index_t dim) const noexcept {
    return block_tokens() * dim * Bits / 8;
  }
  /// The parameters of all channels, [group][dim].
  template <class Byte>
  [[nodiscard]] KVSLIM_HD auto parameters(Byte* block, index_t dim) const noexcept {
    return detail::parameters_at<Param>(block + code_bytes(dim), block_tokens() / group * dim);
  }
  /// The parameters of one value.
  [[nodiscard]] KVSLIM_HD affine<Param> parameters(std::byte const* block, site const& at,
                                                   index_t d) const noexcept {
    return parameters(block, at.dim)[at.first / group * at.dim + d];
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, site const& at,
                                       index_t d) const noexcept {
    return parameters(block, at, d).decode(code(block, at, d));
  }
  /// Takes what channels [d, d + 4) of a whole block stand for off their values, rows of dim.
  KVSLIM_HD void take_off_quad(std::byte const* block, index_t d, index_t dim,
                               float* rows) const noexcept {
    auto const stored = parameters(block, dim);
    detail::take_off_quad<Bits>(
        detail::codes_of(block), block_tokens(), d, dim, group,
        [&](index_t t) { return stored.from(t / group * dim); }, rows);
  }
  /// The same of all channels.
  KVSLIM_HD void take_off(std::byte const* block, site const& at, float* rows) const noexcept {
    for (index_t d = 0; d < at.dim; d += detail::unit_quad) take_off_quad(block, d, at.dim, rows);
  }
  /// Channels [d, d + 4) of a whole block, whose values read(t, x) gives.
  template <class Read>
  KVSLIM_HD void encode_quad(Read const& read, index_t d, index_t dim,
                             std::byte* block) const noexcept {
    auto const stored = parameters(block, dim);
    for (index_t t0 = 0; t0 < block_tokens(); t0 += group)
      detail::fit_quad<Bits>([&](index_t t, float* x) { read(t0 + t, x); }, group, d, rounding,
                             stored.from(t0 / group * dim));
    detail::encode_quad<Bits>(
        read, block_tokens(), d, dim, rounding,
        [&](index_t t) { return stored.from(t / group * dim); }, detail::codes_of(block));
  }
  KVSLIM_HD void dot(std::byte const* block, site const& at, float const* q, index_t heads,
                     float* scores) const noexcept {
    index_t const bytes = block_bytes(at.dim);
    if (group == run_tokens) {
      auto const stored = parameters(block, at.dim);
      if (detail::dot_channels<Bits>(
              detail::key_blocks{detail::codes_of(block), stored.scale, stored.low, bytes}, at, q,
              heads, scores))
        return;
    }
    site part = at;
    for (index_t done = 0; done < at.n; done += part.n) {
      index_t const first = at.first + done;
      std::byte const* const here = block + first / block_tokens() * bytes;
      part.first = first % block_tokens();
      part.n = detail::min(detail::min(at.n - done, group - part.first % group),
                           run_tokens - part.first % run_tokens);
      part.next = at.next == nullptr ? nullptr : at.next + at.next_bytes * done / at.n;
      part.next_bytes = at.next_bytes * part.n / at.n;
      detail::dot_by_channels<Bits>(
          detail::run_of_keys<Bits>(detail::codes_of(here), part.first, at.dim),
          parameters(here, at.dim).from(part.first / group * at.dim), part, q, heads,
          scores + done / run_tokens * at.apart + done % run_tokens);
    }
  }

 private:
  [[nodiscard]] KVSLIM_HD constexpr status check_options() const noexcept {
    if (group < 1 || group > most_tokens || block_tokens() > most_tokens)
      return detail::fail(errc::invalid_option,
                          "kvslim: whole groups of keys must fill whole runs of 32 tokens within "
                          "1024: take a multiple of 32 to 1024, of 16 to 512 or of 8 to 256");
    if (residual < block_tokens() || residual % block_tokens() != 0 ||
        residual > detail::most_residual)
      return detail::fail(errc::invalid_option,
                          "kvslim: residual must be a positive multiple of group and of 32 tokens");
    return detail::check_rounding<Param>(rounding);
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t block_bytes(index_t dim) const noexcept {
    return code_bytes(dim) + detail::parameter_array<Param>::bytes(block_tokens() / group * dim);
  }
};

static_assert(key_codec<channel_key<2>> && detail::check_codec<channel_key<2>>::value);

/// channel_key of 32 tokens that are coded together, and nothing to choose: for codecs whose own
/// options fill what is written of a form.
template <int Bits, element Tail = f16, affine_parameter Param = f16>
struct run_channel_key : channel_key<Bits, Tail, Param> {
  static constexpr codec_traits traits{
      .form = detail::affine_form<Tail, Param>(detail::form_kind::run_channel_key, Bits),
      .whole_blocks = true,
      .encodes_stored = true,
      .long_runs = true,
      .takes_off = true};

  KVSLIM_HD constexpr run_channel_key() noexcept : channel_key<Bits, Tail, Param>{32, 32} {}

  [[nodiscard]] constexpr form written() const noexcept { return {traits.form.value}; }
  [[nodiscard]] static constexpr status read(form const& f, run_channel_key& out) noexcept {
    if (!detail::is_form(f, traits.form, 0)) return detail::foreign_form();
    out = {};
    return {};
  }
};

static_assert(key_codec<run_channel_key<4>> && detail::check_codec<run_channel_key<4>>::value);

KVSLIM_END_NAMESPACE
