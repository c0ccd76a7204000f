// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Rows rotated by a signed Hadamard matrix, less their mean, in levels at half steps around zero.
// The mean and the largest magnitude are of the prompt and of one row of the cache; a token has one
// scale of 5 bits, chosen by its squared error.

#include <kvslim/codec/planar.hpp>
#include <kvslim/ops/hadamard.hpp>

KVSLIM_BEGIN_NAMESPACE

/// K (`Keys`) or V in `Bits` bits, 1 to 8. A coordinate is mean + (code - (2^Bits - 1) / 2) * step
/// of the rotated row; step = 2^(1 - Bits) * scale, scale = top * 2^(-s / 4) for a stored s of 0 to
/// 31. Of the eight scales from the least that clips nothing downwards the one with the smallest
/// squared error is taken. top is 1.5 times the prompt's largest centred magnitude, so that
/// later tokens may be larger; a prompt that codes no token leaves the mean at 0 and top at
/// `reference`.
///
/// State: float top, f16 mean[dim]. Byte layout of a block of 32 tokens: codes, 32 scales of 5 bits
/// (20 bytes, stream order). Codes are cut into parts of 8, 4, 2 and 1 bits (the digits of Bits in
/// base two), high bits first, and each part lies in planar units of its own. Bits for each
/// element: Bits + 5 / dim, and 16 + 32 / dim over the row's tokens for the state (V: its width
/// rounded up to 32).
///
/// Requires: dim m * 2^k with m 1, 12, 20, 28 or 36, at most 1024, K's a multiple of 4
/// (invalid_shape); residual between 0 and 2^20, reference positive (invalid_option); magnitudes up
/// to 2043 (non_finite). Error: half a step for what is not clipped. Cost: encode reads the prompt
/// three times and tries eight scales a token.
template <bool Keys, int Bits, element Tail = f16>
struct centred_rows {
  static_assert(Bits >= 1 && Bits <= 8, "kvslim: centred has 1 to 8 bits");
  using tail_type = Tail;
  static constexpr codec_traits traits{
      .form = detail::affine_form<Tail, float>(
          Keys ? detail::form_kind::centred_key : detail::form_kind::centred_value, Bits),
      .space = basis::own,
      .rewrites = true,
      .fitted = true};

  index_t residual = 0;
  float reference = 32.0f;
  std::uint64_t seed = 1;  ///< of the channels' signs; 0: none changes

  [[nodiscard]] KVSLIM_HD constexpr status check(index_t dim) const noexcept {
    if (auto const s = check_options(); !s) return s;
    if (dim > 1024 || ops::order_of_hadamard(dim).small == 0 || (Keys && dim % 4 != 0))
      return detail::fail(errc::invalid_shape,
                          "kvslim: centred needs head_dim of 1, 12, 20, 28 or 36 times a power of "
                          "two, at most 1024, K's a multiple of 4");
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes sizes(index_t dim, index_t) const noexcept {
    return codec_sizes{.block_tokens = block_tokens,
                       .block_bytes = coded(dim).bytes() + scale_bytes,
                       .keep_exact = residual,
                       .state_bytes = 4 + 2 * dim,
                       .fit_floats = 2 * dim,
                       .own_dim = dim};
  }
  [[nodiscard]] KVSLIM_HD constexpr float limit() const noexcept {
    constexpr float tail = largest_finite<Tail>(), mine = 2043.0f;
    return tail < mine ? tail : mine;
  }
  [[nodiscard]] constexpr form written() const noexcept {
    return {traits.form.value,
            {static_cast<std::uint32_t>(residual), detail::bit_cast<std::uint32_t>(reference),
             static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)}};
  }
  [[nodiscard]] static constexpr status read(form const& f, centred_rows& out) noexcept {
    if (!detail::is_form(f, traits.form, 4)) return detail::foreign_form();
    centred_rows const found{f.words[0], detail::bit_cast<float>(f.words[1]),
                             f.words[2] | std::uint64_t{f.words[3]} << 32};
    if (!found.check_options()) return detail::foreign_form();
    out = found;
    return {};
  }

