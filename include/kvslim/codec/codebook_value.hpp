// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/codebook.hpp>
#include <kvslim/isa/level_encoders.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Values per token: the channels beyond the token's quantiles outliers / 2 and 1 - outliers / 2
/// are kept aside as f16, the least and the greatest of the rest become -1 and 1, and every channel
/// takes the next level of a codebook. A token of the first `sinks` is kept exact.
///
/// Record: float levels[2^Bits] that codes are chosen by, levels[2^Bits] that they are read as. Row
/// r reads number r mod records of the table. State: first tokens (detail::first_tokens), then the
/// record if it comes from the prompt. Byte layout of a block of 4 tokens: codes
/// (detail::bit_parts), Param half[4], Param middle[4], outliers (detail::outlier_lists) of each
/// token, 1 + (dim - 1) * outliers / 2 at either end. Requires: value_dim at most 65536
/// (invalid_shape); detail::check_codebook. Error: half the gap between two levels times `half`;
/// f16 for what is kept aside.
template <int Bits, codebook_from From = codebook_from::table, element Tail = f16,
          affine_parameter Param = f16>
struct codebook_value {
  static_assert(Bits >= 2 && Bits <= 4, "kvslim: codebooks of 2, 3 or 4 bits");
  using tail_type = Tail;
  static constexpr bool from_prompt = From == codebook_from::prompt;
  static constexpr codec_traits traits{
      .form =
          form_id{detail::affine_form<Tail, Param>(detail::form_kind::codebook_value, Bits).value |
                  static_cast<std::uint32_t>(From) << 12},
      .whole_blocks = true,
      .fitted = true,
      .tabled = !from_prompt};

  index_t sinks = 1;
  float outliers = 0.01f;
  index_t records = 1;  ///< in the table

  [[nodiscard]] KVSLIM_HD constexpr status check(index_t dim) const noexcept {
    if (auto const s = detail::check_codebook(sinks, outliers, records); !s.ok()) return s;
    if (auto const s = detail::check_outliers(outliers, dim); !s.ok()) return s;
    return detail::check_channels(dim);
  }
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes sizes(index_t dim, index_t) const noexcept {
    index_t const aside = lists::bytes_of(run_tokens, each(dim), dim);  // on CUDA at once
    return {.block_tokens = block_tokens,
            .block_bytes = list_offset(dim) + lists::bytes_of(block_tokens, each(dim), dim),
            .settle_by = block_tokens,
            .state_bytes = first(dim).bytes() + (from_prompt ? 4 * 2 * levels : 0),
            .fit_floats = dim + (from_prompt ? detail::level_bins::floats + 2 * run_tokens +
                                                   detail::div_up(aside, 4)
                                             : 0)};
  }
  [[nodiscard]] KVSLIM_HD constexpr float limit() const noexcept {
    return detail::within_f16(detail::largest_affine<Tail, Param>(Bits, rounding::precise));
  }
  [[nodiscard]] constexpr form written() const noexcept {
    return {traits.form.value,
            {static_cast<std::uint32_t>(sinks), detail::bit_cast<std::uint32_t>(outliers),
             static_cast<std::uint32_t>(records)}};
  }
  [[nodiscard]] static constexpr status read(form const& f, codebook_value& out) noexcept {
    if (!detail::is_form(f, traits.form, 3)) return detail::foreign_form();
    codebook_value const found{f.words[0], detail::bit_cast<float>(f.words[1]), f.words[2]};
    if (!found.check(1).ok()) return detail::foreign_form();
    out = found;
    return {};
  }

