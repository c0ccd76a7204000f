// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// A Hadamard rotation in front of another codec. Queries are rotated once a row and sums rotated
// back once, so that attention reads the other codec's blocks as they are.

#include <kvslim/codec/form.hpp>
#include <kvslim/ops/hadamard.hpp>

KVSLIM_BEGIN_NAMESPACE

/// K or V rotated by ops::rotate_by_hadamard, then stored by `Inner`: rotated_rows{token_key<4>{}}.
///
/// Byte layout: Inner's. Requires: head_dim m * 2^k with m 1, 12, 20, 28 or 36, at most 1024
/// (invalid_shape), and what Inner asks for; magnitudes up to a 32nd of Inner's, because a rotation
/// can move all of a row's length into one channel (non_finite). Error: Inner's, in rotated
/// channels, and what 10 float additions round.
template <codec Inner>
struct rotated_rows {
  static_assert(Inner::traits.space == basis::channels && !Inner::traits.grouped &&
                    !Inner::traits.fitted && !Inner::traits.shares_keys && !Inner::traits.positions,
                "kvslim: rotated goes in front of codecs that store a token's channels, nothing "
                "else");
  using tail_type = typename Inner::tail_type;
  using inner_type = Inner;
  static constexpr codec_traits traits{
      .form = form_id{static_cast<std::uint32_t>(detail::form_kind::rotated_rows) << 16},
      .space = basis::own,
      .whole_blocks = Inner::traits.whole_blocks,
      .rewrites = Inner::traits.rewrites,
      .long_runs = Inner::traits.long_runs};

  Inner inner = {};
  std::uint64_t seed = 0;  ///< of the channels' signs; 0: none changes

  [[nodiscard]] KVSLIM_HD constexpr status check(index_t dim) const noexcept {
    if (dim > 1024 || ops::order_of_hadamard(dim).small == 0)
      return detail::fail(errc::invalid_shape,
                          "kvslim: rotated needs head_dim of 1, 12, 20, 28 or 36 times a power of "
                          "two, at most 1024");
    return inner.check(dim);
  }
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes sizes(index_t dim, index_t tokens) const noexcept {
    auto z = inner.sizes(dim, tokens);
    z.own_dim = dim;
    return z;
  }
  [[nodiscard]] KVSLIM_HD constexpr float limit() const noexcept { return inner.limit() * 0.0312f; }
  [[nodiscard]] constexpr form written() const noexcept {
    form const x = inner.written();
    form f{traits.form.value,
           {x.id, static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)}};
    for (int i = 0; i < 4; ++i) f.words[3 + i] = x.words[i];
    return f;
  }
  [[nodiscard]] static constexpr status read(form const& f, rotated_rows& out) noexcept {
    if (f.id != traits.form.value) return detail::foreign_form();
    form x{f.words[0], {}};
    for (int i = 0; i < 4; ++i) x.words[i] = f.words[3 + i];
    rotated_rows found{};
    if (auto const s = Inner::read(x, found.inner); !s) return s;
    found.seed = f.words[1] | std::uint64_t{f.words[2]} << 32;
    out = found;
    return {};
  }

  KVSLIM_HD void encode(float* rows, site const& at, std::byte* block) const noexcept {
    ops::rotate_by_hadamard(rows, at.dim, seed, false, at.n);
    inner.encode(rows, at, block);
  }
  [[nodiscard]] KVSLIM_HD float coordinate(std::byte const* block, site const& at,
                                           index_t j) const noexcept {
    return inner.decode(block, at, j);
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, site const& at,
                                       index_t d) const noexcept {
    float sum = 0.0f;
    for (index_t j = 0; j < at.dim; ++j)
      sum += ops::hadamard_entry(at.dim, seed, j, d) * inner.decode(block, at, j);
    return sum;
  }
  KVSLIM_HD void load(std::byte const* block, site const& at, float* out) const noexcept {
    for (index_t j = 0; j < at.dim; ++j) out[j] = inner.decode(block, at, j);
    ops::rotate_by_hadamard(out, at.dim, seed, true);
  }
  KVSLIM_HD void prepare(float const* q, site const& at,
                         float* own) const noexcept requires key_codec<Inner> {
    for (index_t d = 0; d < at.dim; ++d) own[d] = q[d];
    ops::rotate_by_hadamard(own, at.dim, seed, false);
  }
  KVSLIM_HD void dot(std::byte const* block, site const& at, float const* q, index_t heads,
                     float* scores) const noexcept requires key_codec<Inner> {
    inner.dot(block, at, q, heads, scores);
  }
  KVSLIM_HD void finish(float* sum, site const& at,
                        float* out) const noexcept requires value_codec<Inner> {
    ops::rotate_by_hadamard(sum, at.dim, seed, true);
    for (index_t d = 0; d < at.dim; ++d) out[d] += sum[d];
  }
  KVSLIM_HD void accumulate(std::byte const* block, site const& at, float const* p, index_t heads,
                            float* out) const noexcept requires value_codec<Inner> {
    inner.accumulate(block, at, p, heads, out);
  }
};
template <class Inner>
rotated_rows(Inner) -> rotated_rows<Inner>;
template <class Inner>
rotated_rows(Inner, std::uint64_t) -> rotated_rows<Inner>;

KVSLIM_END_NAMESPACE
