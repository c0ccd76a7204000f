// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/latent.hpp>
#include <kvslim/isa/tile_kernels.hpp>
#include <kvslim/ops/rope.hpp>

KVSLIM_BEGIN_NAMESPACE

/// What a low-rank method projects keys as.
enum class key_form : std::uint8_t { before_rope, as_given };

/// Keys before RoPE: what the view holds is turned back to position 0, stored as latents or codes,
/// and rebuilt and rotated to its position while attention reads it, 32 tokens at a time. A
/// rotation that is not the model's costs accuracy, never the keys' places: both ways are the same.
///
/// Stored: as the latents. Requires: what latent does; coordinates in a codec of one option at
/// most; rotation.dims even and at most head_dim, no table of frequencies; head_dim at most 512;
/// the rows of a group are at the same positions (invalid_option, invalid_shape).
/// Cost: encode as latent and a rotation; attention rank * head_dim multiplications a token and
/// KV head, and a rotation; on CUDA so many for up to eight query heads together, by matrix units.
/// 4096 tokens of 8 KV heads of 128 at rank 32 took 11 ms to attend to (41 ms key by key), where
/// dense f16 took 0.5 and latents that are not rebuilt 0.6 (one thread of a busy machine with
/// AVX-512, -O2).
template <class Inner>
struct rebuilt_key {
  using tail_type = typename Inner::tail_type;
  static constexpr codec_traits traits{
      .form = form_id{static_cast<std::uint32_t>(detail::form_kind::rebuilt_key) << 16 |
                      (Inner::traits.form.value & 0xffffu)},
      .whole_blocks = Inner::traits.whole_blocks,
      .rewrites = Inner::traits.rewrites,
      .positions = true,
      .grouped = Inner::traits.grouped,
      .fitted = Inner::traits.fitted,
      .tabled = Inner::traits.tabled};

  Inner inner = {};
  rope rotation = {};

  [[nodiscard]] KVSLIM_HD constexpr row_group group() const noexcept
      requires(Inner::traits.grouped) {
    return inner.group();
  }
  [[nodiscard]] constexpr status check(index_t dim) const noexcept {
    if (dim > most_channels)
      return detail::fail(errc::invalid_shape,
                          "kvslim: keys that are rebuilt need head_dim of at most 512");
    if (!rotation.fits(dim) || rotation.inverse_frequency != nullptr)
      return detail::fail(errc::invalid_option,
                          "kvslim: keys that are rebuilt need a rope whose dims fit, without a "
                          "table of frequencies");
    form const f = inner.written();
    if (f.words[2] != 0 || f.words[3] != 0)
      return detail::fail(errc::invalid_option,
                          "kvslim: keys that are rebuilt need coordinates in a codec of one option "
                          "at most");
    return inner.check(dim);
  }
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes sizes(index_t dim, index_t n) const noexcept {
    auto z = inner.sizes(dim, n);
    z.own_dim = 0;
    return z;
  }
  [[nodiscard]] KVSLIM_HD constexpr float limit() const noexcept {
    return inner.limit() * 0.70710677f;  // rotation can move a pair's length into one channel
  }
  [[nodiscard]] constexpr form written() const noexcept {
    form f = inner.written();
    f.id = traits.form.value;
    f.words[2] = detail::bit_cast<std::uint32_t>(rotation.base);
    f.words[3] = static_cast<std::uint32_t>(rotation.dims) | (rotation.interleaved ? 0x10000u : 0u);
    return f;
  }
  [[nodiscard]] static constexpr status read(form const& f, rebuilt_key& out) noexcept {
    if (f.id != traits.form.value) return detail::foreign_form();
    form within = f;
    within.id = Inner::traits.form.value;
    within.words[2] = within.words[3] = 0;
    rebuilt_key found{};
    if (auto const s = Inner::read(within, found.inner); !s.ok()) return s;
    found.rotation.base = detail::bit_cast<float>(f.words[2]);
    found.rotation.dims = f.words[3] & 0xffffu;
    found.rotation.interleaved = (f.words[3] & 0x10000u) != 0;
    if (f.words[3] > 0x1ffffu || !found.rotation.fits(most_channels)) return detail::foreign_form();
    out = found;
    return {};
  }

