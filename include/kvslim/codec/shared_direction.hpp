// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Two rows share one direction per token and keep a magnitude each: what minicache is made of.

#include <kvslim/codec/dense.hpp>
#include <kvslim/ops/rows.hpp>
#include <kvslim/ops/select.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// How two rows become one direction.
struct direction_options {
  float retained = 0.05f;   ///< part of a block's tokens that stay exact
  float depth = 0.6f;       ///< weight of the second row's direction
  index_t block = 64;       ///< tokens that are coded, and retained, together
  row_group rows = {2, 1};  ///< which two rows share

  /// Tokens of a block that stay exact.
  [[nodiscard]] KVSLIM_HD constexpr index_t exact() const noexcept {
    float const part = retained * static_cast<float>(block);
    auto const whole = static_cast<index_t>(part);
    return static_cast<float>(whole) < part ? whole + 1 : whole;
  }
  [[nodiscard]] KVSLIM_HD constexpr status check() const noexcept {
    if (!(retained >= 0.0f && retained <= 1.0f && depth >= 0.0f && depth <= 1.0f))
      return fail(errc::invalid_option, "kvslim: minicache needs retained and depth in [0, 1]");
    if (block < run_tokens || block > 4096 || block % run_tokens != 0)
      return fail(errc::invalid_option,
                  "kvslim: minicache's block is a multiple of 32 between 32 and 4096");
    if (!(rows.sequences == 2 && rows.kv_heads == 1) &&
        !(rows.sequences == 1 && rows.kv_heads == 2))
      return fail(errc::invalid_option,
                  "kvslim: minicache's rows are two sequences or two kv_heads");
    return {};
  }
};

/// Sums over the channels of two rows, in double: the same on every backend once rounded.
struct row_pair {
  double aa = 0.0, bb = 0.0, ab = 0.0;

  KVSLIM_HD row_pair(float const* a, float const* b, index_t dim) noexcept {
    for (index_t d = 0; d < dim; ++d) {
      auto const x = static_cast<double>(a[d]), y = static_cast<double>(b[d]);
      aa += x * x;
      bb += y * y;
      ab += x * y;
    }
    aa = std::sqrt(aa);
    bb = std::sqrt(bb);
    ab /= floored(aa) * floored(bb);
  }
  /// Norms below this give no direction of length one (KVCache-Factory's eps).
  [[nodiscard]] static KVSLIM_HD constexpr double floored(double norm) noexcept {
    return norm > 1e-6 ? norm : 1e-6;
  }
};

}  // namespace detail

/// K or V (`Dense` says which) of two rows: per token one direction and two magnitudes; the tokens
/// of a block whose rows point apart most are kept exact.
///
/// Byte layout of a block of `block` tokens, `kept` of them exact: u32 mask[block / 32], bit t % 32
/// of word t / 32 set where token t is exact; Dense blocks of `block` vectors; T
/// magnitude[2][block]; T second[kept][dim]. A token that is not exact is vector * magnitude in
/// either row: the direction times sqrt(dim), and the row's norm / sqrt(dim), so that both stay
/// within T's range. An exact token's vector is the first row, its magnitudes are 1, and the
/// second row is entry n of `second`, n the exact tokens before it. Padded to 4 bytes.
/// Requires: head_dim of at least two 16-bit channels or one float (invalid_shape), options in
/// range (invalid_option). Source: merge/minicache.hpp.
template <class Dense, detail::form_kind Kind>
struct shared_direction {
  using tail_type = typename Dense::tail_type;
  static constexpr codec_traits traits{
      .form = detail::dense_form<tail_type>(Kind), .whole_blocks = true, .grouped = true};

  detail::direction_options opt = {};

