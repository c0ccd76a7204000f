// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Keys of which only some channels are stored, chosen once a head: queries gather those channels
// once a row, and attention reads another codec's blocks of fewer channels as they are.

#include <kvslim/codec/form.hpp>
#include <kvslim/isa/convert.hpp>

KVSLIM_BEGIN_NAMESPACE

/// K's channels in which queries and keys are longest, stored by `Inner`; the others are read as 0.
/// A channel's length is mean k^2 over all tokens that the row holds when it is filled, times what
/// the bound table says of the queries: float [row][head_dim], row sequence * kv_heads + kv_head.
/// Ties go to the earlier channel, NaN counts as 0. Only filling reads the table.
///
/// State: u16 channels[kept], ascending, padded to 4 bytes. Byte layout: Inner's, of `kept`
/// channels: head_dim - floor(head_dim * share), up to a multiple of `multiple`. Requires: share in
/// [0, 1), multiple 1 to 256, recent 0 to 2^20 (invalid_option); head_dim at most 65536; what Inner
/// asks for (of that many channels). Error: Inner's, and what the channels that are left out hold.
/// Cost: fit one pass over the prompt; attention Inner's, of fewer channels.
template <key_codec Inner>
struct chosen_channels {
  static_assert(Inner::traits.space == basis::channels && !Inner::traits.grouped &&
                    !Inner::traits.fitted && !Inner::traits.tabled && !Inner::traits.positions,
                "kvslim: channels are chosen in front of a codec of single rows without a state");
  using tail_type = typename Inner::tail_type;
  using inner_type = Inner;
  static constexpr codec_traits traits{
      .form = form_id{static_cast<std::uint32_t>(detail::form_kind::chosen_channels) << 16},
      .space = basis::own,
      .whole_blocks = Inner::traits.whole_blocks,
      .rewrites = Inner::traits.rewrites,
      .fitted = true,
      .tabled_fit = true,
      .long_runs = Inner::traits.long_runs};

  Inner inner = {};
  float share = 0.4f;    ///< of the channels that is left out
  index_t recent = 0;    ///< newest tokens kept exact, besides those that Inner keeps
  index_t multiple = 1;  ///< of channels

  /// Channels that are stored of `dim`.
  [[nodiscard]] KVSLIM_HD constexpr index_t kept(index_t dim) const noexcept {
    index_t const left_out = static_cast<index_t>(static_cast<float>(dim) * share);
    return detail::min(dim, detail::round_up(dim - left_out, multiple));
  }
  [[nodiscard]] KVSLIM_HD constexpr status check(index_t dim) const noexcept {
    if (auto const s = check_options(); !s.ok()) return s;
    if (dim < 1 || dim > 65536)
      return detail::fail(errc::invalid_shape,
                          "kvslim: chosen_channels needs head_dim between 1 and 65536");
    return inner.check(kept(dim));
  }
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes sizes(index_t dim, index_t n) const noexcept {
    auto z = inner.sizes(kept(dim), n);
    z.keep_exact += recent;
    z.state_bytes = detail::round_up(2 * kept(dim), 4);
    z.fit_floats = 3 * dim;
    z.own_dim = kept(dim);
    return z;
  }
  [[nodiscard]] KVSLIM_HD constexpr float limit() const noexcept { return inner.limit(); }
  [[nodiscard]] constexpr form written() const noexcept {
    form const x = inner.written();
    form f{traits.form.value, {x.id}};
    for (int i = 0; i < 4; ++i) f.words[1 + i] = x.words[i];
    f.words[5] = detail::bit_cast<std::uint32_t>(share);
    f.words[6] = static_cast<std::uint32_t>(recent | multiple << 21);
    return f;
  }
  [[nodiscard]] static constexpr status read(form const& f, chosen_channels& out) noexcept {
    if (f.id != traits.form.value) return detail::foreign_form();
    form x{f.words[0], {}};
    for (int i = 0; i < 4; ++i) x.words[i] = f.words[1 + i];
    chosen_channels found{};
    if (auto const s = Inner::read(x, found.inner); !s.ok()) return s;
    found.share = detail::bit_cast<float>(f.words[5]);
    found.recent = f.words[6] & 0x1fffffu;
    found.multiple = f.words[6] >> 21;
    if (!found.check_options().ok()) return detail::foreign_form();
    out = found;
    return {};
  }

