// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/codebook.hpp>
#include <kvslim/isa/level_encoders.hpp>
#include <kvslim/isa/tile_kernels.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Keys before RoPE, for rebuilt_key: each channel is moved and scaled so that its two thresholds
/// are -1 and 1, and takes the next level of a codebook. What lies beyond the thresholds is kept
/// aside as f16, in blocks with more of it than they have room for the values that lie farthest
/// beyond, and a token of the first `sinks` is kept exact.
///
/// Record: float levels[2^Bits] that codes are chosen by, levels[2^Bits] that they are read as,
/// lower[dim], upper[dim] thresholds. Row r (sequence * kv_heads + kv_head) reads number r mod
/// records of the table. State: first tokens (detail::first_tokens), then the record if it comes
/// from the prompt. Byte layout of a block of 32 tokens: codes (detail::bit_parts), f16
/// value[room], u16 token * dim + channel [room], ascending, 65535 where there is none; room = 32
/// * dim * outliers rounded; padded to 4 bytes. Requires: head_dim a multiple of 4, at most 1024
/// (invalid_shape); detail::check_codebook. Error: half the gap between two levels times half the
/// distance of the thresholds, for what is within them or has room; f16 for what is kept aside.
template <int Bits, codebook_from From = codebook_from::table, element Tail = f16>
struct codebook_key {
  static_assert(Bits >= 2 && Bits <= 4, "kvslim: codebooks of 2, 3 or 4 bits");
  using tail_type = Tail;
  static constexpr bool from_prompt = From == codebook_from::prompt;
  static constexpr codec_traits traits{
      .form = form_id{detail::affine_form<Tail, f16>(detail::form_kind::codebook_key, Bits).value |
                      static_cast<std::uint32_t>(From) << 12},
      .whole_blocks = true,
      .fitted = true,
      .tabled = !from_prompt};

  index_t sinks = 1;
  float outliers = 0.01f;
  index_t records = 1;  ///< in the table

  [[nodiscard]] KVSLIM_HD constexpr status check(index_t dim) const noexcept {
    if (auto const s = detail::check_codebook(sinks, outliers, records); !s.ok()) return s;
    if (dim > 1024)
      return detail::fail(errc::invalid_shape, "kvslim: kvquant needs head_dim of at most 1024");
    return detail::check_key_channels(dim);
  }
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes sizes(index_t dim, index_t n) const noexcept {
    index_t const fit = dim + (from_prompt ? 2 * dim * ranks(n) + detail::level_bins::floats : 0);
    return {.block_tokens = block_tokens,
            .block_bytes = parts{dim, block_tokens}.bytes() + 4 * room(dim),
            .settle_by = block_tokens,
            .state_bytes = first(dim).bytes() + (from_prompt ? 4 * record_floats(dim) : 0),
            .fit_floats = fit};
  }
  [[nodiscard]] KVSLIM_HD constexpr float limit() const noexcept {
    return detail::within_f16(largest_finite<Tail>());
  }
  [[nodiscard]] constexpr form written() const noexcept {
    return {traits.form.value,
            {static_cast<std::uint32_t>(sinks), detail::bit_cast<std::uint32_t>(outliers), 0, 0,
             static_cast<std::uint32_t>(records)}};
  }
  [[nodiscard]] static constexpr status read(form const& f, codebook_key& out) noexcept {
    if (!detail::is_form(f, traits.form, 5) || f.words[2] != 0 || f.words[3] != 0)
      return detail::foreign_form();
    codebook_key const found{f.words[0], detail::bit_cast<float>(f.words[1]), f.words[4]};
    if (!found.check(4).ok()) return detail::foreign_form();
    out = found;
    return {};
  }