  template <class Read>
  KVSLIM_HD void fit(Read const& read, index_t n, site const& at, std::byte* state,
                     float* scratch) const {
    index_t const dim = at.dim;
    first(dim).keep(read, n, state, scratch);
    if constexpr (from_prompt) {
      float* const row = scratch;
      detail::level_bins const bins{row + dim};
      lists const aside{as_bytes(row + dim + detail::level_bins::floats), 1, each(dim), dim};
      bins.clear();
      index_t const looked = detail::fitted_tokens(n);
      for (index_t i = 0; i < looked; ++i) {
        if (i * n / looked < sinks) continue;
        read(index_t{0}, i * n / looked, row);
        aside.choose(0, [&](index_t d) { return row[d]; });
        span const s = span_of(row, dim, aside, 0);
        for (index_t d = 0; d < dim; ++d)
          if (aside.find(0, d) < 0) bins.add(s.normal(row[d]));
      }
      float* const out = detail::array_at<float>(state + first(dim).bytes());
      bins.template fit<Bits>(out);
      for (index_t j = 0; j < levels; ++j) out[levels + j] = out[j];
    }
  }
  KVSLIM_HD void encode(float const* rows, site const& at, std::byte* block) const noexcept {
    index_t const dim = at.dim;
    auto const aside = lists_of(block, dim);
    auto const stored = spans_of(block, dim);
    parts const codes{dim, block_tokens};
    float const* const find = record_of(at);
    for (index_t i = 0; i < at.n; ++i) {
      index_t const t = at.first + i;
      float const* const row = rows + i * dim;
      aside.choose(t, [&](index_t d) { return row[d]; });
      span const s = span_of(row, dim, aside, t);
      stored.set(t, {detail::narrow<Param>(s.half), detail::narrow<Param>(s.middle)});
    }
    if (at.first == 0 && at.n == block_tokens) {
      detail::local<float, block_tokens> middle, half;
      for (index_t t = 0; t < block_tokens; ++t) {
        span const s = span_at(stored, t);
        middle[t] = s.middle;
        half[t] = s.half;
      }
      if (detail::nearest_of_values<Bits>(
              rows, dim, find, middle, half, [&](index_t d, std::uint32_t const* words) {
                codes.pack(words, detail::codes_of(block), codes.unit(0, d));
              }))
        return;
    }
    for (index_t i = 0; i < at.n; ++i) {
      index_t const t = at.first + i;
      span const kept = span_at(stored, t);
      for (index_t d = 0; d < dim; ++d)
        codes.put(detail::codes_of(block), t, d,
                  detail::nearest_level<Bits>(kept.normal(rows[i * dim + d]), find));
    }
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, site const& at,
                                       index_t d) const noexcept {
    if (auto const* const exact = first(at.dim).find(at.state, at.token); exact != nullptr)
      return detail::widen(exact[d]);
    auto const aside = lists_of(block, at.dim);
    index_t const i = aside.find(at.first, d);
    return i >= 0 ? aside.value(at.first, i) : decode_code(block, at, at.first, d);
  }
  [[nodiscard]] KVSLIM_HD std::uint32_t code(std::byte const* block, site const& at,
                                             index_t d) const noexcept {
    return parts{at.dim, block_tokens}.get(detail::codes_of(block), at.first, d);
  }
  KVSLIM_HD void accumulate(std::byte const* block, site const& at, float const* p, index_t heads,
                            float* out) const noexcept {
    index_t const bytes = sizes(at.dim, 0).block_bytes;
    for (index_t done = 0, n = 0; done < at.n; done += n) {
      site from = at;
      from.first = (at.first + done) % block_tokens;
      from.token = at.token + done;
      n = from.n = detail::min(at.n - done, run_tokens - from.first);
      add_run(block + (at.first + done) / block_tokens * bytes, from, p + done, heads, out);
    }
  }

  /// Floats of a record.
  [[nodiscard]] static KVSLIM_HD constexpr index_t record_floats(index_t) noexcept {
    return 2 * levels;
  }
  /// Outliers of a token at either end.
  [[nodiscard]] KVSLIM_HD constexpr index_t each(index_t dim) const noexcept {
    if (outliers == 0.0f) return 0;
    auto const more = static_cast<index_t>(static_cast<float>(dim - 1) * outliers * 0.5f);
    return detail::min(1 + more, dim / 2);
  }

 private:
  template <class>
  friend struct warp_codec;
  static constexpr index_t block_tokens = detail::unit_quad, levels = index_t{1} << Bits;
  using parts = detail::bit_parts<false, Bits>;
  using lists = detail::outlier_lists<std::byte>;

  /// What is -1 and 1 of a token: middle - half and middle + half.
  struct span {
    float half, middle;
    [[nodiscard]] KVSLIM_HD float normal(float x) const noexcept {
      return half > 0.0f ? detail::divide(x - middle, half) : 0.0f;
    }
  };