  /// The channels of a row. Without tokens the table alone chooses.
  template <class Read>
  KVSLIM_HD void fit(Read const& read, index_t, site const& at, std::byte* state,
                     float* scratch) const {
    index_t const dim = at.dim, n = at.held;
    float *const length = scratch, *const some = length + dim, *const key = some + dim;
    for (index_t d = 0; d < dim; ++d) length[d] = n > 0 ? 0.0f : 1.0f;
    for (index_t first = 0; first < n; first += stretch) {
      for (index_t d = 0; d < dim; ++d) some[d] = 0.0f;
      for (index_t t = first; t < detail::min(n, first + stretch); ++t) {
        read(index_t{0}, t, key);
        for (index_t d = 0; d < dim; ++d) some[d] += detail::product(key[d], key[d]);
      }
      for (index_t d = 0; d < dim; ++d) length[d] += detail::divide(some[d], static_cast<float>(n));
    }
    float const* const queries = static_cast<float const*>(at.table) + at.row * dim;
    for (index_t d = 0; d < dim; ++d) {
      float const x = length[d] * queries[d];
      length[d] = x >= 0.0f ? x : 0.0f;
    }
    auto* const list = detail::array_at<std::uint16_t>(state);
    for (index_t d = 0, j = 0; d < dim; ++d) {
      index_t ahead = 0;
      for (index_t c = 0; c < dim; ++c)
        ahead += length[c] > length[d] || (length[c] == length[d] && c < d) ? 1 : 0;
      if (ahead < kept(dim)) list[j++] = static_cast<std::uint16_t>(d);
    }
  }
  /// Overwrites its rows: what stays of them moves to the front.
  KVSLIM_HD void encode(float* rows, site const& at, std::byte* block) const noexcept {
    index_t const n = kept(at.dim);
    std::uint16_t const* const list = channels(at);
    for (index_t i = 0; i < at.n; ++i)
      for (index_t j = 0; j < n; ++j) rows[i * n + j] = rows[i * at.dim + list[j]];
    inner.encode(rows, inside(at), block);
  }
  [[nodiscard]] KVSLIM_HD float coordinate(std::byte const* block, site const& at,
                                           index_t j) const noexcept {
    return inner.decode(block, inside(at), j);
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, site const& at,
                                       index_t d) const noexcept {
    std::uint16_t const* const list = channels(at);
    index_t low = 0, high = kept(at.dim);
    while (low < high) {
      index_t const middle = (low + high) / 2;
      if (list[middle] < d)
        low = middle + 1;
      else
        high = middle;
    }
    return low < kept(at.dim) && list[low] == d ? coordinate(block, at, low) : 0.0f;
  }
  KVSLIM_HD void load(std::byte const* block, site const& at, float* out) const noexcept {
    std::uint16_t const* const list = channels(at);
    for (index_t d = 0; d < at.dim; ++d) out[d] = 0.0f;
    for (index_t j = 0; j < kept(at.dim); ++j) out[list[j]] = coordinate(block, at, j);
  }
  KVSLIM_HD void prepare(float const* q, site const& at, float* own) const noexcept {
    std::uint16_t const* const list = channels(at);
    for (index_t j = 0; j < kept(at.dim); ++j) own[j] = q[list[j]];
  }
  KVSLIM_HD void dot(std::byte const* block, site const& at, float const* q, index_t heads,
                     float* scores) const noexcept {
    inner.dot(block, inside(at), q, heads, scores);
  }
  /// The row's channels that are stored.
  [[nodiscard]] static KVSLIM_HD std::uint16_t const* channels(site const& at) noexcept {
    return detail::array_at<std::uint16_t const>(at.state);
  }
  /// What Inner is told of a site.
  [[nodiscard]] KVSLIM_HD site inside(site at) const noexcept {
    at.dim = kept(at.dim);
    return at;
  }

 private:
  template <class>
  friend struct warp_codec;
  static constexpr index_t stretch = 1024;  // squares that are added up before they join the mean

  [[nodiscard]] KVSLIM_HD constexpr status check_options() const noexcept {
    if (!(share >= 0.0f && share < 1.0f))
      return detail::fail(errc::invalid_option,
                          "kvslim: the share of channels left out must be in [0, 1)");
    if (multiple < 1 || multiple > 256)
      return detail::fail(errc::invalid_option,
                          "kvslim: chosen channels are a multiple of 1 to 256");
    return detail::check_residual(recent);
  }
};

KVSLIM_END_NAMESPACE
