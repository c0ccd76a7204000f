// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// The integer codecs that quantizers are made of: groups along tokens (per channel) or along
// channels (per token), codes in planar units in the order that dot-product instructions read,
// parameters as f16 beside them.
//
// Fidelity: affine variant A1 (float minimum, ties to even); a group of equal values stores scale 0
// and codes 0.

#include <kvslim/core/codec.hpp>
#include <kvslim/isa/convert.hpp>
#include <kvslim/ops/group_range.hpp>
#include <kvslim/ops/pack.hpp>
#include <kvslim/ops/rows.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// K codes: unit (32 tokens x 4 channels), code e = token * 4 + channel % 4. Units of one 32-token
/// run are contiguous over channels, so a dword always holds 4 channels of one token (or a bit
/// plane of it).
template <int Bits>
[[nodiscard]] KVSLIM_HD constexpr index_t key_unit(index_t t, index_t d, index_t dim) noexcept {
  return ((t / 32) * (dim / 4) + d / 4) * ops::unit_bytes<Bits>;
}

template <int Bits>
KVSLIM_HD inline void put_key(std::uint8_t* codes, index_t t, index_t d, index_t dim,
                              std::uint32_t code) noexcept {
  ops::put_unit<Bits>(codes + key_unit<Bits>(t, d, dim), (t % 32) * 4 + d % 4, code);
}
template <int Bits>
[[nodiscard]] KVSLIM_HD inline std::uint32_t get_key(std::uint8_t const* codes, index_t t,
                                                     index_t d, index_t dim) noexcept {
  return ops::get_unit<Bits>(codes + key_unit<Bits>(t, d, dim), (t % 32) * 4 + d % 4);
}

/// Calls f(n, d) for channels [d, d + n) of dim, n a constant: 32 and, at the end, four. (Compilers
/// unroll loops of 16 before they think of vector registers.)
template <class F>
KVSLIM_HD inline void by_channels(index_t dim, F const& f) noexcept {
  index_t d = 0;
  for (; d + 32 <= dim; d += 32) f(std::integral_constant<index_t, 32>{}, d);
  for (; d < dim; d += 4) f(std::integral_constant<index_t, 4>{}, d);
}

/// Codes of the 32 tokens of one run, all channels, into its units. params(t, d, n, scale, low)
/// gives what channels [d, d + n) of token t use.
template <int Bits, class Params>
KVSLIM_HD inline void encode_key_run(float const* rows, index_t dim, rounding mode,
                                     Params const& params, std::uint8_t* codes) noexcept {
  by_channels(dim, [&](auto channels, index_t d) {
    constexpr index_t n = decltype(channels)::value;
    std::uint8_t tile[32][n];
    for (index_t t = 0; t < 32; ++t) {
      float scale[n], low[n];
      params(t, d, n, scale, low);
      ops::encode_affine<n>(rows + t * dim + d, scale, low, Bits, mode, tile[t]);
    }
    for (index_t quad = 0; quad < n / 4; ++quad) {
      std::uint32_t words[32];
      for (index_t t = 0; t < 32; ++t) std::memcpy(words + t, tile[t] + quad * 4, 4);
      ops::pack_words<Bits>(words, codes + (d / 4 + quad) * ops::unit_bytes<Bits>);
    }
  });
}

/// sums[h][t] += sum over all channels of q[h] (times scale, if there is one) times code, for the
/// 32 tokens of one run.
template <int Bits, index_t Heads>
KVSLIM_HD inline void dot_codes(std::uint8_t const* codes, index_t dim, float const* q,
                                f16 const* scale, float (&sums)[Heads][32]) noexcept {
  for (index_t quad = 0; quad < dim / 4; ++quad) {
    std::uint32_t words[32];
    ops::unpack_words<Bits>(codes + quad * ops::unit_bytes<Bits>, words);
    for (index_t c = 0; c < 4; ++c) {
      index_t const d = quad * 4 + c;
      float const s = scale == nullptr ? 1.0f : widen(scale[d]);
      float x[32];
      for (index_t t = 0; t < 32; ++t)
        x[t] = static_cast<float>(static_cast<std::int32_t>((words[t] >> (8 * c)) & 255u));
      for (index_t h = 0; h < Heads; ++h) {
        float const folded = q[h * dim + d] * s;
        for (index_t t = 0; t < 32; ++t) sums[h][t] += folded * x[t];
      }
    }
  }
}

}  // namespace detail