  [[nodiscard]] KVSLIM_HD constexpr detail::first_tokens<Tail> first(index_t dim) const noexcept {
    return {sinks, dim};
  }
  [[nodiscard]] static KVSLIM_HD std::byte* as_bytes(float* at) noexcept {
    return static_cast<std::byte*>(static_cast<void*>(at));
  }
  [[nodiscard]] KVSLIM_HD float const* record_of(site const& at) const noexcept {
    if constexpr (from_prompt)
      return detail::array_at<float const>(at.state + first(at.dim).bytes());
    else
      return static_cast<float const*>(at.table) + at.row % records * record_floats(at.dim);
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t list_offset(index_t dim) const noexcept {
    return parts{dim, block_tokens}.bytes() + detail::parameter_array<Param>::bytes(block_tokens);
  }
  template <class Byte>
  [[nodiscard]] KVSLIM_HD auto spans_of(Byte* block, index_t dim) const noexcept {
    return detail::parameters_at<Param>(block + parts{dim, block_tokens}.bytes(), block_tokens);
  }
  template <class Spans>
  [[nodiscard]] static KVSLIM_HD span span_at(Spans const& stored, index_t t) noexcept {
    return {detail::widen(stored.scale[t]), detail::widen(stored.low[t])};
  }
  template <class Byte>
  [[nodiscard]] KVSLIM_HD detail::outlier_lists<Byte> lists_of(Byte* block,
                                                               index_t dim) const noexcept {
    return {block + list_offset(dim), block_tokens, each(dim), dim};
  }
  /// The span of what is not kept aside.
  [[nodiscard]] KVSLIM_HD span span_of(float const* row, index_t dim, lists const& aside,
                                       index_t line) const noexcept {
    constexpr index_t some = 64;
    float least = 0.0f, most = 0.0f;
    bool any = false;
    for (index_t begin = 0; begin < dim; begin += some) {
      std::uint64_t out = 0;  // bit c: channel begin + c is kept aside
      for (index_t i = 0; i < 2 * aside.each; ++i) {
        index_t const c = aside.place(line, i) - begin;
        if (c >= 0 && c < some) out |= std::uint64_t{1} << c;
      }
      for (index_t d = begin; d < detail::min(dim, begin + some); ++d) {
        if ((out >> (d - begin) & 1u) != 0) continue;
        least = any && least < row[d] ? least : row[d];
        most = any && most > row[d] ? most : row[d];
        any = true;
      }
    }
    return {(most - least) * 0.5f, (most + least) * 0.5f};
  }
  [[nodiscard]] KVSLIM_HD float decode_code(std::byte const* block, site const& at, index_t t,
                                            index_t d) const noexcept {
    span const s = span_at(spans_of(block, at.dim), t);
    auto const level = parts{at.dim, block_tokens}.get(detail::codes_of(block), t, d);
    return record_of(at)[levels + level] * s.half + s.middle;
  }
  /// Adds tokens of blocks, of which the last ends within 32 tokens of the first one's begin.
  KVSLIM_HD void add_run(std::byte const* block, site const& at, float const* p, index_t heads,
                         float* out) const noexcept {
    index_t const dim = at.dim, bytes = sizes(dim, 0).block_bytes, end = at.first + at.n;
    detail::local<float, run_heads, run_tokens> weights = {};
    detail::local<float, run_heads> base = {};
    for (index_t t = at.first; t < end; ++t) {
      index_t const i = t - at.first;
      auto const* const here = block + t / block_tokens * bytes;
      if (auto const* const exact = first(dim).find(at.state, at.token + i); exact != nullptr) {
        for (index_t h = 0; h < heads; ++h)
          for (index_t d = 0; d < dim; ++d)
            out[h * dim + d] += p[h * run_tokens + i] * detail::widen(exact[d]);
        continue;
      }
      span const s = span_at(spans_of(here, dim), t % block_tokens);
      for (index_t h = 0; h < heads; ++h) {
        weights[h][t] = p[h * run_tokens + i] * s.half;
        base[h] += p[h * run_tokens + i] * s.middle;
      }
      auto const aside = lists_of(here, dim);
      for (index_t j = 0; j < 2 * aside.each; ++j) {
        index_t const d = aside.place(t % block_tokens, j);
        if (d >= dim) continue;  // of a damaged cache
        float const more =
            aside.value(t % block_tokens, j) - decode_code(here, at, t % block_tokens, d);
        for (index_t h = 0; h < heads; ++h) out[h * dim + d] += p[h * run_tokens + i] * more;
      }
    }
    add_codes(block, at, weights, base, heads, out);
  }
  /// Adds weights * level of a run's tokens, and base, to every channel.
  KVSLIM_HD void add_codes(std::byte const* block, site const& at,
                           detail::local<float, run_heads, run_tokens> const& weights,
                           float const* base, index_t heads, float* out) const noexcept {
    constexpr index_t n = detail::unit_channels;
    index_t const dim = at.dim, bytes = sizes(dim, 0).block_bytes, end = at.first + at.n;
    parts const codes{dim, block_tokens};
    alignas(64) detail::local<float, 16> values;
    for (index_t i = 0; i < 16; ++i) values[i] = record_of(at)[levels + i % levels];
    if (detail::add_level_blocks<Bits>(detail::level_codes{detail::codes_of(block), codes.units(),
                                                           values, nullptr, dim, bytes},
                                       detail::div_up(end, block_tokens), dim, weights[0], base,
                                       heads, out))
      return;
    detail::by_heads(heads, [&](auto count, index_t h0) {
      constexpr index_t m = decltype(count)::value;
      for (index_t d = 0; d < dim; d += n) {
        detail::lane_sums<m, n> sums;
        detail::local<float, m, n> sum;
        for (index_t b = 0; b * block_tokens < end; ++b) {
          detail::local<std::uint32_t, n> words;
          codes.unpack(detail::codes_of(block + b * bytes), codes.unit(0, d), words);
          for (index_t t = 0; t < block_tokens; ++t) {
            detail::local<float, n> x;
            for (index_t c = 0; c < n; ++c) x[c] = values[(words[c] >> (8 * t)) & 255u];
            sums.add(x, [&](index_t h) { return weights[h0 + h][b * block_tokens + t]; });
          }
        }
        sums.store(sum);
        for (index_t h = 0; h < m; ++h)
          for (index_t c = 0; c < detail::min(n, dim - d); ++c)
            out[(h0 + h) * dim + d + c] += sum[h][c] + base[h0 + h];
      }
    });
  }
};

static_assert(value_codec<codebook_value<4>> && detail::check_codec<codebook_value<4>>::value);

KVSLIM_END_NAMESPACE