  /// Mean and largest centred magnitude of the rotated rows. Sums are kept in stretches.
  template <class Read>
  KVSLIM_HD void fit(Read const& read, index_t tokens, site const& at, std::byte* state,
                     float* scratch) const noexcept {
    index_t const dim = at.dim;
    float* const row = scratch;
    float* const sum = scratch + dim;
    auto* const mean = means(state);
    for (index_t d = 0; d < dim; ++d) sum[d] = 0.0f;
    for (index_t t = 0; t < tokens; ++t) {
      read(0, t, row);
      if (detail::move_mean(row, dim, detail::divide(1.0f, static_cast<float>(t + 1)), sum))
        continue;
      for (index_t d = 0; d < dim; ++d) sum[d] = mean_with(sum[d], row[d], t);
    }
    ops::rotate_by_hadamard(sum, dim, seed, false);
    for (index_t d = 0; d < dim; ++d) mean[d] = from_float<f16>(sum[d]);
    float most = 0.0f;
    for (index_t t = 0; t < tokens; ++t) {
      read(0, t, row);
      ops::rotate_by_hadamard(row, dim, seed, false);
      float const high = centre(row, dim, mean);
      most = high > most ? high : most;
    }
    *detail::array_at<float>(state) = tokens == 0 ? reference : most * 1.5f;
  }

  KVSLIM_HD void encode(float* rows, site const& at, std::byte* block) const noexcept {
    index_t const dim = at.dim;
    auto* const codes = detail::codes_of(block);
    float const top = top_of(at);
    detail::local<float, block_tokens> steps;
    ops::rotate_by_hadamard(rows, dim, seed, false, at.n);
    for (index_t i = 0; i < at.n; ++i) {
      float* const x = rows + i * dim;
      float const most = centre(x, dim, means(at.state));
      std::uint32_t const s = choose(x, dim, top, most);
      put_scale(codes + coded(dim).bytes(), at.first + i, s);
      steps[i] = step_of(top, s);
    }
    if (at.n == block_tokens) {
      detail::by_instructions([&] { put_block(rows, dim, steps, codes); });
      return;
    }
    for (index_t i = 0; i < at.n; ++i)
      for (index_t d = 0; d < dim; ++d)
        coded(dim).put(codes, at.first + i, d, code_of(rows[i * dim + d], steps[i]));
  }
  [[nodiscard]] KVSLIM_HD std::uint32_t code(std::byte const* block, site const& at,
                                             index_t j) const noexcept {
    return coded(at.dim).get(detail::codes_of(block), at.first, j);
  }
  /// The step of one token.
  [[nodiscard]] KVSLIM_HD float step(std::byte const* block, site const& at) const noexcept {
    return step_of(top_of(at), get_scale(block, at.dim, at.first));
  }
  [[nodiscard]] KVSLIM_HD float coordinate(std::byte const* block, site const& at,
                                           index_t j) const noexcept {
    return coordinate(block, at, j, step(block, at));
  }
  /// The same where the token's step is known.
  [[nodiscard]] KVSLIM_HD float coordinate(std::byte const* block, site const& at, index_t j,
                                           float step) const noexcept {
    return level(code(block, at, j)) * step + to_float(means(at.state)[j]);
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, site const& at,
                                       index_t d) const noexcept {
    float sum = 0.0f;
    for (index_t j = 0; j < at.dim; ++j)
      sum += ops::hadamard_entry(at.dim, seed, j, d) * coordinate(block, at, j);
    return sum;
  }
  KVSLIM_HD void load(std::byte const* block, site const& at, float* out) const noexcept {
    for (index_t j = 0; j < at.dim; ++j) out[j] = coordinate(block, at, j);
    ops::rotate_by_hadamard(out, at.dim, seed, true);
  }

  KVSLIM_HD void prepare(float const* q, site const& at, float* own) const noexcept requires Keys {
    for (index_t d = 0; d < at.dim; ++d) own[d] = q[d];
    ops::rotate_by_hadamard(own, at.dim, seed, false);
  }
  KVSLIM_HD void dot(std::byte const* block, site const& at, float const* q, index_t heads,
                     float* scores) const noexcept requires Keys {
    index_t const dim = at.dim;
    auto const* const mean = means(at.state);
    detail::local<float, block_tokens> steps, lows;
    load_steps(block, at, steps, lows);
    if (!detail::dot_row(mean, at, q, heads, scores))
      for (index_t h = 0; h < heads; ++h) {
        float const base =
            detail::sum_of(dim, [&](index_t d) { return q[h * dim + d] * detail::widen(mean[d]); });
        for (index_t i = 0; i < at.n; ++i) scores[h * run_tokens + i] += base;
      }
    if (by_kernels(steps, lows, [&](auto bits, index_t before, float const* s, float const* l) {
          return detail::dot_tokens<decltype(bits)::value>(
              detail::key_blocks{detail::codes_of(block) + before * coded(dim).units(), s, l}, at,
              q, heads, scores);
        }))
      return;
    detail::by_heads(heads, [&](auto count, index_t h0) {
      constexpr index_t n = decltype(count)::value;
      float const* const mine = q + h0 * dim;
      detail::local<float, n, block_tokens> sums;
      detail::dot_codes<Bits, n>(
          detail::codes_of(block), dim, mine, [](index_t) { return 1.0f; }, sums);
      for (index_t h = 0; h < n; ++h) {
        float const all = detail::sum_of(dim, [&](index_t d) { return mine[h * dim + d]; });
        for (index_t i = 0; i < at.n; ++i)
          scores[(h0 + h) * run_tokens + i] +=
              sums[h][at.first + i] * steps[at.first + i] + all * lows[at.first + i];
      }
    });
  }