/// K quantized per channel over `group` tokens, with an exact tail of up to `residual` tokens.
/// Byte layout of a block of `group` tokens: codes (group * dim * Bits / 8 bytes, see
/// detail::key_unit), f16 scale[dim], f16 low[dim]. A block is written whole.
template <int Bits, element Tail = f16>
struct channel_key {
  using tail_type = Tail;
  index_t group = 32;
  index_t residual = 128;
  kvslim::rounding rounding = kvslim::rounding::precise;

  [[nodiscard]] KVSLIM_HD status check(index_t dim) const noexcept {
    if (group < 32 || group % 32 != 0 || group > 128)
      return detail::fail(errc::invalid_option,
                          "kvslim: a per-channel key group must be 32, 64, 96 or 128 tokens");
    if (residual < group || residual % group != 0)
      return detail::fail(errc::invalid_option,
                          "kvslim: residual must be a positive multiple of group");
    if (dim % 4 != 0)
      return detail::fail(errc::invalid_shape,
                          "kvslim: quantized keys need head_dim to be a multiple of 4");
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr float largest_value() const noexcept {
    return ops::largest_affine(rounding);
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t block_tokens() const noexcept { return group; }
  [[nodiscard]] KVSLIM_HD constexpr index_t code_bytes(index_t dim) const noexcept {
    return group * dim * Bits / 8;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t block_bytes(index_t dim) const noexcept {
    return code_bytes(dim) + 4 * dim;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t coded(index_t tokens) const noexcept {
    return tokens - tokens % residual;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t tail_tokens() const noexcept { return residual; }
  [[nodiscard]] KVSLIM_HD constexpr bool whole_blocks() const noexcept { return true; }

  KVSLIM_HD void encode(float const* rows, block_run const& run, std::byte* block) const noexcept {
    index_t const dim = run.dim;
    auto* const codes = reinterpret_cast<std::uint8_t*>(block);
    auto* const scale = reinterpret_cast<f16*>(block + code_bytes(dim));
    auto* const low = scale + dim;
    detail::by_channels(dim, [&](auto channels, index_t d) {
      constexpr index_t n = decltype(channels)::value;
      float least[n], most[n];
      for (index_t i = 0; i < n; ++i) least[i] = most[i] = rows[d + i];
      for (index_t t = 1; t < group; ++t) ops::widen_ranges<n>(rows + t * dim + d, least, most);
      for (index_t i = 0; i < n; ++i) {
        auto const a = ops::fit_affine({least[i], most[i]}, Bits, rounding);
        scale[d + i] = a.scale;
        low[d + i] = a.low;
      }
    });
    auto const params = [&](index_t, index_t d, index_t n, float* scales, float* lows) {
      ops::load_row(scale + d, 1, n, scales);
      ops::load_row(low + d, 1, n, lows);
    };
    for (index_t t = 0; t < group; t += 32)
      detail::encode_key_run<Bits>(rows + t * dim, dim, rounding, params,
                                   codes + detail::key_unit<Bits>(t, 0, dim));
  }
  [[nodiscard]] KVSLIM_HD std::uint32_t code(std::byte const* block, index_t t, index_t d,
                                             index_t dim) const noexcept {
    return detail::get_key<Bits>(reinterpret_cast<std::uint8_t const*>(block), t, d, dim);
  }
  [[nodiscard]] KVSLIM_HD ops::affine parameters(std::byte const* block, index_t, index_t d,
                                                 index_t dim) const noexcept {
    auto const* const scale = reinterpret_cast<f16 const*>(block + code_bytes(dim));
    return {scale[d], scale[dim + d]};
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, block_run const& run,
                                       index_t d) const noexcept {
    return parameters(block, run.first, d, run.dim).decode(code(block, run.first, d, run.dim));
  }
  KVSLIM_HD void dot(std::byte const* block, block_run const& run, float const* q, index_t heads,
                     float* scores) const noexcept {
    index_t const dim = run.dim;
    auto const* const codes = reinterpret_cast<std::uint8_t const*>(block);
    auto const* const scale = reinterpret_cast<f16 const*>(block + code_bytes(dim));
    detail::by_heads(heads, [&](auto count, index_t h0) {
      constexpr index_t n = decltype(count)::value;
      float base[n] = {}, sums[n][32] = {};
      for (index_t d = 0; d < dim; ++d) {
        float const low = detail::widen(scale[dim + d]);
        for (index_t h = 0; h < n; ++h) base[h] += q[(h0 + h) * dim + d] * low;
      }
      detail::dot_codes<Bits, n>(codes + run.first / 32 * (dim / 4) * ops::unit_bytes<Bits>, dim,
                                 q + h0 * dim, scale, sums);
      for (index_t h = 0; h < n; ++h)
        for (index_t i = 0; i < run.n; ++i)
          scores[(h0 + h) * run_tokens + i] += sums[h][run.first % 32 + i] + base[h];
    });
  }
};

/// K quantized per token over all of head_dim. Byte layout of a block of 32 tokens: codes (32 * dim
/// * Bits / 8 bytes), f16 scale[32], f16 low[32].
template <int Bits, element Tail = f16>
struct token_key {
  using tail_type = Tail;
  index_t residual = 0;

  [[nodiscard]] KVSLIM_HD status check(index_t dim) const noexcept {
    if (residual < 0)
      return detail::fail(errc::invalid_option, "kvslim: residual must not be negative");
    if (dim % 4 != 0)
      return detail::fail(errc::invalid_shape,
                          "kvslim: quantized keys need head_dim to be a multiple of 4");
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr float largest_value() const noexcept {
    return ops::largest_affine(kvslim::rounding::precise);
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t block_tokens() const noexcept { return 32; }
  [[nodiscard]] KVSLIM_HD constexpr index_t code_bytes(index_t dim) const noexcept {
    return 32 * dim * Bits / 8;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t block_bytes(index_t dim) const noexcept {
    return code_bytes(dim) + 128;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t coded(index_t tokens) const noexcept {
    return detail::max(0, tokens - residual);
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t tail_tokens() const noexcept {
    return residual == 0 ? 0 : residual + 1;
  }
  [[nodiscard]] KVSLIM_HD constexpr bool whole_blocks() const noexcept { return false; }

  KVSLIM_HD void encode(float const* rows, block_run const& run, std::byte* block) const noexcept {
    index_t const dim = run.dim;
    auto* const codes = reinterpret_cast<std::uint8_t*>(block);
    auto* const scale = reinterpret_cast<f16*>(block + code_bytes(dim));
    for (index_t i = 0; i < run.n; ++i) {
      auto const a =
          ops::fit_affine(ops::group_range(rows + i * dim, dim, 1), Bits, rounding::precise);
      scale[run.first + i] = a.scale;
      scale[32 + run.first + i] = a.low;
      for (index_t d = 0; d < dim && run.n < 32; ++d)
        detail::put_key<Bits>(codes, run.first + i, d, dim,
                              ops::encode_affine(rows[i * dim + d], a, Bits, rounding::precise));
    }
    if (run.n < 32) return;
    auto const params = [&](index_t t, index_t, index_t n, float* scales, float* lows) {
      for (index_t j = 0; j < n; ++j) {
        scales[j] = to_float(scale[t]);
        lows[j] = to_float(scale[32 + t]);
      }
    };
    detail::encode_key_run<Bits>(rows, dim, rounding::precise, params, codes);
  }
  [[nodiscard]] KVSLIM_HD std::uint32_t code(std::byte const* block, index_t t, index_t d,
                                             index_t dim) const noexcept {
    return detail::get_key<Bits>(reinterpret_cast<std::uint8_t const*>(block), t, d, dim);
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, block_run const& run,
                                       index_t d) const noexcept {
    auto const* const scale = reinterpret_cast<f16 const*>(block + code_bytes(run.dim));
    return ops::affine{scale[run.first], scale[32 + run.first]}.decode(
        code(block, run.first, d, run.dim));
  }
  KVSLIM_HD void dot(std::byte const* block, block_run const& run, float const* q, index_t heads,
                     float* scores) const noexcept {
    index_t const dim = run.dim;
    auto const* const scale = reinterpret_cast<f16 const*>(block + code_bytes(dim));
    detail::by_heads(heads, [&](auto count, index_t h0) {
      constexpr index_t n = decltype(count)::value;
      float total[n] = {}, sums[n][32] = {};
      for (index_t d = 0; d < dim; ++d)
        for (index_t h = 0; h < n; ++h) total[h] += q[(h0 + h) * dim + d];
      detail::dot_codes<Bits, n>(reinterpret_cast<std::uint8_t const*>(block), dim, q + h0 * dim,
                                 nullptr, sums);
      for (index_t i = 0; i < run.n; ++i) {
        float const s = detail::widen(scale[run.first + i]),
                    low = detail::widen(scale[32 + run.first + i]);
        for (index_t h = 0; h < n; ++h)
          scores[(h0 + h) * run_tokens + i] += sums[h][run.first + i] * s + total[h] * low;
      }
    });
  }
};

/// V quantized per token over groups of `group` channels (0: all of head_dim), exact tail of
/// `residual` tokens. Byte layout of a block of 4 tokens: codes (round_up(dim, 32) / 32 units of 32
/// channels x 4 tokens, code e = channel % 32 * 4 + token), then f16 scale[4][groups], f16
/// low[4][groups].
template <int Bits, element Tail = f16>
struct token_value {
  using tail_type = Tail;
  index_t group = 0;
  index_t residual = 0;
  kvslim::rounding rounding = kvslim::rounding::precise;

  [[nodiscard]] KVSLIM_HD constexpr index_t width(index_t dim) const noexcept {
    return group == 0 ? dim : group;
  }
  [[nodiscard]] KVSLIM_HD status check(index_t dim) const noexcept {
    if (group < 0 || dim % width(dim) != 0)
      return detail::fail(errc::invalid_option, "kvslim: the value group must divide head_dim");
    if (residual < 0)
      return detail::fail(errc::invalid_option, "kvslim: residual must not be negative");
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr float largest_value() const noexcept {
    return ops::largest_affine(rounding);
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t block_tokens() const noexcept { return 4; }
  [[nodiscard]] KVSLIM_HD constexpr index_t code_bytes(index_t dim) const noexcept {
    return detail::div_up(dim, 32) * ops::unit_bytes<Bits>;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t block_bytes(index_t dim) const noexcept {
    return code_bytes(dim) + 16 * (dim / width(dim));
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t coded(index_t tokens) const noexcept {
    return detail::max(0, tokens - residual);
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t tail_tokens() const noexcept {
    return residual == 0 ? 0 : residual + 1;
  }
  [[nodiscard]] KVSLIM_HD constexpr bool whole_blocks() const noexcept { return false; }

  KVSLIM_HD void encode(float const* rows, block_run const& run, std::byte* block) const noexcept {
    index_t const dim = run.dim;
    auto* const codes = reinterpret_cast<std::uint8_t*>(block);
    auto* const scale = reinterpret_cast<f16*>(block + code_bytes(dim));
    index_t const groups = dim / width(dim);
    bool const whole = run.n == 4 && width(dim) % 32 == 0;
    for (index_t i = 0; i < run.n; ++i) {
      index_t const t = run.first + i;
      for (index_t g = 0; g < groups; ++g) {
        float const* const x = rows + i * dim + g * width(dim);
        auto const a = ops::fit_affine(ops::group_range(x, width(dim), 1), Bits, rounding);
        scale[t * groups + g] = a.scale;
        scale[(4 + t) * groups + g] = a.low;
        for (index_t c = 0; c < width(dim) && !whole; ++c) {
          index_t const d = g * width(dim) + c;
          ops::put_unit<Bits>(codes + d / 32 * ops::unit_bytes<Bits>, d % 32 * 4 + t,
                              ops::encode_affine(x[c], a, Bits, rounding));
        }
      }
    }
    if (whole) encode_units(rows, dim, scale, codes);
  }
  [[nodiscard]] KVSLIM_HD std::uint32_t code(std::byte const* block, index_t t, index_t d,
                                             index_t) const noexcept {
    return ops::get_unit<Bits>(
        reinterpret_cast<std::uint8_t const*>(block) + d / 32 * ops::unit_bytes<Bits>,
        d % 32 * 4 + t);
  }
  [[nodiscard]] KVSLIM_HD ops::affine parameters(std::byte const* block, index_t t, index_t d,
                                                 index_t dim) const noexcept {
    auto const* const scale = reinterpret_cast<f16 const*>(block + code_bytes(dim));
    index_t const groups = dim / width(dim), g = d / width(dim);
    return {scale[t * groups + g], scale[(4 + t) * groups + g]};
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, block_run const& run,
                                       index_t d) const noexcept {
    return parameters(block, run.first, d, run.dim).decode(code(block, run.first, d, run.dim));
  }
  KVSLIM_HD void accumulate(std::byte const* block, block_run const& run, float const* p,
                            index_t heads, float* out) const noexcept {
    index_t const dim = run.dim;
    for (index_t unit = 0; unit < detail::div_up(dim, 32); ++unit) {
      index_t const begin = unit * 32, end = detail::min(dim, begin + 32), g = begin / width(dim);
      if (end - begin == 32 &&
          (g + 1) * width(dim) >= end)  // one group spans the unit: its scale folds into p
        detail::by_heads(heads, [&](auto count, index_t h0) {
          add_unit<decltype(count)::value>(block, run, unit, g, p + h0 * run_tokens,
                                           out + h0 * dim + begin);
        });
      else
        for (index_t i = 0; i < run.n; ++i) {
          index_t const t = (run.first + i) % 4;
          std::byte const* const at = block + (run.first + i) / 4 * block_bytes(dim);
          for (index_t d = begin; d < end; ++d) {
            float const x = parameters(at, t, d, dim).decode(code(at, t, d, dim));
            for (index_t h = 0; h < heads; ++h) out[h * dim + d] += p[h * run_tokens + i] * x;
          }
        }
    }
  }

 private:
  /// Codes of a whole block whose groups are whole units.
  KVSLIM_HD void encode_units(float const* rows, index_t dim, f16 const* scale,
                              std::uint8_t* codes) const noexcept {
    index_t const groups = dim / width(dim);
    for (index_t d = 0; d < dim; d += 32) {
      std::uint8_t tile[4][32];
      for (index_t t = 0; t < 4; ++t) {
        float scales[32], lows[32];
        for (index_t i = 0; i < 32; ++i) {
          scales[i] = to_float(scale[t * groups + d / width(dim)]);
          lows[i] = to_float(scale[(4 + t) * groups + d / width(dim)]);
        }
        ops::encode_affine<32>(rows + t * dim + d, scales, lows, Bits, rounding, tile[t]);
      }
      std::uint32_t words[32];
      for (index_t c = 0; c < 32; ++c)
        words[c] = tile[0][c] | static_cast<std::uint32_t>(tile[1][c]) << 8 |
                   static_cast<std::uint32_t>(tile[2][c]) << 16 |
                   static_cast<std::uint32_t>(tile[3][c]) << 24;
      ops::pack_words<Bits>(words, codes + d / 32 * ops::unit_bytes<Bits>);
    }
  }
  /// Adds 32 channels of the run's tokens, all in group g, to the outputs of `Heads` heads.
  template <index_t Heads>
  KVSLIM_HD void add_unit(std::byte const* block, block_run const& run, index_t unit, index_t g,
                          float const* p, float* out) const noexcept {
    index_t const dim = run.dim, groups = dim / width(dim);
    float sums[Heads][32] = {}, base[Heads] = {};
    for (index_t i = 0; i < run.n;) {
      std::byte const* const at = block + (run.first + i) / 4 * block_bytes(dim);
      auto const* const scale = reinterpret_cast<f16 const*>(at + code_bytes(dim));
      std::uint32_t words[32];
      ops::unpack_words<Bits>(
          reinterpret_cast<std::uint8_t const*>(at) + unit * ops::unit_bytes<Bits>, words);
      for (index_t t = (run.first + i) % 4; t < 4 && i < run.n; ++t, ++i) {
        float const s = detail::widen(scale[t * groups + g]),
                    low = detail::widen(scale[(4 + t) * groups + g]);
        float x[32];
        for (index_t c = 0; c < 32; ++c)
          x[c] = static_cast<float>(static_cast<std::int32_t>((words[c] >> (8 * t)) & 255u));
        for (index_t h = 0; h < Heads; ++h) {
          float const weight = p[h * run_tokens + i], folded = weight * s;
          base[h] += weight * low;
          for (index_t c = 0; c < 32; ++c) sums[h][c] += folded * x[c];
        }
      }
    }
    for (index_t h = 0; h < Heads; ++h)
      for (index_t c = 0; c < 32; ++c) out[h * dim + c] += sums[h][c] + base[h];
  }
};

static_assert(key_codec<channel_key<2>> && key_codec<token_key<8>> && value_codec<token_value<4>>);

KVSLIM_END_NAMESPACE