  template <class Read>
  KVSLIM_HD void fit(Read const& read, index_t n, site const& at, std::byte* state,
                     float* scratch) const {
    first(at.dim).keep(read, n, state, scratch);
    if constexpr (from_prompt)
      fit_record(read, n, at.dim, detail::array_at<float>(state + first(at.dim).bytes()), scratch);
  }
  KVSLIM_HD void encode(float const* rows, site const& at, std::byte* block) const noexcept {
    index_t const dim = at.dim;
    record const r = record_of(at);
    parts const codes{dim, block_tokens};
    auto const of = [&](index_t d, float& middle, float& half) {
      middle = r.middle(d);
      half = r.half(d);
    };
    if (!detail::nearest_of_keys<Bits>(
            rows, dim, r.find, of, [&](index_t d, std::uint32_t const* words) {
              codes.pack(words, detail::codes_of(block), codes.unit(0, d));
            }))
      for (index_t t = 0; t < block_tokens; ++t)
        for (index_t d = 0; d < dim; ++d)
          codes.put(detail::codes_of(block), t, d,
                    detail::nearest_level<Bits>(r.normal(rows[t * dim + d], d), r.find));
    put_aside(rows, at, r, block);
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, site const& at,
                                       index_t d) const noexcept {
    if (auto const* const exact = first(at.dim).find(at.state, at.token); exact != nullptr)
      return detail::widen(exact[d]);
    auto const aside = list_of(block, at.dim);
    for (index_t i = 0; i < aside.room && aside.place[i] != none; ++i)
      if (aside.place[i] == at.first * at.dim + d) return detail::widen(aside.value[i]);
    return record_of(at).value(code(block, at, d), d);
  }
  [[nodiscard]] KVSLIM_HD std::uint32_t code(std::byte const* block, site const& at,
                                             index_t d) const noexcept {
    return parts{at.dim, block_tokens}.get(detail::codes_of(block), at.first, d);
  }
  /// Channels [d, d + n), then [other, other + m), of the block that holds at.first as rows of a
  /// tile (detail::token_tile).
  KVSLIM_HD void load_tile(std::byte const* block, site const& at, index_t d, index_t n,
                           index_t other, index_t m, float* tile) const noexcept {
    index_t const dim = at.dim;
    record const r = record_of(at);
    fill_tile(block, dim, r, d, n, tile);
    fill_tile(block, dim, r, other, m, tile + n * 16);
    float elsewhere;
    auto const place = [&](index_t t, index_t channel) {  // without branches, which go either way
      index_t const a = channel - d, b = channel - other;
      bool const in_a = a >= 0 && a < n, in_b = b >= 0 && b < m;
      index_t const row = in_a ? a : n + b;
      float* const to = tile + t / 16 * detail::token_tile::apart + row * 16 + t % 16;
      return in_a || in_b ? to : &elsewhere;
    };
    auto const aside = list_of(block, dim);
    float const each = 1.0f / static_cast<float>(dim);
    for (index_t i = 0; i < aside.room && aside.place[i] < block_tokens * dim; ++i) {
      auto const t = static_cast<index_t>((static_cast<float>(aside.place[i]) + 0.5f) * each);
      *place(t, aside.place[i] - t * dim) = detail::widen(aside.value[i]);
    }
    for (index_t i = 0; i < detail::min(at.n, sinks - at.token); ++i)
      if (auto const* const exact = first(dim).find(at.state, at.token + i); exact != nullptr)
        for (index_t c = 0; c < dim; ++c) *place(at.first + i, c) = detail::widen(exact[c]);
  }

  /// Floats of a record.
  [[nodiscard]] static KVSLIM_HD constexpr index_t record_floats(index_t dim) noexcept {
    return 2 * levels + 2 * dim;
  }
  /// Values that a block of 32 tokens has room for.
  [[nodiscard]] KVSLIM_HD constexpr index_t room(index_t dim) const noexcept {
    return static_cast<index_t>(static_cast<float>(block_tokens * dim) * outliers + 0.5f);
  }

 private:
  template <class>
  friend struct warp_codec;
  static constexpr index_t block_tokens = 32, levels = index_t{1} << Bits;
  static constexpr std::uint16_t none = 65535;
  using parts = detail::bit_parts<true, Bits>;

  struct record {
    float const *find, *give, *lower, *upper;