  [[nodiscard]] KVSLIM_HD constexpr row_group group() const noexcept { return opt.rows; }
  [[nodiscard]] KVSLIM_HD constexpr status check(index_t dim) const noexcept {
    if (auto const result = opt.check(); !result.ok()) return result;
    if (dim * element_bytes < 4)
      return detail::fail(errc::invalid_shape, "kvslim: minicache needs head_dim of at least 2");
    return detail::check_channels(dim);
  }
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes sizes(index_t dim, index_t) const noexcept {
    index_t const bytes = second_offset(dim) + opt.exact() * dim * element_bytes;
    return {.block_tokens = opt.block,
            .block_bytes = detail::round_up(bytes, 4),
            .settle_by = opt.block};
  }
  [[nodiscard]] KVSLIM_HD constexpr float limit() const noexcept {
    return largest_finite<tail_type>();
  }
  [[nodiscard]] constexpr form written() const noexcept {
    return {
        traits.form.value,
        {detail::bit_cast<std::uint32_t>(opt.retained), detail::bit_cast<std::uint32_t>(opt.depth),
         static_cast<std::uint32_t>(opt.block), static_cast<std::uint32_t>(opt.rows.sequences),
         static_cast<std::uint32_t>(opt.rows.kv_heads)}};
  }
  [[nodiscard]] static constexpr status read(form const& f, shared_direction& out) noexcept {
    if (!detail::is_form(f, traits.form, 5)) return detail::foreign_form();
    detail::direction_options const found{detail::bit_cast<float>(f.words[0]),
                                          detail::bit_cast<float>(f.words[1]),
                                          f.words[2],
                                          {f.words[3], f.words[4]}};
    if (!found.check().ok()) return detail::foreign_form();
    out = {found};
    return {};
  }

