// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Rows rotated by a signed Hadamard matrix, each coordinate the nearest level of a codebook for
// what coordinates of random directions look like, and the signs of a second rotation of what that
// misses. Queries are rotated once a row; attention reads levels and signs as they are stored.

#include <kvslim/codec/planar.hpp>
#include <kvslim/codec/turbo_levels.hpp>
#include <kvslim/isa/level_encoders.hpp>
#include <kvslim/ops/hadamard.hpp>

KVSLIM_BEGIN_NAMESPACE

/// What is stored of a direction: its nearest levels (least squared error), or levels of one bit
/// less and the signs of what they miss (no bias in inner products).
enum class turbo_form : std::uint8_t { mse, inner };
/// The length that goes with the levels: the row's; that which gives what is decoded the row's
/// length; that which makes the squared error least.
enum class turbo_length : std::uint8_t { row, decoded, least };
/// K (`Keys`) or V in `Bits` bits: 1 to 4, inner 1 to 5. A rotated coordinate is length * level /
/// sqrt(dim); inner adds sqrt(pi / (2 * dim)) * missed * sign to coordinates of the second rotation
/// (of rotated rows, with other signs). inner of 1 bit has signs and their length alone, which is
/// QJL's sketch of as many bits as channels.
///
/// Byte layout of a block of 32 tokens: codes (codec/bit_parts.hpp), signs (as codes of 1 bit, 1
/// is not negative), `f16 length[32]` unless there are no levels, `f16 missed[32]` of inner. Bits
/// for each element: Bits + 16 / dim, inner (of 2 bits and more) Bits + 32 / dim (V: its width
/// rounded up to 32 for the codes).
///
/// Requires: dim m * 2^k with m 1, 12, 20, 28 or 36, 16 to 1024, K's a multiple of 4
/// (invalid_shape); residual between 0 and 2^20 (invalid_option); magnitudes up to 2043
/// (non_finite). Error: of a random direction's squared length 0.363, 0.1175, 0.0345 or 0.0095 at 1
/// to 4 bits. Cost: encode one read and one write, one or two rotations a token.
template <bool Keys, int Bits, turbo_form Form = turbo_form::mse, element Tail = f16>
struct turbo_rows {
  static constexpr bool inner = Form == turbo_form::inner;
  static constexpr int level_bits = inner ? Bits - 1 : Bits;
  static_assert(Bits >= 1 && level_bits <= 4,
                "kvslim: turboquant has 1 to 4 bits, 1 to 5 with signs of what is missed");
  using tail_type = Tail;
  static constexpr codec_traits traits{
      .form =
          form_id{detail::affine_form<Tail, float>(
                      Keys ? detail::form_kind::turbo_key : detail::form_kind::turbo_value, Bits)
                      .value |
                  (inner ? 0x800u : 0u)},
      .space = basis::own,
      .rewrites = true};

  index_t residual = 0;
  std::uint64_t seed = 1;  ///< of the channels' signs; 0: none changes in the first rotation
  turbo_length length = turbo_length::row;
  turbo_levels levels = turbo_levels::exact;