  KVSLIM_HD void finish(float* sum, site const& at, float* out) const noexcept requires(!Keys) {
    ops::rotate_by_hadamard(sum, at.dim, seed, true);
    for (index_t d = 0; d < at.dim; ++d) out[d] += sum[d];
  }
  KVSLIM_HD void accumulate(std::byte const* block, site const& at, float const* p, index_t heads,
                            float* out) const noexcept requires(!Keys) {
    detail::local<float, block_tokens> steps, lows;
    load_steps(block, at, steps, lows);
    if (by_kernels(steps, lows,
                   [&](auto bits, index_t before, float const* s, float const* l) {
                     constexpr int n = decltype(bits)::value;
                     return detail::accumulate_run<n>(
                         detail::codes_of(block) + before * coded(at.dim).units(),
                         detail::div_up(at.dim, detail::unit_channels) * ops::unit_bytes<n>, s, l,
                         at, p, heads, out);
                   }) &&
        detail::add_row(means(at.state), at, p, heads, out))
      return;
    detail::by_heads(heads, [&](auto count, index_t h0) {
      add_heads<decltype(count)::value>(block, at, steps, lows, p + h0 * run_tokens,
                                        out + h0 * at.dim);
    });
  }

 private:
  template <class>
  friend struct warp_codec;
  using parts = detail::bit_parts<Keys, Bits>;
  static constexpr index_t block_tokens = 32, scale_bits = 5, scale_bytes = 20;
  static constexpr std::uint32_t scales = 32, tries = 8;
  static constexpr float half = 0.5f * static_cast<float>((1 << Bits) - 1);