  /// Whole blocks: rows [2, block, dim]. What is most apart is found first, its cosines waiting
  /// where vectors will be.
  KVSLIM_HD void encode(float const* rows, site const& at, std::byte* block) const noexcept {
    for (index_t t = 0; t < opt.block; ++t) put_cosine(rows, at.dim, t, block);
    choose_exact(block);
    for (index_t t = 0; t < opt.block; ++t) encode_token(rows, at.dim, t, block);
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, site const& at,
                                       index_t d) const noexcept {
    if (at.member != 0 && is_exact(mask_of(block), at.first))
      return to_float(second_row(block, at.dim, at.first)[d]);
    float const vector = to_float(
        detail::array_at<tail_type>(block + vectors_offset())[element(at.dim, at.first, d)]);
    return vector * magnitude(block, at, at.first);
  }
  KVSLIM_HD void dot(std::byte const* block, site const& at, float const* q, index_t heads,
                     float* scores) const noexcept requires key_codec<Dense> {
    detail::local<float, run_tokens> lengths;
    load_magnitudes(block, at, lengths);
    each_second(block, at, lengths, [&](index_t i, tail_type const* row) {
      dot_second(row, at.dim, q, heads, scores + i);
    });
    detail::local<float, run_heads, run_tokens> sums = {};
    Dense{}.dot(block + offset_of(at), vectors_at(at), q, heads, sums[0]);
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < at.n; ++i) scores[h * run_tokens + i] += lengths[i] * sums[h][i];
  }
  KVSLIM_HD void accumulate(std::byte const* block, site const& at, float const* p, index_t heads,
                            float* out) const noexcept requires value_codec<Dense> {
    detail::local<float, run_tokens> lengths;
    load_magnitudes(block, at, lengths);
    detail::local<float, run_heads, run_tokens> weights = {};
    site rest = at;  // exact rows of one run lie next to each other
    rest.first = rest.n = 0;
    tail_type const* rows = nullptr;
    each_second(block, at, lengths, [&](index_t i, tail_type const* row) {
      if (rest.n == 0) rows = row;
      if (row != rows + rest.n * at.dim) return;  // a damaged mask
      for (index_t h = 0; h < heads; ++h) weights[h][rest.n] = p[h * run_tokens + i];
      ++rest.n;
    });
    if (rest.n > 0)
      Dense{}.accumulate(static_cast<std::byte const*>(static_cast<void const*>(rows)), rest,
                         weights[0], heads, out);
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < at.n; ++i) weights[h][i] = lengths[i] * p[h * run_tokens + i];
    Dense{}.accumulate(block + offset_of(at), vectors_at(at), weights[0], heads, out);
  }
  /// Whether the token of the site is exact.
  [[nodiscard]] static KVSLIM_HD bool retained(std::byte const* block, site const& at) noexcept {
    return is_exact(mask_of(block), at.first);
  }

 private:
  template <class>
  friend struct warp_codec;
  static constexpr index_t element_bytes = static_cast<index_t>(sizeof(tail_type));
  static constexpr index_t dense_tokens = Dense{}.sizes(1, 0).block_tokens;

  [[nodiscard]] KVSLIM_HD detail::row_pair pair_of(float const* rows, index_t dim,
                                                   index_t t) const noexcept {
    return {rows + t * dim, rows + (opt.block + t) * dim, dim};
  }
  KVSLIM_HD void put_cosine(float const* rows, index_t dim, index_t t,
                            std::byte* block) const noexcept {
    auto const cosine = static_cast<float>(pair_of(rows, dim, t).ab);
    std::memcpy(block + vectors_offset() + t * 4, &cosine, 4);
  }
  KVSLIM_HD void choose_exact(std::byte* block) const noexcept {
    auto* const mask = detail::array_at<std::uint32_t>(block);
    std::byte const* const cosines = block + vectors_offset();
    for (index_t w = 0; w < opt.block / run_tokens; ++w) mask[w] = 0;
    for (index_t i = 0; i < opt.exact(); ++i) {
      std::uint64_t best = 0;
      for (index_t t = 0; t < opt.block; ++t) {
        float cosine;
        std::memcpy(&cosine, cosines + t * 4, 4);
        std::uint64_t const key = is_exact(mask, t) ? 0 : ops::order_key(-cosine, t);
        best = key > best ? key : best;
      }
      index_t const t = ops::key_index(best);
      mask[t / run_tokens] |= 1u << (t % run_tokens);
    }
  }
  /// Exact tokens before token t.
  [[nodiscard]] static KVSLIM_HD index_t exact_before(std::byte const* block, index_t t) noexcept {
    std::uint32_t const* const mask = mask_of(block);
    index_t before = 0;
    for (index_t w = 0; w < t / run_tokens; ++w) before += bits_of(mask[w]);
    return before + bits_of(mask[t / run_tokens] & ((1u << (t % run_tokens)) - 1));
  }
  KVSLIM_HD void encode_token(float const* rows, index_t dim, index_t t,
                              std::byte* block) const noexcept {
    auto* const magnitudes = detail::array_at<tail_type>(block + magnitudes_offset(dim));
    auto* const kept = detail::array_at<tail_type>(block + second_offset(dim));
    float const *const a = rows + t * dim, *const b = rows + (opt.block + t) * dim;
    if (is_exact(mask_of(block), t)) {
      index_t const exact = exact_before(block, t);
      for (index_t d = 0; d < dim; ++d) put(block, dim, t, d, a[d]);
      for (index_t d = 0; d < dim; ++d) kept[exact * dim + d] = from_float<tail_type>(b[d]);
      magnitudes[t] = magnitudes[opt.block + t] = from_float<tail_type>(1.0f);
      return;
    }
    auto const pair = pair_of(rows, dim, t);
    double const root = std::sqrt(static_cast<double>(dim));
    encode_direction(block, dim, t, a, b, pair, root);
    magnitudes[t] = from_float<tail_type>(static_cast<float>(pair.aa / root));
    magnitudes[opt.block + t] = from_float<tail_type>(static_cast<float>(pair.bb / root));
  }
  /// Magnitudes of the site's tokens; a run that begins a word of the mask is read at once.
  KVSLIM_HD void load_magnitudes(std::byte const* block, site const& at,
                                 float* out) const noexcept {
    auto const* const in = detail::array_at<tail_type>(block + magnitudes_offset(at.dim)) +
                           (at.member != 0 ? opt.block : 0) + at.first;
    if (at.first % run_tokens == 0) return detail::widen_all<run_tokens>(in, out);
    for (index_t i = 0; i < at.n; ++i) out[i] = to_float(in[i]);
  }
  /// Calls use(i, row) for the site's tokens whose row lies among the second ones, and takes their
  /// magnitudes away, so that their vectors add nothing.
  template <class Use>
  KVSLIM_HD void each_second(std::byte const* block, site const& at, float* lengths,
                             Use const& use) const noexcept {
    if (at.member == 0) return;
    for (index_t i = 0; i < at.n; ++i) {
      if (!is_exact(mask_of(block), at.first + i)) continue;
      lengths[i] = 0.0f;
      use(i, second_row(block, at.dim, at.first + i));
    }
  }
  /// Adds q[h] . row to scores[h * run_tokens].
  static KVSLIM_HD void dot_second(tail_type const* row, index_t dim, float const* q, index_t heads,
                                   float* scores) noexcept {
    constexpr index_t piece = 16;
    index_t const whole = dim - dim % piece;
    detail::local<float, run_heads, piece> parts = {};
    for (index_t d = 0; d < whole; d += piece) {
      detail::local<float, piece> x;
      detail::widen16(row + d, x);
      for (index_t h = 0; h < heads; ++h)
        for (index_t c = 0; c < piece; ++c) parts[h][c] += q[h * dim + d + c] * x[c];
    }
    for (index_t h = 0; h < heads; ++h) {
      float sum = 0.0f;
      for (index_t c = 0; c < piece; ++c) sum += parts[h][c];
      for (index_t d = whole; d < dim; ++d) sum += q[h * dim + d] * to_float(row[d]);
      scores[h * run_tokens] += sum;
    }
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t vectors_offset() const noexcept {
    return opt.block / run_tokens * 4;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t magnitudes_offset(index_t dim) const noexcept {
    return vectors_offset() + opt.block * dim * element_bytes;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t second_offset(index_t dim) const noexcept {
    return magnitudes_offset(dim) + 2 * opt.block * element_bytes;
  }
  /// Where channel d of vector t lies among the vectors.
  [[nodiscard]] static KVSLIM_HD constexpr index_t element(index_t dim, index_t t,
                                                           index_t d) noexcept {
    return (t / dense_tokens * dim + d) * dense_tokens + t % dense_tokens;
  }
  KVSLIM_HD void put(std::byte* block, index_t dim, index_t t, index_t d, float x) const noexcept {
    detail::array_at<tail_type>(block + vectors_offset())[element(dim, t, d)] =
        from_float<tail_type>(x);
  }
  [[nodiscard]] static KVSLIM_HD std::uint32_t const* mask_of(std::byte const* block) noexcept {
    return detail::array_at<std::uint32_t>(block);
  }
  [[nodiscard]] static KVSLIM_HD bool is_exact(std::uint32_t const* mask, index_t t) noexcept {
    return (mask[t / run_tokens] >> (t % run_tokens) & 1u) != 0;
  }
  [[nodiscard]] KVSLIM_HD float magnitude(std::byte const* block, site const& at,
                                          index_t t) const noexcept {
    return to_float(detail::array_at<tail_type>(
        block + magnitudes_offset(at.dim))[(at.member != 0 ? opt.block : 0) + t]);
  }
  /// The second row of exact token t. A damaged mask leads to none but the block's own entries.
  [[nodiscard]] KVSLIM_HD tail_type const* second_row(std::byte const* block, index_t dim,
                                                      index_t t) const noexcept {
    index_t const n = detail::min(exact_before(block, t), detail::max(opt.exact() - 1, 0));
    return detail::array_at<tail_type>(block + second_offset(dim)) + n * dim;
  }
  [[nodiscard]] static KVSLIM_HD constexpr index_t bits_of(std::uint32_t x) noexcept {
    x -= x >> 1 & 0x55555555u;
    x = (x & 0x33333333u) + (x >> 2 & 0x33333333u);
    return static_cast<index_t>(((x + (x >> 4)) & 0x0f0f0f0fu) * 0x01010101u >> 24);
  }
  /// The Dense block and site of a site's first vector.
  [[nodiscard]] KVSLIM_HD index_t offset_of(site const& at) const noexcept {
    return vectors_offset() + at.first / dense_tokens * dense_tokens * at.dim * element_bytes;
  }
  [[nodiscard]] static KVSLIM_HD site vectors_at(site at) noexcept {
    at.first %= dense_tokens;
    return at;
  }
  /// Spherical interpolation between the directions of a and b, of length one, times sqrt(dim).
  KVSLIM_HD void encode_direction(std::byte* block, index_t dim, index_t t, float const* a,
                                  float const* b, detail::row_pair const& pair,
                                  double root) const noexcept {
    constexpr double most = 1.0 - 1e-6;
    double const cosine = pair.ab > most ? most : pair.ab < -most ? -most : pair.ab;
    double const angle = std::acos(cosine), depth = static_cast<double>(opt.depth);
    double const wa = std::sin((1.0 - depth) * angle) / (std::sin(angle) * pair.floored(pair.aa));
    double const wb = std::sin(depth * angle) / (std::sin(angle) * pair.floored(pair.bb));
    auto const mixed = [&](index_t d) {
      return wa * static_cast<double>(a[d]) + wb * static_cast<double>(b[d]);
    };
    double length = 0.0;
    for (index_t d = 0; d < dim; ++d) length += mixed(d) * mixed(d);
    double const scale = root / pair.floored(std::sqrt(length));
    for (index_t d = 0; d < dim; ++d) put(block, dim, t, d, static_cast<float>(mixed(d) * scale));
  }
};

KVSLIM_END_NAMESPACE
