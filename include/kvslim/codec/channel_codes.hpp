// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What codecs of K with a range per channel share: ranges of a prompt's channels, codes of four
// channels by given parameters, and their dot products.

#include <kvslim/codec/planar.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Ranges of channels over the tokens that were added; where none was, -16 to 16.
struct channel_ranges {
  float* least;  ///< [dim]
  float* most;   ///< [dim]
  index_t dim;
  index_t tokens = 0;

  static constexpr float unknown = 16.0f;

  KVSLIM_HD void add(float const* row) noexcept {
    for (index_t d = 0; d < dim && tokens == 0; ++d) least[d] = most[d] = row[d];
    for (index_t d = 0; d < dim; ++d) ops::widen_ranges<1>(row + d, least + d, most + d);
    ++tokens;
  }
  template <class Param>
  KVSLIM_HD void store(int bits, rounding mode, parameter_array<Param> const& stored) const {
    for (index_t d = 0; d < dim; ++d)
      stored.set(d, fit_affine<Param>(
                        tokens == 0 ? ops::range{-unknown, unknown} : ops::range{least[d], most[d]},
                        bits, mode));
  }
};

/// The parameters of channels [d, d + 4) over n tokens, whose values read(t, x) gives; `stored` is
/// of all channels.
template <int Bits, class Param, class Read>
KVSLIM_HD inline void fit_quad(Read const& read, index_t n, index_t d, rounding mode,
                               parameter_array<Param> const& stored) noexcept {
  float least[unit_quad], most[unit_quad], x[unit_quad];
  read(index_t{0}, least);
  for (index_t c = 0; c < unit_quad; ++c) most[c] = least[c];
  for (index_t t = 1; t < n; ++t) {
    read(t, x);
    ops::widen_ranges<unit_quad>(x, least, most);
  }
  for (index_t c = 0; c < unit_quad; ++c)
    stored.set(d + c, fit_affine<Param>({least[c], most[c]}, Bits, mode));
}

/// Takes what the codes of channels [d, d + 4) of n tokens, a multiple of 32, stand for off rows of
/// dim; parameters(t) are token t's, of all channels, and the same for `group` tokens.
template <int Bits, class Parameters>
KVSLIM_HD inline void take_off_quad(std::uint8_t const* codes, index_t n, index_t d, index_t dim,
                                    index_t group, Parameters const& parameters,
                                    float* rows) noexcept {
  float scale[unit_quad], low[unit_quad];
  for (index_t t0 = 0; t0 < n; t0 += unit_tokens) {
    local<std::uint32_t, unit_tokens> words;
    key_run<Bits>(dim).unpack(run_of_keys<Bits>(codes, t0, dim), d / unit_quad, words);
    for (index_t t = t0; t < t0 + unit_tokens;) {
      auto const stored = parameters(t);
      for (index_t c = 0; c < unit_quad; ++c) {
        scale[c] = widen(stored.scale[d + c]);
        low[c] = widen(stored.low[d + c]);
      }
      for (index_t const end = min(t0 + unit_tokens, (t / group + 1) * group); t < end; ++t) {
        float* const x = rows + t * dim + d;
        for (index_t c = 0; c < unit_quad; ++c)
          x[c] -= byte_of(words[t - t0], c) * scale[c] + low[c];
      }
    }
  }
}

/// Codes of channels [d, d + 4) of n tokens, a multiple of 32; parameters(t) are token t's, of all
/// channels.
template <int Bits, class Parameters, class Read>
KVSLIM_HD inline void encode_quad(Read const& read, index_t n, index_t d, index_t dim,
                                  rounding mode, Parameters const& parameters,
                                  std::uint8_t* codes) noexcept {
  float scale[unit_quad], low[unit_quad], x[unit_quad];
  for (index_t t0 = 0; t0 < n; t0 += unit_tokens) {
    local<std::uint32_t, unit_tokens> words;
    for (index_t t = 0; t < unit_tokens; ++t) {
      std::uint8_t code[unit_quad];
      auto const mine = parameters(t0 + t).from(d);
      for (index_t c = 0; c < unit_quad; ++c) {
        scale[c] = widen(mine.scale[c]);
        low[c] = widen(mine.low[c]);
      }
      read(t0 + t, x);
      encode_affine<unit_quad>(x, scale, low, Bits, mode, code);
      std::memcpy(words + t, code, sizeof *words);
    }
    key_run<Bits>(dim).pack(words, run_of_keys<Bits>(codes, t0, dim), d / unit_quad);
  }
}

/// scores += q . k of tokens of one run, whose units begin at `codes`, by parameters of [dim].
template <int Bits, class Stored>
KVSLIM_HD inline void dot_by_channels(std::uint8_t const* codes, Stored const& stored,
                                      site const& at, float const* q, index_t heads,
                                      float* scores) noexcept {
  index_t const dim = at.dim, t0 = at.first % unit_tokens;
  if (dot_channels<Bits>(key_blocks{codes, stored.scale, stored.low}, at, q, heads, scores)) return;
  by_heads(heads, [&](auto count, index_t h0) {
    constexpr index_t n = decltype(count)::value;
    float const* const mine = q + h0 * dim;
    local<float, n> base;
    local<float, n, unit_tokens> sums;
    for (index_t h = 0; h < n; ++h)
      base[h] = sum_of(dim, [&](index_t d) { return mine[h * dim + d] * widen(stored.low[d]); });
    dot_codes<Bits, n>(
        codes, dim, mine, [&](index_t d) { return widen(stored.scale[d]); }, sums);
    for (index_t h = 0; h < n; ++h)
      for (index_t i = 0; i < at.n; ++i)
        scores[(h0 + h) * run_tokens + i] += sums[h][t0 + i] + base[h];
  });
}

}  // namespace detail

KVSLIM_END_NAMESPACE