    [[nodiscard]] KVSLIM_HD float middle(index_t d) const noexcept {
      return (upper[d] + lower[d]) * 0.5f;
    }
    [[nodiscard]] KVSLIM_HD float half(index_t d) const noexcept {
      return (upper[d] - lower[d]) * 0.5f;
    }
    /// A channel's value with its thresholds at -1 and 1; 0 where they are one.
    [[nodiscard]] KVSLIM_HD float normal(float x, index_t d) const noexcept {
      float const by = half(d);
      return by > 0.0f ? detail::divide(x - middle(d), by) : 0.0f;
    }
    [[nodiscard]] KVSLIM_HD float value(std::uint32_t code, index_t d) const noexcept {
      return give[code] * half(d) + middle(d);
    }
    /// How far x lies beyond the thresholds, as a multiple of half their distance; 0: not at all.
    [[nodiscard]] KVSLIM_HD float beyond(float x, index_t d) const noexcept {
      float const past = x < lower[d] ? lower[d] - x : x > upper[d] ? x - upper[d] : 0.0f;
      float const by = half(d);
      return past > 0.0f ? (by > 0.0f ? detail::divide(past, by) : largest_finite<float>()) : 0.0f;
    }
  };
  template <class Value, class Place>
  struct list {
    Value* value;
    Place* place;
    index_t room;
  };

  [[nodiscard]] KVSLIM_HD constexpr detail::first_tokens<Tail> first(index_t dim) const noexcept {
    return {sinks, dim};
  }
  [[nodiscard]] KVSLIM_HD record record_of(site const& at) const noexcept {
    float const* p = nullptr;
    if constexpr (from_prompt)
      p = detail::array_at<float const>(at.state + first(at.dim).bytes());
    else
      p = static_cast<float const*>(at.table) + at.row % records * record_floats(at.dim);
    return {p, p + levels, p + 2 * levels, p + 2 * levels + at.dim};
  }
  [[nodiscard]] KVSLIM_HD list<f16, std::uint16_t> list_of(std::byte* block,
                                                           index_t dim) const noexcept {
    auto* const at = block + parts{dim, block_tokens}.bytes();
    return {detail::array_at<f16>(at), detail::array_at<std::uint16_t>(at + 2 * room(dim)),
            room(dim)};
  }
  [[nodiscard]] KVSLIM_HD list<f16 const, std::uint16_t const> list_of(std::byte const* block,
                                                                       index_t dim) const noexcept {
    auto const* const at = block + parts{dim, block_tokens}.bytes();
    return {detail::array_at<f16 const>(at),
            detail::array_at<std::uint16_t const>(at + 2 * room(dim)), room(dim)};
  }
  /// What the codes stand for.
  static KVSLIM_HD void fill_tile(std::byte const* block, index_t dim, record const& r, index_t d,
                                  index_t n, float* tile) noexcept {
    constexpr index_t quad = detail::unit_quad;
    parts const codes{dim, block_tokens};
    if (d % quad == 0 && n % quad == 0) {
      alignas(64) detail::local<float, 16> values;
      for (index_t i = 0; i < 16; ++i) values[i] = r.give[i % levels];
      if (detail::level_tile<Bits>(
              detail::level_codes{detail::codes_of(block), codes.units(), values, nullptr, 0},
              d / quad, n / quad, r.lower + d, r.upper + d, tile))
        return;
    }
    for (index_t unit = d / quad; unit * quad < d + n; ++unit) {
      detail::local<std::uint32_t, block_tokens> words;
      codes.unpack(detail::codes_of(block), unit, words);
      for (index_t c = detail::max(d, unit * quad); c < detail::min(d + n, (unit + 1) * quad); ++c)
        for (index_t t = 0; t < block_tokens; ++t)
          tile[t / 16 * detail::token_tile::apart + (c - d) * 16 + t % 16] =
              r.value((words[t] >> (8 * (c % quad))) & 255u, c);
    }
  }
  /// Those beyond the thresholds, farthest first if there are too many, then in order.
  KVSLIM_HD void put_aside(float const* rows, site const& at, record const& r,
                           std::byte* block) const noexcept {
    index_t const dim = at.dim;
    auto const aside = list_of(block, dim);
    auto const far = [&](index_t i) { return r.beyond(rows[i], i % dim); };
    index_t held = 0, nearest = 0;
    for (index_t i = 0, d = 0; i < block_tokens * dim && aside.room > 0;
         ++i, d = d + 1 < dim ? d + 1 : 0) {
      if (!(rows[i] < r.lower[d]) && !(rows[i] > r.upper[d])) continue;  // nearly all
      float const mine = far(i);
      if (mine == 0.0f || first(dim).find(at.state, at.token + i / dim) != nullptr) continue;
      if (held < aside.room)
        nearest = held++;
      else if (!(mine > far(aside.place[nearest])))
        continue;
      aside.place[nearest] = static_cast<std::uint16_t>(i);
      if (held < aside.room) continue;
      for (index_t j = nearest = 0; j < held; ++j)
        if (far(aside.place[j]) < far(aside.place[nearest])) nearest = j;
    }
    for (index_t i = 1; i < held; ++i)
      for (index_t j = i; j > 0 && aside.place[j] < aside.place[j - 1]; --j) {
        auto const other = aside.place[j];
        aside.place[j] = aside.place[j - 1];
        aside.place[j - 1] = other;
      }
    for (index_t i = 0; i < held; ++i) aside.value[i] = detail::narrow<f16>(rows[aside.place[i]]);
    for (index_t i = held; i < aside.room; ++i) {
      aside.value[i] = detail::narrow<f16>(0.0f);
      aside.place[i] = none;
    }
  }

