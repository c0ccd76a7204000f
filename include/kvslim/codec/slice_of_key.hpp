// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Latent attention stores one row per token: V is the first channels of K. Nothing is stored for V,
// and both are read from the same bytes.

#include <kvslim/codec/dense.hpp>
#include <kvslim/isa/slice_kernels.hpp>

KVSLIM_BEGIN_NAMESPACE

/// V as the first value_dim channels of a K stored by `Key`:
/// `codec_pair{dense_key<f16>{}, slice_of_key{dense_key<f16>{}, 576}}`. The view's V must be that
/// slice of its K (a plane with the same pointer).
///
/// Requires: key_dim equal to the view's head_dim, at least value_dim (invalid_option). Cost: no
/// bytes of its own; reads what K's half holds.
template <key_codec Key>
struct slice_of_key {
  using tail_type = typename Key::tail_type;
  using key_codec_type = Key;
  static constexpr codec_traits traits{
      .form = form_id{static_cast<std::uint32_t>(detail::form_kind::slice_of_key) << 16},
      .whole_blocks = Key::traits.whole_blocks,
      .rewrites = Key::traits.rewrites,
      .positions = Key::traits.positions,
      .shares_keys = true,
      .long_runs = detail::is_dense_key<Key>};

  Key key = {};
  index_t key_dim = 0;

  [[nodiscard]] KVSLIM_HD constexpr status check(index_t dim) const noexcept {
    if (key_dim < dim)
      return detail::fail(errc::invalid_option,
                          "kvslim: slice_of_key needs key_dim of at least value_dim");
    return key.check(key_dim);
  }
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes sizes(index_t, index_t tokens) const noexcept {
    return key.sizes(key_dim, tokens);
  }
  [[nodiscard]] KVSLIM_HD constexpr float limit() const noexcept { return key.limit(); }
  [[nodiscard]] constexpr form written() const noexcept {
    form const inner = key.written();
    form f{traits.form.value, {inner.id, static_cast<std::uint32_t>(key_dim)}};
    for (int i = 0; i < 5; ++i) f.words[2 + i] = inner.words[i];
    return f;
  }
  [[nodiscard]] static constexpr status read(form const& f, slice_of_key& out) noexcept {
    if (f.id != traits.form.value || f.words[1] > extents::most_channels)
      return detail::foreign_form();
    form inner{f.words[0], {}};
    for (int i = 0; i < 5; ++i) inner.words[i] = f.words[2 + i];
    slice_of_key mine{};
    if (auto const s = Key::read(inner, mine.key); !s) return s;
    mine.key_dim = static_cast<index_t>(f.words[1]);
    out = mine;
    return {};
  }

  /// K's half writes the bytes.
  KVSLIM_HD void encode(float const*, site const&, std::byte*) const noexcept {}
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, site const& at,
                                       index_t d) const noexcept {
    return key.decode(block, of_key(at), d);
  }
  KVSLIM_HD void accumulate(std::byte const* block, site const& at, float const* p, index_t heads,
                            float* out) const noexcept {
    if constexpr (detail::is_dense_key<Key>)
      if (detail::accumulate_tiles<tail_type>(block, key_dim, at, p, heads, out)) return;
    auto const z = key.sizes(key_dim, 0);
    for (index_t done = 0; done < at.n;) {
      index_t const place = at.first + done, inside = place % z.block_tokens;
      index_t const n = detail::min(at.n - done, z.block_tokens - inside);
      std::byte const* const from = block + place / z.block_tokens * z.block_bytes;
      float const* const weights = p + done / run_tokens * at.apart + done % run_tokens;
      add_block(from, of_key(at), inside, n, weights, heads, out, at.dim);
      done += n;
    }
  }

 private:
  [[nodiscard]] KVSLIM_HD site of_key(site at) const noexcept {
    at.dim = key_dim;
    return at;
  }
  static constexpr index_t chunk = 32;
  using decoded = float[static_cast<std::size_t>(run_tokens)][static_cast<std::size_t>(chunk)];

  /// x[i][c] = channel d + c of token first + i, for up to `width` channels: tokens become rows
  /// again, once for all heads.
  KVSLIM_HD void decode_chunk(std::byte const* block, site at, index_t first, index_t n, index_t d,
                              index_t width, decoded& x) const noexcept {
    if constexpr (detail::is_dense_key<Key>) {
      constexpr index_t tile = Key::tile;
      auto const* const in = detail::array_at<tail_type>(block);
      for (index_t c = 0; c < width; ++c) {
        float k[static_cast<std::size_t>(tile)];
        detail::widen16(in + (d + c) * tile, k);
        for (index_t i = 0; i < n; ++i) x[i][c] = k[first + i];
      }
    } else {
      at.n = 1;
      for (index_t i = 0; i < n; ++i) {
        at.first = first + i;
        for (index_t c = 0; c < width; ++c) x[i][c] = key.decode(block, at, d + c);
      }
    }
    for (index_t i = 0; i < n; ++i)
      for (index_t c = width; c < chunk; ++c) x[i][c] = 0.0f;
  }
  /// out[h] += sum of p[h][i] * k[first + i] over the slice's channels, tokens of one block.
  KVSLIM_HD void add_block(std::byte const* block, site const& at, index_t first, index_t n,
                           float const* p, index_t heads, float* out, index_t dim) const noexcept {
    for (index_t d = 0; d < dim; d += chunk) {
      index_t const width = detail::min(chunk, dim - d);
      decoded x;
      decode_chunk(block, at, first, n, d, width, x);
      detail::by_heads(heads, [&](auto count, index_t h0) {
        constexpr index_t m = decltype(count)::value;
        float sum[static_cast<std::size_t>(m)][static_cast<std::size_t>(chunk)] = {};
        for (index_t i = 0; i < n; ++i)
          for (index_t h = 0; h < m; ++h)
            for (index_t c = 0; c < chunk; ++c) sum[h][c] += p[(h0 + h) * run_tokens + i] * x[i][c];
        for (index_t h = 0; h < m; ++h)
          for (index_t c = 0; c < width; ++c) out[(h0 + h) * dim + d + c] += sum[h][c];
      });
    }
  }
};
template <class Key>
slice_of_key(Key, index_t) -> slice_of_key<Key>;
static_assert(value_codec<slice_of_key<dense_key<f16>>>);

KVSLIM_END_NAMESPACE