  template <class Read>
  KVSLIM_HD void fit(Read const& read, index_t n, site const& at, std::byte* state,
                     float* scratch) const requires(Inner::traits.fitted) {
    ops::rope_angles<most_channels / 2> const angles(rotation, at.dim);
    auto const before = [&](index_t member, index_t t, float* x) {
      read(member, t, x);
      angles.turn(-std::int64_t{at.positions[t]}, x);
    };
    inner.fit(before, n, at, state, scratch);
  }
  /// Overwrites its rows.
  KVSLIM_HD void encode(float* rows, site const& at, std::byte* block) const noexcept {
    ops::rotate_rows(
        rotation, at.dim, at.n, detail::group_of(inner).size(),
        [&](index_t t) { return -std::int64_t{at.positions[t]}; }, rows);
    inner.encode(rows, at, block);
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, site const& at,
                                       index_t d) const noexcept {
    index_t const turned = rotation.rotated(at.dim);
    if (d >= turned || at.positions[0] == 0) return inner.decode(block, at, d);
    index_t const i = rotation.interleaved ? d / 2 : d % (turned / 2);
    auto const [a, b] = rotation.pair(at.dim, i);
    double const angle = static_cast<double>(at.positions[0]) * rotation.frequency(at.dim, i);
    auto const c = static_cast<float>(std::cos(angle)), s = static_cast<float>(std::sin(angle));
    float const x = inner.decode(block, at, a), y = inner.decode(block, at, b);
    return d == a ? x * c - y * s : y * c + x * s;
  }
  KVSLIM_HD void dot(std::byte const* block, site const& at, float const* q, index_t heads,
                     float* scores) const noexcept {
    auto const z = inner.sizes(at.dim, 0);
    for (index_t done = 0, n = 0; done < at.n; done += n) {
      index_t const place = at.first + done;
      site from = at;
      from.first = place % z.block_tokens;
      from.token = at.token + done;
      n = from.n = detail::min(at.n - done, run_tokens - from.first % run_tokens);
      detail::local<std::int32_t, run_tokens> positions = {};
      for (index_t i = 0; i < n; ++i)
        positions[from.first % run_tokens + i] = at.positions[done + i];
      dot_tiles(block + place / z.block_tokens * z.block_bytes, from, positions, q, heads,
                scores + done);
    }
  }

 private:
  template <class>
  friend struct warp_codec;
  static constexpr index_t most_channels = 512, tile_pairs = detail::token_tile::channels / 2;

  /// Tokens of one tile, which are its columns at.first % 32 and on: some pairs of channels at a
  /// time are rebuilt, turned and multiplied.
  KVSLIM_HD void dot_tiles(std::byte const* block, site const& at, std::int32_t const* positions,
                           float const* q, index_t heads, float* scores) const noexcept {
    index_t const dim = at.dim, turned = rotation.rotated(dim), half = turned / 2;
    alignas(64) detail::local<float, detail::token_tile::floats> tile;
    alignas(64) detail::local<float, run_heads* run_tokens> sums = {};
    detail::local<std::uint64_t, tile_pairs> turns;
    detail::rope_turns angles(rotation, dim);
    auto const add = [&](index_t d, index_t n, index_t from) {
      multiply(tile + from * 16, n, q + d, heads, dim, sums);
    };
    for (index_t i = 0; i < half; i += tile_pairs) {
      index_t const n = detail::min(tile_pairs, half - i);
      for (index_t j = 0; j < n; ++j) turns[j] = angles.next();
      if (rotation.interleaved) {
        inner.load_tile(block, at, 2 * i, 2 * n, 0, 0, tile);
        turn(tile, n, 2, 1, turns, positions);
        add(2 * i, 2 * n, 0);
      } else {
        inner.load_tile(block, at, i, n, half + i, n, tile);
        turn(tile, n, 1, n, turns, positions);
        add(i, n, 0);
        add(half + i, n, n);
      }
    }
    for (index_t d = turned, n = 0; d < dim; d += n) {
      n = detail::min(detail::token_tile::channels, dim - d);
      inner.load_tile(block, at, d, n, 0, 0, tile);
      add(d, n, 0);
    }
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < at.n; ++i)
        scores[h * run_tokens + i] += sums[h * run_tokens + at.first % run_tokens + i];
  }
  /// detail::turn_tile, and where there is no kernel.
  static KVSLIM_HD void turn(float* tile, index_t pairs, index_t apart, index_t other,
                             std::uint64_t const* turns, std::int32_t const* positions) noexcept {
    if (detail::turn_tile(tile, pairs, apart, other, turns, positions)) return;
    for (index_t i = 0; i < pairs; ++i) {
      // Step by step: compilers then use vectors.
      detail::local<std::uint32_t, run_tokens> angle;
      detail::local<float, run_tokens> sine, cosine;
      for (index_t t = 0; t < run_tokens; ++t)
        angle[t] =
            static_cast<std::uint32_t>(static_cast<std::uint64_t>(positions[t]) * turns[i] >> 32);
      for (index_t t = 0; t < run_tokens; ++t) {
        auto const x = detail::sine_of(angle[t]);
        sine[t] = x.s;
        cosine[t] = x.c;
      }
      for (index_t t = 0; t < run_tokens; ++t) {
        float* const at = tile + t / 16 * detail::token_tile::apart + i * apart * 16 + t % 16;
        float const x = at[0], y = at[other * 16];
        at[0] = x * cosine[t] - y * sine[t];
        at[other * 16] = y * cosine[t] + x * sine[t];
      }
    }
  }
  static KVSLIM_HD void multiply(float const* tile, index_t rows, float const* q, index_t heads,
                                 index_t dim, float* sums) noexcept {
    if (detail::dot_tile(tile, rows, q, heads, dim, sums)) return;
    for (index_t half = 0; half < 2; ++half, tile += detail::token_tile::apart)
      detail::by_heads(heads, [&](auto count, index_t h0) {
        constexpr index_t m = decltype(count)::value;
        detail::lane_sums<m, 16> part;
        detail::local<float, m, 16> sum;
        for (index_t c = 0; c < rows; ++c)
          part.add(tile + c * 16, [&](index_t h) { return q[(h0 + h) * dim + c]; });
        part.store(sum);
        for (index_t h = 0; h < m; ++h)
          for (index_t t = 0; t < 16; ++t) sums[(h0 + h) * run_tokens + half * 16 + t] += sum[h][t];
      });
  }
};

KVSLIM_END_NAMESPACE