  /// Of a channel's values, so many at either end decide its thresholds.
  [[nodiscard]] KVSLIM_HD constexpr index_t ranks(index_t n) const noexcept {
    return static_cast<index_t>(rank(n)) + 2;
  }
  [[nodiscard]] KVSLIM_HD constexpr float rank(index_t n) const noexcept {
    index_t const looked = detail::fitted_tokens(n);
    return looked == 0 ? 0.0f : static_cast<float>(looked - 1) * outliers * 0.5f;
  }
  template <class Read>
  KVSLIM_HD void fit_record(Read const& read, index_t n, index_t dim, float* out,
                            float* scratch) const {
    index_t const looked = detail::fitted_tokens(n), most = ranks(n);
    float *const row = scratch, *const low = row + dim, *const high = low + most * dim;
    detail::level_bins const bins{high + most * dim};
    float *const lower = out + 2 * levels, *const upper = lower + dim;
    for (index_t i = 0; i < looked; ++i) {
      read(index_t{0}, i * n / looked, row);
      for (index_t d = 0; d < dim; ++d) {
        insert(low + d * most, most, i, row[d]);
        insert(high + d * most, most, i, -row[d]);
      }
    }
    for (index_t d = 0; d < dim; ++d) {
      lower[d] = looked == 0 ? -unknown : threshold(low + d * most, n);
      upper[d] = looked == 0 ? unknown : -threshold(high + d * most, n);
    }
    record const r{out, out + levels, lower, upper};
    bins.clear();
    for (index_t i = 0; i < looked; ++i) {
      if (i * n / looked < sinks) continue;
      read(index_t{0}, i * n / looked, row);
      for (index_t d = 0; d < dim; ++d)
        if (r.beyond(row[d], d) == 0.0f) bins.add(r.normal(row[d], d));
    }
    bins.template fit<Bits>(out);
    for (index_t j = 0; j < levels; ++j) out[levels + j] = out[j];
  }
  static constexpr float unknown = 16.0f;  ///< thresholds where no token was coded yet
  /// Where the least of a channel's values, `ranks` of them in order, end.
  [[nodiscard]] KVSLIM_HD float threshold(float const* least, index_t n) const noexcept {
    auto const at = static_cast<index_t>(rank(n));
    index_t const next = at + 1 < detail::fitted_tokens(n) ? at + 1 : at;
    return least[at] + (least[next] - least[at]) * (rank(n) - static_cast<float>(at));
  }
  /// A list of the least `most` of held values takes in one more.
  static KVSLIM_HD void insert(float* list, index_t most, index_t held, float x) noexcept {
    index_t i = detail::min(held, most);
    if (i == most) {
      if (!(x < list[most - 1])) return;
      --i;
    }
    for (; i > 0 && x < list[i - 1]; --i) list[i] = list[i - 1];
    list[i] = x;
  }
};

KVSLIM_END_NAMESPACE