  [[nodiscard]] KVSLIM_HD constexpr status check_options() const noexcept {
    if (auto const s = detail::check_residual(residual); !s) return s;
    if (!(reference > 1e-6f && reference <= 65504.0f))
      return detail::fail(errc::invalid_option,
                          "kvslim: centred needs a reference of 1e-6 to 65504");
    return {};
  }
  [[nodiscard]] static KVSLIM_HD constexpr parts coded(index_t dim) noexcept {
    return {dim, block_tokens};
  }
  /// Writes 5 bits wherever they lie, over what was there.
  KVSLIM_HD static void put_scale(std::uint8_t* out, index_t t, std::uint32_t s) noexcept {
    for (index_t bit = 0; bit < scale_bits; ++bit) {
      index_t const at = t * scale_bits + bit;
      auto const mask = 1u << (at % 8);
      out[at / 8] =
          static_cast<std::uint8_t>((out[at / 8] & ~mask) | (((s >> bit) & 1u) != 0 ? mask : 0u));
    }
  }
  [[nodiscard]] static KVSLIM_HD std::uint32_t get_scale(std::byte const* block, index_t dim,
                                                         index_t t) noexcept {
    return ops::get_stream<5>(detail::codes_of(block) + coded(dim).bytes(), t);
  }
  [[nodiscard]] static KVSLIM_HD f16* means(std::byte* state) noexcept {
    return detail::array_at<f16>(state + 4);
  }
  [[nodiscard]] static KVSLIM_HD f16 const* means(std::byte const* state) noexcept {
    return detail::array_at<f16>(state + 4);
  }
  [[nodiscard]] static KVSLIM_HD float top_of(site const& at) noexcept {
    return *detail::array_at<float>(at.state);
  }
  [[nodiscard]] static KVSLIM_HD float step_of(float top, std::uint32_t s) noexcept {
    float const quarter = s % 4 == 0   ? 1.0f
                          : s % 4 == 1 ? 0.84089642f
                          : s % 4 == 2 ? 0.70710678f
                                       : 0.59460356f;
    return top *
           (quarter * detail::bit_cast<float>((128u - Bits - s / 4) << 23));  // a power of two
  }
  [[nodiscard]] static KVSLIM_HD float level(std::uint32_t c) noexcept {
    return static_cast<float>(static_cast<std::int32_t>(c)) - half;
  }
  [[nodiscard]] static KVSLIM_HD std::uint32_t code_of(float x, float step) noexcept {
    return step > 0.0f
               ? detail::round_code(detail::divide(x, step) + half, detail::highest_code(Bits))
               : 0u;
  }
  /// The mean of t values and x.
  [[nodiscard]] static KVSLIM_HD float mean_with(float mean, float x, index_t t) noexcept {
    return mean + detail::product(x - mean, detail::divide(1.0f, static_cast<float>(t + 1)));
  }
  /// A rotated row becomes what the mean leaves of it; returns the largest magnitude.
  static KVSLIM_HD float centre(float* x, index_t dim, f16 const* mean) noexcept {
    float most = 0.0f;
    if (detail::take_mean(x, dim, mean, most)) return most;
    for (index_t d = 0; d < dim; ++d) {
      x[d] -= detail::widen(mean[d]);
      float const size = x[d] < 0.0f ? -x[d] : x[d];
      most = size > most ? size : most;
    }
    return most;
  }
  /// The least scale that clips nothing of a token: the first of those that are tried.
  [[nodiscard]] static KVSLIM_HD std::uint32_t first_scale(float top, float most) noexcept {
    constexpr float reach = static_cast<float>(1 << (Bits - 1));
    std::uint32_t first = 0;
    while (first < 31 && step_of(top, first + 1) * reach >= most) ++first;
    return first;
  }
  /// Squared error of a token at one step. Summed in double: there products of floats are exact,
  /// and every compiler chooses alike.
  [[nodiscard]] static KVSLIM_HD double error_of(float const* x, index_t dim, float step) noexcept {
    double error = 0.0;
    for (index_t d = 0; d < dim; ++d) {
      double const miss =
          static_cast<double>(x[d]) -
          static_cast<double>(level(code_of(x[d], step))) * static_cast<double>(step);
      error += detail::product(miss, miss);
    }
    return error;
  }
  /// The scale of a token.
  [[nodiscard]] static KVSLIM_HD std::uint32_t choose(float const* x, index_t dim, float top,
                                                      float most) noexcept {
    std::uint32_t const first = first_scale(top, most);
    std::uint32_t best = first;
    detail::local<float, tries> steps;
    detail::local<double, tries> errors;
    for (std::uint32_t i = 0; i < tries; ++i)
      steps[i] = step_of(top, first + i < scales ? first + i : scales - 1);
    bool const known =
        steps[tries - 1] > 0.0f &&
        detail::errors_of_steps(x, dim, steps, half, detail::highest_code(Bits), errors);
    double least = -1.0;
    for (std::uint32_t i = 0; i < tries && first + i < scales; ++i)
      if (double const error = known ? errors[i] : error_of(x, dim, steps[i]);
          least < 0.0 || error < least) {
        least = error;
        best = first + i;
      }
    return best;
  }
  /// Codes of a whole block.
  static KVSLIM_HD void put_block(float const* rows, index_t dim, float const* steps,
                                  std::uint8_t* codes) noexcept {
    constexpr index_t n = detail::unit_channels, quad = detail::unit_quad;
    for (index_t d = 0; d < dim; d += n) {
      index_t const count = detail::min(n, dim - d);
      detail::local<std::uint8_t, block_tokens, n> tile;
      for (index_t t = 0; t < block_tokens; ++t) {
        float const* const x = rows + t * dim + d;
        float const step = steps[t];
        if (count == n)
          for (index_t c = 0; c < n; ++c) tile[t][c] = narrow_code(x[c], step);
        else
          for (index_t c = 0; c < n; ++c) tile[t][c] = c < count ? narrow_code(x[c], step) : 0;
      }
      detail::local<std::uint32_t, 32> words;
      if constexpr (Keys) {
        for (index_t c = 0; c < count; c += quad) {
          for (index_t t = 0; t < block_tokens; ++t) std::memcpy(words + t, tile[t] + c, quad);
          coded(dim).pack(words, codes, (d + c) / quad);
        }
      } else {
        for (index_t t = 0; t < block_tokens; t += quad) {
          for (index_t c = 0; c < n; ++c)
            words[c] = tile[t][c] | static_cast<std::uint32_t>(tile[t + 1][c]) << 8 |
                       static_cast<std::uint32_t>(tile[t + 2][c]) << 16 |
                       static_cast<std::uint32_t>(tile[t + 3][c]) << 24;
          coded(dim).pack(words, codes, coded(dim).unit(t, d));
        }
      }
    }
  }
  [[nodiscard]] static KVSLIM_HD std::uint8_t narrow_code(float x, float step) noexcept {
    return static_cast<std::uint8_t>(code_of(x, step));
  }
  /// Steps of the run's tokens, and what code 0 stands for. On the plain path of those of the site,
  /// and 0 for the others.
  KVSLIM_HD static void load_steps(std::byte const* block, site const& at, float* steps,
                                   float* lows) noexcept {
    if (!detail::steps_of_run(detail::codes_of(block) + coded(at.dim).bytes(), top_of(at),
                              1.0f / static_cast<float>(1 << (Bits - 1)), steps))
      for (index_t t = 0; t < block_tokens; ++t)
        steps[t] = t < at.first || t >= at.first + at.n
                       ? 0.0f
                       : step_of(top_of(at), get_scale(block, at.dim, t));
    for (index_t t = 0; t < block_tokens; ++t) lows[t] = level(0) * steps[t];
  }
  /// Calls kernel(bits as a constant, bytes of a unit before it, steps, lows) for each part of the
  /// codes; false where there are no kernels.
  template <class Kernel>
  [[nodiscard]] KVSLIM_HD static bool by_kernels(float const* steps, float const* lows,
                                                 Kernel const& kernel) noexcept {
    bool served = true;
    parts::each([&](auto part, index_t before, int shift) {
      detail::local<float, block_tokens> scale, low;
      for (index_t t = 0; t < block_tokens && served; ++t) {
        scale[t] = steps[t] * static_cast<float>(1 << shift);
        low[t] = before == 0 ? lows[t] : 0.0f;
      }
      float const *const s = scale, *const l = low;
      served = served && kernel(part, before, s, l);
    });
    return served;
  }
  template <index_t Heads>
  KVSLIM_HD static void add_heads(std::byte const* block, site const& at, float const* steps,
                                  float const* lows, float const* p, float* out) noexcept {
    constexpr index_t n = detail::unit_channels;
    index_t const dim = at.dim;
    auto const* const mean = means(at.state);
    detail::local<float, Heads, block_tokens> weights;
    detail::local<float, Heads> mass = {}, low = {};
    for (index_t i = 0; i < at.n; ++i) {
      for (index_t h = 0; h < Heads; ++h) {
        float const weight = p[h * run_tokens + i];
        weights[h][i] = weight * steps[at.first + i];
        mass[h] += weight;
        low[h] += weight * lows[at.first + i];
      }
    }
    for (index_t d = 0; d < dim; d += n) {
      detail::lane_sums<Heads, n> sums;
      for (index_t i = 0; i < at.n;) {
        detail::local<std::uint32_t, n> words;
        coded(dim).unpack(detail::codes_of(block), coded(dim).unit(at.first + i, d), words);
        for (index_t t = (at.first + i) % 4; t < 4 && i < at.n; ++t, ++i) {
          detail::local<float, n> x;
          for (index_t c = 0; c < n; ++c) x[c] = detail::byte_of(words[c], t);
          sums.add(x, [&](index_t h) { return weights[h][i]; });
        }
      }
      detail::local<float, Heads, n> sum;
      sums.store(sum);
      for (index_t h = 0; h < Heads; ++h)
        for (index_t c = 0; c < n && d + c < dim; ++c)
          out[h * dim + d + c] += sum[h][c] + low[h] + mass[h] * detail::widen(mean[d + c]);
    }
  }
};

template <int Bits, element Tail = f16>
using centred_key = centred_rows<true, Bits, Tail>;
template <int Bits, element Tail = f16>
using centred_value = centred_rows<false, Bits, Tail>;
static_assert(key_codec<centred_key<4>> && detail::check_codec<centred_key<4>>::value);
static_assert(value_codec<centred_value<5>> && detail::check_codec<centred_value<5>>::value);

KVSLIM_END_NAMESPACE
