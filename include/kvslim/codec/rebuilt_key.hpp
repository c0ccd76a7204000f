// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/latent.hpp>
#include <kvslim/ops/rope.hpp>

KVSLIM_BEGIN_NAMESPACE

/// What a low-rank method projects keys as.
enum class key_form : std::uint8_t { before_rope, as_given };

/// Keys before RoPE: what the view holds is turned back to position 0, stored as latents or codes,
/// and rebuilt and rotated to its position while attention reads it, one token at a time. A
/// rotation that is not the model's costs accuracy, never the keys' places: both ways are the same.
///
/// Stored: as the latents. Requires: what latent does; coordinates in a codec of one option at
/// most; rotation.dims even and at most head_dim, no table of frequencies; head_dim at most 512;
/// the rows of a group are at the same positions (invalid_option, invalid_shape).
/// Cost: encode as latent and a rotation; attention rank * head_dim multiplications a token and
/// KV head, and a rotation; on CUDA twice as many, in every query head's block.
/// 4096 tokens of 8 KV heads of 128 at rank 32 took 76 ms to attend to, where dense f16 took 0.5
/// and latents that are not rebuilt 0.6 (one thread of a busy machine, -O2).
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
    auto const before = [&](index_t member, index_t t, float* x) {
      read(member, t, x);
      ops::rotate(rotation, at.dim, -std::int64_t{at.positions[t]}, x);
    };
    inner.fit(before, n, at, state, scratch);
  }
  /// Overwrites its rows.
  KVSLIM_HD void encode(float* rows, site const& at, std::byte* block) const noexcept {
    index_t const members = detail::group_of(inner).size();
    for (index_t i = 0; i < members * at.n; ++i)
      ops::rotate(rotation, at.dim, -std::int64_t{at.positions[i % at.n]}, rows + i * at.dim);
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
    constexpr index_t together = 8;
    turning turn(rotation, at.dim);
    float keys[static_cast<std::size_t>(together * most_channels)];
    for (index_t done = 0; done < at.n; done += together) {
      index_t const n = detail::min(together, at.n - done);
      auto const z = inner.sizes(at.dim, 0);
      index_t const place = at.first + done;
      site from = at;
      from.first = place % z.block_tokens;
      from.token = at.token + done;
      inner.template load_run<together>(block + place / z.block_tokens * z.block_bytes, from, n,
                                        keys);
      for (index_t i = 0; i < n; ++i) {
        float* const key = keys + i * at.dim;
        turn.rotate(at.positions[done + i], key);
        for (index_t h = 0; h < heads; ++h)
          scores[h * run_tokens + done + i] += ops::dot(q + h * at.dim, key, at.dim);
      }
    }
  }

 private:
  static constexpr index_t most_channels = 512;

  /// Rotates rows whose positions mostly count up: from one to the next an angle is added by
  /// multiplying, in double, instead of asking for its sine again.
  struct turning {
    rope const& rotation;
    index_t dim, pairs;
    std::int64_t now = -1;  // what c and s are of; -1: nothing yet
    double c[most_channels / 2], s[most_channels / 2];
    double step_c[most_channels / 2], step_s[most_channels / 2];

    KVSLIM_HD turning(rope const& r, index_t head_dim) noexcept
        : rotation(r), dim(head_dim), pairs(r.rotated(head_dim) / 2) {
      for (index_t i = 0; i < pairs; ++i) {
        step_c[i] = std::cos(rotation.frequency(dim, i));
        step_s[i] = std::sin(rotation.frequency(dim, i));
      }
    }
    KVSLIM_HD void rotate(std::int64_t position, float* row) noexcept {
      bool const next = now >= 0 && position == now + 1;
      for (index_t i = 0; i < pairs; ++i) {
        if (next) {
          double const x = c[i] * step_c[i] - s[i] * step_s[i];
          s[i] = s[i] * step_c[i] + c[i] * step_s[i];
          c[i] = x;
        } else if (position != now) {
          double const angle = static_cast<double>(position) * rotation.frequency(dim, i);
          c[i] = std::cos(angle);
          s[i] = std::sin(angle);
        }
        auto const [a, b] = rotation.pair(dim, i);
        auto const cosine = static_cast<float>(c[i]), sine = static_cast<float>(s[i]);
        float const x = row[a], y = row[b];
        row[a] = x * cosine - y * sine;
        row[b] = y * cosine + x * sine;
      }
      now = position;
    }
  };
};

KVSLIM_END_NAMESPACE