  [[nodiscard]] KVSLIM_HD constexpr status check(index_t dim) const noexcept {
    if (auto const s = check_options(); !s) return s;
    if (dim < 16 || dim > 1024 || ops::order_of_hadamard(dim).small == 0 || (Keys && dim % 4 != 0))
      return detail::fail(errc::invalid_shape,
                          "kvslim: turboquant needs head_dim of 1, 12, 20, 28 or 36 times a power "
                          "of two, 16 to 1024");
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes sizes(index_t dim, index_t) const noexcept {
    return codec_sizes{.block_tokens = block_tokens,
                       .block_bytes = missed_at(dim) + (inner ? 2 * block_tokens : 0),
                       .keep_exact = residual,
                       .own_dim = parts * dim};
  }
  [[nodiscard]] KVSLIM_HD constexpr float limit() const noexcept {
    constexpr float tail = largest_finite<Tail>(), mine = 2043.0f;
    return tail < mine ? tail : mine;
  }
  [[nodiscard]] constexpr form written() const noexcept {
    return {traits.form.value,
            {static_cast<std::uint32_t>(residual), static_cast<std::uint32_t>(seed),
             static_cast<std::uint32_t>(seed >> 32),
             static_cast<std::uint32_t>(length) | static_cast<std::uint32_t>(levels) << 8}};
  }
  [[nodiscard]] static constexpr status read(form const& f, turbo_rows& out) noexcept {
    if (!detail::is_form(f, traits.form, 4) || f.words[3] >> 16 != 0) return detail::foreign_form();
    turbo_rows const found{f.words[0], f.words[1] | std::uint64_t{f.words[2]} << 32,
                           static_cast<turbo_length>(f.words[3] & 255u),
                           static_cast<turbo_levels>(f.words[3] >> 8)};
    if (!found.check_options()) return detail::foreign_form();
    out = found;
    return {};
  }

  /// Sums are in double: there products of floats are exact, and every compiler rounds alike.
  KVSLIM_HD void encode(float* rows, site const& at, std::byte* block) const noexcept {
    index_t const dim = at.dim;
    ops::rotate_by_hadamard(rows, dim, seed, false, at.n);
    if (encode_units(rows, at, block)) return;
    for (index_t i = 0; i < at.n; ++i) {
      float* const x = rows + i * dim;
      if constexpr (level_bits > 0) encode_levels(x, at.first + i, dim, block);
      if constexpr (inner) {
        put_half(block, missed_at(dim), at.first + i, half_of(norm_of(x, dim)));
        ops::rotate_by_hadamard(x, dim, second_seed(), false);
        auto* const codes = detail::codes_of(block) + signs_at(dim);
        for (index_t d = 0; d < dim; ++d)
          signs(dim).put(codes, at.first + i, d, x[d] >= 0.0f ? 1u : 0u);
      }
    }
  }
  /// The level's number of coordinate j.
  [[nodiscard]] KVSLIM_HD std::uint32_t code(std::byte const* block, site const& at,
                                             index_t j) const noexcept requires(level_bits > 0) {
    return codes_in(at.dim).get(detail::codes_of(block), at.first, j);
  }
  [[nodiscard]] KVSLIM_HD bool sign(std::byte const* block, site const& at,
                                    index_t j) const noexcept requires inner {
    return signs(at.dim).get(detail::codes_of(block) + signs_at(at.dim), at.first, j) != 0;
  }
  /// What coordinates of one token are made of.
  struct reader {
    detail::local<float, detail::most_turbo_levels> values;  ///< of the levels, with the length
    float missed;                                            ///< of a sign
  };
  [[nodiscard]] KVSLIM_HD reader read_token(std::byte const* block, site const& at) const noexcept {
    reader out = {};
    if constexpr (level_bits > 0) {
      detail::fill_turbo_levels<level_bits>(at.dim, levels, root_of(at.dim), out.values);
      float const size = get_half(block, length_at(at.dim), at.first);
      for (int i = 0; i < 1 << level_bits; ++i) out.values[i] *= size;
    }
    if constexpr (inner)
      out.missed = sign_size(at.dim) * get_half(block, missed_at(at.dim), at.first);
    return out;
  }
  [[nodiscard]] KVSLIM_HD float coordinate(std::byte const* block, site const& at,
                                           index_t j) const noexcept {
    return coordinate(block, at, j, read_token(block, at));
  }
  [[nodiscard]] KVSLIM_HD float coordinate(std::byte const* block, site const& at, index_t j,
                                           reader const& token) const noexcept {
    if constexpr (level_bits > 0) {
      if (j < at.dim) return token.values[code(block, at, j)];
      j -= at.dim;
    }
    if constexpr (inner) return sign(block, at, j) ? token.missed : -token.missed;
    return 0.0f;
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, site const& at,
                                       index_t d) const noexcept {
    float row[most_dim];
    load(block, at, row);
    return row[d];
  }
  KVSLIM_HD void load(std::byte const* block, site const& at, float* out) const noexcept {
    index_t const dim = at.dim, last = (parts - 1) * dim;
    reader const token = read_token(block, at);
    for (index_t j = 0; j < dim; ++j) out[j] = coordinate(block, at, last + j, token);
    if constexpr (inner) ops::rotate_by_hadamard(out, dim, second_seed(), true);
    if constexpr (parts == 2)
      for (index_t j = 0; j < dim; ++j) out[j] += coordinate(block, at, j, token);
    ops::rotate_by_hadamard(out, dim, seed, true);
  }

  KVSLIM_HD void prepare(float const* q, site const& at, float* own) const noexcept requires Keys {
    index_t const dim = at.dim;
    for (index_t d = 0; d < dim; ++d) own[d] = q[d];
    ops::rotate_by_hadamard(own, dim, seed, false);
    if constexpr (inner) {
      float* const last = own + (parts - 1) * dim;
      for (index_t d = 0; d < dim; ++d) last[d] = own[d];
      ops::rotate_by_hadamard(last, dim, second_seed(), false);
    }
  }
  KVSLIM_HD void dot(std::byte const* block, site const& at, float const* q, index_t heads,
                     float* scores) const noexcept requires Keys {
    each_part(block, at,
              [&](auto coded, std::uint8_t const* codes, float const* table, f16 const* halves,
                  index_t begin) {
                if (detail::dot_levels<decltype(coded)::width>(
                        detail::level_codes{codes, coded.units(), table, halves, parts * at.dim},
                        at, q + begin, heads, scores))
                  return;
                auto const lengths = lengths_of(halves, at);
                detail::by_heads(heads, [&](auto count, index_t h0) {
                  dot_heads<decltype(count)::value>(coded, codes, at, table, lengths.of,
                                                    q + h0 * parts * at.dim + begin,
                                                    scores + h0 * run_tokens);
                });
              });
  }
  KVSLIM_HD void finish(float* sum, site const& at, float* out) const noexcept requires(!Keys) {
    index_t const dim = at.dim;
    if constexpr (inner) {
      float* const last = sum + (parts - 1) * dim;
      ops::rotate_by_hadamard(last, dim, second_seed(), true);
      if constexpr (parts == 2)
        for (index_t d = 0; d < dim; ++d) sum[d] += last[d];
    }
    ops::rotate_by_hadamard(sum, dim, seed, true);
    for (index_t d = 0; d < dim; ++d) out[d] += sum[d];
  }
  KVSLIM_HD void accumulate(std::byte const* block, site const& at, float const* p, index_t heads,
                            float* out) const noexcept requires(!Keys) {
    each_part(block, at,
              [&](auto coded, std::uint8_t const* codes, float const* table, f16 const* halves,
                  index_t begin) {
                if (detail::add_levels<decltype(coded)::width>(
                        detail::level_codes{codes, coded.units(), table, halves, parts * at.dim},
                        at, p, heads, out + begin))
                  return;
                auto const lengths = lengths_of(halves, at);
                detail::by_heads(heads, [&](auto count, index_t h0) {
                  add_heads<decltype(count)::value>(coded, codes, at, table, lengths.of,
                                                    p + h0 * run_tokens,
                                                    out + h0 * parts * at.dim + begin);
                });
              });
  }

  /// Seed of the second rotation, which always has signs: two alike would undo each other.
  [[nodiscard]] KVSLIM_HD constexpr std::uint64_t second_seed() const noexcept {
    return detail::mix(seed, 0x7175616e74ull) | 1u;
  }
  static constexpr index_t parts = inner && level_bits > 0 ? 2 : 1;  ///< own_dim / dim

 private:
  template <class>
  friend struct warp_codec;
  static constexpr index_t block_tokens = 32, most_dim = 1024;

  [[nodiscard]] KVSLIM_HD constexpr status check_options() const noexcept {
    if (length > turbo_length::least || levels > turbo_levels::gaussian)
      return detail::fail(errc::invalid_option,
                          "kvslim: turboquant knows no such length or levels");
    return detail::check_residual(residual);
  }
  [[nodiscard]] static KVSLIM_HD constexpr auto codes_in(index_t dim) noexcept {
    return detail::bit_parts < Keys, level_bits == 0 ? 1 : level_bits > {dim, block_tokens};
  }
  [[nodiscard]] static KVSLIM_HD constexpr auto signs(index_t dim) noexcept {
    return detail::bit_parts<Keys, 1>{dim, block_tokens};
  }
  [[nodiscard]] static KVSLIM_HD constexpr index_t signs_at(index_t dim) noexcept {
    return level_bits > 0 ? codes_in(dim).bytes() : 0;
  }
  [[nodiscard]] static KVSLIM_HD constexpr index_t length_at(index_t dim) noexcept {
    return signs_at(dim) + (inner ? signs(dim).bytes() : 0);
  }
  [[nodiscard]] static KVSLIM_HD constexpr index_t missed_at(index_t dim) noexcept {
    return length_at(dim) + (level_bits > 0 ? 2 * block_tokens : 0);
  }
  [[nodiscard]] static KVSLIM_HD float root_of(index_t dim) noexcept {
    return detail::divide(1.0f, detail::root(static_cast<float>(dim)));
  }
  [[nodiscard]] static KVSLIM_HD float sign_size(index_t dim) noexcept {
    return 1.25331414f * root_of(dim);  // sqrt(pi / 2)
  }
  [[nodiscard]] static KVSLIM_HD f16 half_of(double x) noexcept {
    auto const y = static_cast<float>(x);
    return from_float<f16>(y < 65504.0f ? y : 65504.0f);
  }
  static KVSLIM_HD void put_half(std::byte* block, index_t at, index_t t, f16 x) noexcept {
    detail::array_at<f16>(block + at)[t] = x;
  }
  [[nodiscard]] static KVSLIM_HD float get_half(std::byte const* block, index_t at,
                                                index_t t) noexcept {
    return detail::widen(detail::array_at<f16>(block + at)[t]);
  }
  static KVSLIM_HD void add_square(float x, double& sum) noexcept {
    sum += static_cast<double>(x) * static_cast<double>(x);
  }
  [[nodiscard]] static KVSLIM_HD double norm_of(float const* x, index_t dim) noexcept {
    double sum = 0.0;
    for (index_t d = 0; d < dim; ++d) add_square(x[d], sum);
    return std::sqrt(sum);
  }
  /// What a row is multiplied by to look like a random direction times sqrt(dim). Nothing that is
  /// stored depends on whether subnormal floats are flushed to zero.
  [[nodiscard]] static KVSLIM_HD float to_unit(double norm, index_t dim) noexcept {
    return norm > 1e-20 ? static_cast<float>(std::sqrt(static_cast<double>(dim)) / norm) : 0.0f;
  }
  /// The norms of n rows, four at a time: sums of one wait for each other.
  static KVSLIM_HD void norms_of(float const* rows, index_t n, index_t dim, double* out) noexcept {
    for (index_t i = 0; i < n; i += 4) {
      double sum[4] = {};
      for (index_t d = 0; d < dim; ++d)
        for (index_t k = 0; k < 4; ++k) {
          auto const x = static_cast<double>(rows[(i + k) * dim + d]);
          sum[k] += x * x;
        }
      for (index_t k = 0; k < 4; ++k) out[i + k] = std::sqrt(sum[k]);
    }
  }
  /// Codes rotated rows that fill whole units, by kernels; false: nothing was done.
  [[nodiscard]] KVSLIM_HD bool encode_units(float* rows, site const& at,
                                            std::byte* block) const noexcept {
    constexpr index_t together = Keys ? detail::unit_tokens : detail::unit_quad;
    index_t const dim = at.dim, n = at.n;
    if (at.first % together != 0 || n % together != 0 || length != turbo_length::row ||
        !detail::codes_levels(dim))
      return false;
    auto* const codes = detail::codes_of(block);
    detail::local<double, block_tokens> norms;
    if constexpr (level_bits > 0) {
      constexpr int count = 1 << level_bits;
      detail::local<float, detail::most_turbo_levels> table, bounds;
      detail::fill_turbo_levels<level_bits>(dim, levels, 1.0f, table);
      for (int i = 1; i < count; ++i) bounds[i - 1] = detail::between_turbo_levels(table, i);
      norms_of(rows, n, dim, norms);
      detail::local<float, block_tokens> factor;
      for (index_t i = 0; i < n; ++i) factor[i] = to_unit(norms[i], dim);
      for (index_t i = 0; i < n; i += together)
        detail::count_bounds_below<Keys, level_bits>(
            rows + i * dim, dim, factor + i, bounds, [&](index_t d, std::uint32_t const* words) {
              codes_in(dim).pack(words, codes, codes_in(dim).unit(at.first + i, d));
            });
      for (int i = 0; i < count; ++i) table[i] *= root_of(dim);
      for (index_t i = 0; i < n; ++i) {
        index_t const t = at.first + i;
        put_half(block, length_at(dim), t, half_of(norms[i] > 1e-20 ? norms[i] : 0.0));
        if constexpr (inner) {
          auto const stored = static_cast<double>(get_half(block, length_at(dim), t));
          detail::take_levels<level_bits>(rows + i * dim, dim, factor[i], bounds, table, stored);
        }
      }
    }
    if constexpr (inner) {
      norms_of(rows, n, dim, norms);
      ops::rotate_by_hadamard(rows, dim, second_seed(), false, n);
      for (index_t i = 0; i < n; i += together)
        detail::signs_of<Keys>(rows + i * dim, dim, [&](index_t d, std::uint32_t const* words) {
          signs(dim).pack(words, codes + signs_at(dim), signs(dim).unit(at.first + i, d));
        });
      for (index_t i = 0; i < n; ++i)
        put_half(block, missed_at(dim), at.first + i, half_of(norms[i]));
    }
    return true;
  }
  /// Sums over a token's coordinates, in order, which its length may be made of.
  struct level_sums {
    double both = 0.0, squares = 0.0;

    KVSLIM_HD void add(float y, float level) noexcept {
      both += static_cast<double>(y) * static_cast<double>(level);
      squares += static_cast<double>(level) * static_cast<double>(level);
    }
  };
  [[nodiscard]] KVSLIM_HD f16 length_of(index_t dim, double norm,
                                        level_sums const& sums) const noexcept {
    double const factor = length == turbo_length::row ? 1.0
                          : length == turbo_length::decoded
                              ? std::sqrt(static_cast<double>(dim) / sums.squares)
                              : sums.both / sums.squares;
    return half_of(norm > 1e-20 ? norm * factor : 0.0);
  }
  /// What a level and the stored length miss of a channel.
  [[nodiscard]] static KVSLIM_HD float missed_of(float x, float stored, float level) noexcept {
    return static_cast<float>(static_cast<double>(x) -
                              static_cast<double>(stored) * static_cast<double>(level));
  }
  /// Stores the levels of one token; x becomes what they miss.
  KVSLIM_HD void encode_levels(float* x, index_t t, index_t dim, std::byte* block) const noexcept {
    constexpr int count = 1 << level_bits;
    detail::local<float, detail::most_turbo_levels> table;
    detail::fill_turbo_levels<level_bits>(dim, levels, 1.0f, table);
    double const norm = norm_of(x, dim);
    float const inverse = to_unit(norm, dim);
    auto* const codes = detail::codes_of(block);
    level_sums sums;
    for (index_t d = 0; d < dim; ++d) {
      float const y = x[d] * inverse;
      std::uint32_t c = 0;
      for (int i = 1; i < count; ++i) c += detail::between_turbo_levels(table, i) < y ? 1u : 0u;
      codes_in(dim).put(codes, t, d, c);
      sums.add(y, table[c]);
    }
    f16 const stored = length_of(dim, norm, sums);
    put_half(block, length_at(dim), t, stored);
    if constexpr (inner)
      for (index_t d = 0; d < dim; ++d)
        x[d] = missed_of(x[d], detail::widen(stored),
                         table[codes_in(dim).get(codes, t, d)] * root_of(dim));
  }
  struct run_lengths {
    detail::local<float, block_tokens> of;
  };
  [[nodiscard]] static KVSLIM_HD run_lengths lengths_of(f16 const* halves,
                                                        site const& at) noexcept {
    run_lengths x = {};
    for (index_t t = at.first; t < at.first + at.n; ++t) x.of[t] = detail::widen(halves[t]);
    return x;
  }
  /// Calls f(how codes are split, codes, values of the codes, lengths of the tokens, first own
  /// coordinate) for the levels and for the signs; values repeat to the end of their table.
  template <class F>
  KVSLIM_HD void each_part(std::byte const* block, site const& at, F const& f) const noexcept {
    index_t const dim = at.dim;
    auto const* const codes = detail::codes_of(block);
    detail::local<float, detail::most_turbo_levels> table;
    auto const repeat = [&](int n) {
      for (int i = n; i < detail::most_turbo_levels; ++i) table[i] = table[i - n];
    };
    if constexpr (level_bits > 0) {
      detail::fill_turbo_levels<level_bits>(dim, levels, root_of(dim), table);
      repeat(1 << level_bits);
      f(codes_in(dim), codes, table, detail::array_at<f16 const>(block + length_at(dim)),
        index_t{0});
    }
    if constexpr (inner) {
      table[0] = -sign_size(dim);
      table[1] = sign_size(dim);
      repeat(2);
      f(signs(dim), codes + signs_at(dim), table,
        detail::array_at<f16 const>(block + missed_at(dim)), (parts - 1) * dim);
    }
  }
  /// scores[h][i] += length * sum of q[h] * value(code), in pieces as detail::dot_codes.
  template <index_t Heads, class Parts>
  static KVSLIM_HD void dot_heads(Parts const& coded, std::uint8_t const* codes, site const& at,
                                  float const* table, float const* lengths, float const* q,
                                  float* scores) noexcept {
    index_t const dim = at.dim;
    detail::lane_sums<Heads, block_tokens> total;
    for (index_t begin = 0; begin < dim; begin += detail::partial_channels) {
      detail::lane_sums<Heads, block_tokens> part;
      index_t const end = detail::min(dim, begin + detail::partial_channels);
      for (index_t d0 = begin; d0 < end; d0 += detail::unit_quad) {
        detail::local<std::uint32_t, 32> words;
        coded.unpack(codes, d0 / detail::unit_quad, words);
        for (index_t c = 0; c < detail::unit_quad; ++c) {
          detail::local<float, block_tokens> x;
          for (index_t t = 0; t < block_tokens; ++t) x[t] = table[(words[t] >> (8 * c)) & 255u];
          part.add(x, [&](index_t h) { return q[h * parts * dim + d0 + c]; });
        }
      }
      total.add(part);
    }
    detail::local<float, Heads, block_tokens> sums;
    total.store(sums);
    for (index_t h = 0; h < Heads; ++h)
      for (index_t i = 0; i < at.n; ++i)
        scores[h * run_tokens + i] += sums[h][at.first + i] * lengths[at.first + i];
  }
  template <index_t Heads, class Parts>
  static KVSLIM_HD void add_heads(Parts const& coded, std::uint8_t const* codes, site const& at,
                                  float const* table, float const* lengths, float const* p,
                                  float* out) noexcept {
    constexpr index_t n = detail::unit_channels;
    index_t const dim = at.dim;
    detail::local<float, Heads, block_tokens> weights;
    for (index_t h = 0; h < Heads; ++h)
      for (index_t i = 0; i < at.n; ++i)
        weights[h][i] = p[h * run_tokens + i] * lengths[at.first + i];
    for (index_t d = 0; d < dim; d += n) {
      detail::lane_sums<Heads, n> sums;
      for (index_t i = 0; i < at.n;) {
        detail::local<std::uint32_t, n> words;
        coded.unpack(codes, coded.unit(at.first + i, d), words);
        for (index_t t = (at.first + i) % 4; t < 4 && i < at.n; ++t, ++i) {
          detail::local<float, n> x;
          for (index_t c = 0; c < n; ++c) x[c] = table[(words[c] >> (8 * t)) & 255u];
          sums.add(x, [&](index_t h) { return weights[h][i]; });
        }
      }
      detail::local<float, Heads, n> sum;
      sums.store(sum);
      for (index_t h = 0; h < Heads; ++h)
        for (index_t c = 0; c < n && d + c < dim; ++c) out[h * parts * dim + d + c] += sum[h][c];
    }
  }
};

template <int Bits, turbo_form Form = turbo_form::mse, element Tail = f16>
using turbo_key = turbo_rows<true, Bits, Form, Tail>;
template <int Bits, turbo_form Form = turbo_form::mse, element Tail = f16>
using turbo_value = turbo_rows<false, Bits, Form, Tail>;
static_assert(key_codec<turbo_key<4>> && detail::check_codec<turbo_key<4>>::value);
static_assert(value_codec<turbo_value<3, turbo_form::inner>> &&
              detail::check_codec<turbo_value<3, turbo_form::inner>>::value);

KVSLIM_END_NAMESPACE
