// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// One factor a channel in front of another codec, found from the prompt or given. Queries are
// multiplied by the factors once a row and sums once, so that attention reads the other codec's
// blocks as they are.

#include <kvslim/codec/affine.hpp>
#include <kvslim/codec/form.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Where scaled_rows has its factors from.
enum class factors_from : std::uint8_t {
  rows,  ///< the root of a channel's largest magnitude among the prompt's coded tokens
  table  ///< float [row][dim] that the cache is bound to while it is filled (ops::key_balance)
};

/// K or V with each channel divided by its factor, then stored by `Inner`:
/// scaled_rows{token_value<4>{}}. Later tokens are divided by it too.
///
/// State: Factor factor[dim]. From rows: 1 where the channel is 0 or no token of the prompt was
/// coded. From a table: row sequence * kv_heads + kv_head of it, held between 1 / 100 and 100; 1
/// where it is NaN or not above 0. Byte layout: Inner's. Requires: what Inner asks for; magnitudes
/// up to 65504 (non_finite). Divided channels beyond Inner's limit are cut there. Error: Inner's in
/// divided channels, times the factor.
template <codec Inner, affine_parameter Factor = f16, factors_from From = factors_from::rows>
struct scaled_rows {
  static_assert(Inner::traits.space == basis::channels && !Inner::traits.grouped &&
                    !Inner::traits.fitted && !Inner::traits.shares_keys &&
                    !Inner::traits.positions && !Inner::traits.tabled,
                "kvslim: scaled_rows goes in front of codecs that store a token's channels, "
                "nothing else");
  using tail_type = typename Inner::tail_type;
  static constexpr codec_traits traits{
      .form = form_id{static_cast<std::uint32_t>(detail::form_kind::scaled_rows) << 16 |
                      detail::element_number<Factor>()},
      .space = basis::own,
      .whole_blocks = Inner::traits.whole_blocks,
      .rewrites = Inner::traits.rewrites,
      .fitted = true,
      .tabled_fit = From == factors_from::table,
      .long_runs = Inner::traits.long_runs};
  static constexpr factors_from from = From;

  Inner inner = {};

  [[nodiscard]] KVSLIM_HD constexpr status check(index_t dim) const noexcept {
    return inner.check(dim);
  }
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes sizes(index_t dim, index_t tokens) const noexcept {
    auto z = inner.sizes(dim, tokens);
    z.own_dim = dim;
    z.state_bytes = dim * static_cast<index_t>(sizeof(Factor));
    z.fit_floats = 2 * dim;
    return z;
  }
  [[nodiscard]] KVSLIM_HD constexpr float limit() const noexcept {
    return detail::within_f16(inner.limit());
  }
  [[nodiscard]] constexpr form written() const noexcept {
    form const x = inner.written();
    form f{traits.form.value, {x.id}};
    for (int i = 0; i < 4; ++i) f.words[1 + i] = x.words[i];
    return f;
  }
  [[nodiscard]] static constexpr status read(form const& f, scaled_rows& out) noexcept {
    if (!detail::is_form(f, traits.form, 5)) return detail::foreign_form();
    form x{f.words[0], {}};
    for (int i = 0; i < 4; ++i) x.words[i] = f.words[1 + i];
    scaled_rows found{};
    if (auto const s = Inner::read(x, found.inner); !s) return s;
    out = found;
    return {};
  }

  template <class Read>
  KVSLIM_HD void fit(Read const& read, index_t n, site const& at, std::byte* state,
                     float* scratch) const {
    index_t const dim = at.dim;
    float *const row = scratch, *const most = row + dim;
    for (index_t d = 0; d < dim; ++d) most[d] = 0.0f;
    for (index_t t = 0; From == factors_from::rows && t < n; ++t) {
      read(index_t{0}, t, row);
      for (index_t d = 0; d < dim; ++d) {
        float const size = row[d] < 0.0f ? -row[d] : row[d];
        most[d] = size > most[d] ? size : most[d];
      }
    }
    for (index_t d = 0; d < dim; ++d) set_factor(state, at, d, most[d]);
  }
  /// Overwrites its rows.
  KVSLIM_HD void encode(float* rows, site const& at, std::byte* block) const noexcept {
    for (index_t i = 0; i < at.n; ++i)
      for (index_t d = 0; d < at.dim; ++d) scale(rows[i * at.dim + d], at, d);
    inner.encode(rows, at, block);
  }
  [[nodiscard]] KVSLIM_HD float coordinate(std::byte const* block, site const& at,
                                           index_t j) const noexcept {
    return inner.decode(block, at, j);
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, site const& at,
                                       index_t d) const noexcept {
    return inner.decode(block, at, d) * factor(at, d);
  }
  KVSLIM_HD void load(std::byte const* block, site const& at, float* out) const noexcept {
    for (index_t d = 0; d < at.dim; ++d) out[d] = decode(block, at, d);
  }
  KVSLIM_HD void prepare(float const* q, site const& at,
                         float* own) const noexcept requires key_codec<Inner> {
    for (index_t d = 0; d < at.dim; ++d) own[d] = q[d] * factor(at, d);
  }
  KVSLIM_HD void dot(std::byte const* block, site const& at, float const* q, index_t heads,
                     float* scores) const noexcept requires key_codec<Inner> {
    inner.dot(block, at, q, heads, scores);
  }
  KVSLIM_HD void finish(float* sum, site const& at,
                        float* out) const noexcept requires value_codec<Inner> {
    for (index_t d = 0; d < at.dim; ++d) out[d] += sum[d] * factor(at, d);
  }
  KVSLIM_HD void accumulate(std::byte const* block, site const& at, float const* p, index_t heads,
                            float* out) const noexcept requires value_codec<Inner> {
    inner.accumulate(block, at, p, heads, out);
  }

 private:
  template <class>
  friend struct warp_codec;

  /// Writes the factor of channel d, whose largest magnitude is `most`.
  static KVSLIM_HD void set_factor(std::byte* state, site const& at, index_t d,
                                   float most) noexcept {
    Factor& factor = detail::array_at<Factor>(state)[d];
    if constexpr (From == factors_from::table) {
      float const given = static_cast<float const*>(at.table)[at.row * at.dim + d];
      float const x = given > 0.0f ? given : 1.0f;
      factor = detail::narrow<Factor>(x < 0.01f ? 0.01f : x > 100.0f ? 100.0f : x);
    } else {
      factor = detail::narrow<Factor>(detail::root(most));
      if (!(detail::widen(factor) > 0.0f)) factor = detail::narrow<Factor>(1.0f);
    }
  }
  /// x of channel d becomes what Inner stores.
  KVSLIM_HD void scale(float& x, site const& at, index_t d) const noexcept {
    float const top = inner.limit();
    x = detail::divide(x, factor(at, d));
    x = x > top ? top : x < -top ? -top : x;
  }
  [[nodiscard]] static KVSLIM_HD float factor(site const& at, index_t d) noexcept {
    return detail::widen(detail::array_at<Factor const>(at.state)[d]);
  }
};
template <class Inner>
scaled_rows(Inner) -> scaled_rows<Inner>;

KVSLIM_END_NAMESPACE
