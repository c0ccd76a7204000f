// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/planar.hpp>

KVSLIM_BEGIN_NAMESPACE

/// V quantized per token over groups of `group` channels (0: all of head_dim), with an exact tail
/// of `residual` tokens.
///
/// Byte layout of a block of 4 tokens: codes (round_up(dim, 32) / 32 units of 32 channels x 4
/// tokens), then Param scale[4][groups], Param low[4][groups]. Requires: group a divisor of
/// head_dim; residual between 0 and 2^20 (invalid_option). Error: codec/affine.hpp.
template <int Bits, element Tail = f16, affine_parameter Param = f16>
struct token_value {
  using tail_type = Tail;
  static constexpr codec_traits traits{
      .form = detail::affine_form<Tail, Param>(detail::form_kind::token_value, Bits),
      .rewrites = true,
      .encodes_runs = true,
      .encodes_stored = true,
      .long_runs = true,
      .takes_off = true};

  index_t group = 0;
  index_t residual = 0;
  kvslim::rounding rounding = kvslim::rounding::precise;

  [[nodiscard]] KVSLIM_HD constexpr status check(index_t dim) const noexcept {
    if (auto const result = check_options(); !result.ok()) return result;
    if (auto const result = detail::check_channels(dim); !result.ok()) return result;
    if (dim % width(dim) != 0)
      return detail::fail(errc::invalid_option, "kvslim: the value group must divide head_dim");
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes sizes(index_t dim, index_t) const noexcept {
    return {.block_tokens = block_tokens, .block_bytes = block_bytes(dim), .keep_exact = residual};
  }
  [[nodiscard]] KVSLIM_HD constexpr float limit() const noexcept {
    return detail::largest_affine<Tail, Param>(Bits, rounding);
  }
  [[nodiscard]] constexpr form written() const noexcept {
    return {traits.form.value,
            {static_cast<std::uint32_t>(group), static_cast<std::uint32_t>(residual),
             static_cast<std::uint32_t>(rounding)}};
  }
  [[nodiscard]] static constexpr status read(form const& f, token_value& out) noexcept {
    if (!detail::is_form(f, traits.form, 3) || f.words[2] > 1) return detail::foreign_form();
    token_value const found{f.words[0], f.words[1], static_cast<kvslim::rounding>(f.words[2])};
    if (!found.check_options().ok()) return detail::foreign_form();
    out = found;
    return {};
  }

  /// Channels per group.
  [[nodiscard]] KVSLIM_HD constexpr index_t width(index_t dim) const noexcept {
    return group == 0 ? dim : group;
  }
  /// Codes rows of T that lie side by side, where a kernel does; those of T but float hold finite
  /// values. False: nothing was written.
  template <element T>
  [[nodiscard]] KVSLIM_HD bool encode_stored(T const* rows, site const& at,
                                             std::byte* block) const noexcept {
    return at.first == 0 && at.n % block_tokens == 0 && rounding == kvslim::rounding::precise &&
           detail::encode_values<Bits, Param>(rows, at, width(at.dim), block,
                                              coded(at.dim).bytes());
  }
  KVSLIM_HD void encode(float const* rows, site const& at, std::byte* block) const noexcept {
    index_t const dim = at.dim;
    if (encode_stored(rows, at, block)) return;
    for (index_t i = 0; i < at.n;) {
      index_t const first = (at.first + i) % block_tokens,
                    n = detail::min(at.n - i, block_tokens - first);
      encode_block(rows + i * dim, first, n, dim,
                   block + (at.first + i) / block_tokens * block_bytes(dim));
      i += n;
    }
  }
  [[nodiscard]] KVSLIM_HD std::uint32_t code(std::byte const* block, site const& at,
                                             index_t d) const noexcept {
    return coded(at.dim).get(detail::codes_of(block), at.first, d);
  }
  /// How a block's codes lie.
  [[nodiscard]] static KVSLIM_HD constexpr auto coded(index_t dim) noexcept {
    return detail::bit_parts<false, Bits>{dim, block_tokens};
  }
  /// The parameters of all groups of a block, [token][group].
  template <class Byte>
  [[nodiscard]] KVSLIM_HD auto parameters(Byte* block, index_t dim) const noexcept {
    return detail::parameters_at<Param>(block + coded(dim).bytes(),
                                        block_tokens * (dim / width(dim)));
  }
  /// The parameters of one value.
  [[nodiscard]] KVSLIM_HD affine<Param> parameters(std::byte const* block, site const& at,
                                                   index_t d) const noexcept {
    index_t const channels = width(at.dim);
    return parameters(block, at.dim)[at.first * (at.dim / channels) + d / channels];
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, site const& at,
                                       index_t d) const noexcept {
    return parameters(block, at, d).decode(code(block, at, d));
  }
  /// Takes what a whole block stands for off its values, rows of dim.
  KVSLIM_HD void take_off(std::byte const* block, site const& at, float* rows) const noexcept {
    constexpr index_t n = detail::unit_channels;
    index_t const dim = at.dim, channels = width(dim), groups = dim / channels;
    auto const stored = parameters(block, dim);
    for (index_t d = 0; d < dim; d += n) {
      detail::local<std::uint32_t, n> words;
      coded(dim).unpack(detail::codes_of(block), d / n, words);
      index_t const count = detail::min(n, dim - d), g = d / channels;
      bool const one_group = count == n && (d + n - 1) / channels == g;
      for (index_t t = 0; t < block_tokens; ++t) {
        float* const x = rows + t * dim + d;
        if (one_group) {
          float const scale = detail::widen(stored.scale[t * groups + g]),
                      low = detail::widen(stored.low[t * groups + g]);
          for (index_t c = 0; c < n; ++c) x[c] -= detail::byte_of(words[c], t) * scale + low;
        } else {
          for (index_t c = 0; c < count; ++c)
            x[c] -= stored[t * groups + (d + c) / channels].decode((words[c] >> (8 * t)) & 255u);
        }
      }
    }
  }
  KVSLIM_HD void accumulate(std::byte const* block, site const& at, float const* p, index_t heads,
                            float* out) const noexcept {
    index_t const dim = at.dim, channels = width(dim);
    detail::value_blocks const blocks{
        block, block_bytes(dim), coded(dim).bytes(), dim, channels, at.first, at.n};
    if (detail::accumulate_blocks<Bits, Param>(blocks, at, p, heads, out)) return;
    site run = at;
    for (index_t i = 0; i < at.n; i += run_tokens, run.first += run_tokens, p += at.apart) {
      run.n = detail::min(run_tokens, at.n - i);
      add_units(block, run, p, heads, out);
    }
  }

 private:
  static constexpr index_t block_tokens = detail::unit_quad;

  [[nodiscard]] KVSLIM_HD constexpr status check_options() const noexcept {
    if (group < 0 || group > detail::most_channels)
      return detail::fail(errc::invalid_option, "kvslim: the value group must divide head_dim");
    if (auto const result = detail::check_residual(residual); !result.ok()) return result;
    return detail::check_rounding<Param>(rounding);
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t block_bytes(index_t dim) const noexcept {
    return coded(dim).bytes() +
           detail::parameter_array<Param>::bytes(block_tokens * (dim / width(dim)));
  }
  /// Tokens [first, first + n) of one block.
  KVSLIM_HD void encode_block(float const* rows, index_t first, index_t n, index_t dim,
                              std::byte* block) const noexcept {
    index_t const channels = width(dim), groups = dim / channels;
    auto* const codes = detail::codes_of(block);
    bool const whole = n == block_tokens && channels % detail::unit_channels == 0;
    for (index_t i = 0; i < n; ++i) {
      index_t const t = first + i;
      auto const stored = parameters(block, dim).from(t * groups);
      for (index_t g = 0; g < groups; ++g) {
        float const* const x = rows + i * dim + g * channels;
        auto const a = detail::fit_affine<Param>(ops::group_range(x, channels, 1), Bits, rounding);
        stored.set(g, a);
        for (index_t c = 0; c < channels && !whole; ++c) {
          index_t const d = g * channels + c;
          coded(dim).put(codes, t, d, detail::encode_affine(x[c], a, Bits, rounding));
        }
      }
    }
    if (whole) encode_units(rows, dim, parameters(block, dim), codes);
  }
  /// Codes of a whole block whose groups are whole units.
  KVSLIM_HD void encode_units(float const* rows, index_t dim,
                              detail::parameter_array<Param> const& stored,
                              std::uint8_t* codes) const noexcept {
    constexpr index_t n = detail::unit_channels;
    index_t const groups = dim / width(dim);
    for (index_t d = 0; d < dim; d += n) {
      detail::local<std::uint8_t, block_tokens, n> tile;
      for (index_t t = 0; t < block_tokens; ++t) {
        index_t const g = t * groups + d / width(dim);
        detail::local<float, n> scale, low;
        float const group_scale = detail::widen(stored.scale[g]),
                    group_low = detail::widen(stored.low[g]);
        for (index_t c = 0; c < n; ++c) {
          scale[c] = group_scale;
          low[c] = group_low;
        }
        detail::encode_affine<n>(rows + t * dim + d, scale, low, Bits, rounding, tile[t]);
      }
      detail::local<std::uint32_t, n> words;
      for (index_t c = 0; c < n; ++c)
        words[c] = tile[0][c] | static_cast<std::uint32_t>(tile[1][c]) << 8 |
                   static_cast<std::uint32_t>(tile[2][c]) << 16 |
                   static_cast<std::uint32_t>(tile[3][c]) << 24;
      coded(dim).pack(words, codes, d / n);
    }
  }
  /// Calls f(i, t, words, stored) for each token of the site: its number, its place in its block,
  /// the codes of the 32 channels from d on of that block's four tokens, and its groups'
  /// parameters.
  template <class F>
  KVSLIM_HD void each_token(std::byte const* block, site const& at, index_t d,
                            F const& f) const noexcept {
    index_t const dim = at.dim, groups = dim / width(dim);
    for (index_t i = 0; i < at.n;) {
      std::byte const* const here = block + (at.first + i) / block_tokens * block_bytes(dim);
      auto const stored = parameters(here, dim);
      detail::local<std::uint32_t, detail::unit_channels> words;
      coded(dim).unpack(detail::codes_of(here), d / detail::unit_channels, words);
      for (index_t t = (at.first + i) % block_tokens; t < block_tokens && i < at.n; ++t, ++i)
        f(i, t, words, stored.from(t * groups));
    }
  }
  /// What accumulate does, by plain loops.
  KVSLIM_HD KVSLIM_DETAIL_APART void add_units(std::byte const* block, site const& at,
                                               float const* p, index_t heads,
                                               float* out) const noexcept {
    index_t const dim = at.dim, channels = width(dim);
    for (index_t d = 0; d < dim; d += detail::unit_channels) {
      index_t const end = d + detail::unit_channels;
      bool const one_group = end <= dim && d / channels == (end - 1) / channels;
      detail::by_heads(heads, [&](auto count, index_t h0) {
        constexpr index_t n = decltype(count)::value;
        if (one_group)
          add_unit<n>(block, at, d, p + h0 * run_tokens, out + h0 * dim);
        else
          add_mixed_unit<n>(block, at, d, p + h0 * run_tokens, out + h0 * dim);
      });
    }
  }
  /// Adds 32 channels, all in one group: its scale folds into the weight.
  template <index_t Heads>
  KVSLIM_HD void add_unit(std::byte const* block, site const& at, index_t d, float const* p,
                          float* out) const noexcept {
    constexpr index_t n = detail::unit_channels;
    index_t const groups = at.dim / width(at.dim), g = d / width(at.dim);
    detail::lane_sums<Heads, n> sums;
    detail::local<float, Heads> base = {};
    for (index_t i = 0; i < at.n;) {
      std::byte const* const here = block + (at.first + i) / block_tokens * block_bytes(at.dim);
      auto const stored = parameters(here, at.dim).from(g);
      detail::local<std::uint32_t, n> words;
      coded(at.dim).unpack(detail::codes_of(here), d / n, words);
      for (index_t t = (at.first + i) % block_tokens; t < block_tokens && i < at.n; ++t, ++i) {
        float const scale = detail::widen(stored.scale[t * groups]),
                    low = detail::widen(stored.low[t * groups]);
        detail::local<float, n> x;
        for (index_t c = 0; c < n; ++c) x[c] = detail::byte_of(words[c], t);
        for (index_t h = 0; h < Heads; ++h) base[h] += p[h * run_tokens + i] * low;
        sums.add(x, [&](index_t h) { return p[h * run_tokens + i] * scale; });
      }
    }
    detail::local<float, Heads, n> sum;
    sums.store(sum);
    for (index_t h = 0; h < Heads; ++h)
      for (index_t c = 0; c < n; ++c) out[h * at.dim + d + c] += sum[h][c] + base[h];
  }
  /// Adds up to 32 channels of several groups.
  template <index_t Heads>
  KVSLIM_HD void add_mixed_unit(std::byte const* block, site const& at, index_t d, float const* p,
                                float* out) const noexcept {
    index_t const n = detail::min(detail::unit_channels, at.dim - d);
    detail::local<index_t, detail::unit_channels> group_of;
    for (index_t c = 0; c < n; ++c) group_of[c] = (d + c) / width(at.dim);
    detail::local<float, Heads, detail::unit_channels> sums = {};
    each_token(block, at, d, [&](index_t i, index_t t, std::uint32_t const* words, auto stored) {
      for (index_t c = 0; c < n; ++c) {
        float const x = detail::byte_of(words[c], t) * detail::widen(stored.scale[group_of[c]]) +
                        detail::widen(stored.low[group_of[c]]);
        for (index_t h = 0; h < Heads; ++h) sums[h][c] += p[h * run_tokens + i] * x;
      }
    });
    for (index_t h = 0; h < Heads; ++h)
      for (index_t c = 0; c < n; ++c) out[h * at.dim + d + c] += sums[h][c];
  }
};

static_assert(value_codec<token_value<4>> && detail::check_codec<token_value<4>>::value);

KVSLIM_END_NAMESPACE
