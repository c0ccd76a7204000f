// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Tokens of which only the channels of largest magnitude are stored: a bit for every channel, then
// those that stay, as many in every token.

#include <kvslim/codec/form.hpp>
#include <kvslim/isa/convert.hpp>
#include <kvslim/isa/encode_kernels.hpp>
#include <kvslim/isa/lanes.hpp>

#include <cstring>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

[[nodiscard]] KVSLIM_HD constexpr index_t count_bits(std::uint32_t x) noexcept {
  x -= x >> 1 & 0x55555555u;
  x = (x & 0x33333333u) + (x >> 2 & 0x33333333u);
  return static_cast<index_t>(((x + (x >> 4)) & 0x0f0f0f0fu) * 0x01010101u >> 24);
}

}  // namespace detail

/// K or V as the `kept` channels of a token that are largest in magnitude, the others read as 0,
/// with an exact tail of `residual` tokens. Of equal ones the earlier channel stays.
///
/// Byte layout of a block: u32 mask[ceil(dim / 32)], bit d % 32 of word d / 32 set where channel d
/// is stored, T value[kept] by channel, padded to 4 bytes; kept = dim + 1 - max(1, floor(dim *
/// share)). Requires: share in [0, 1), residual 0 to 2^20 (invalid_option); head_dim at most 1024
/// (invalid_shape). Error: what is left out, at most the smallest magnitude that stays, a channel;
/// T's rounding of the others. Cost: encode 31 passes over a token's channels; reading its bytes,
/// and where there is no kernel kept + dim steps a token.
template <element T = f16>
struct sparse_rows {
  using tail_type = T;
  static constexpr codec_traits traits{
      .form = detail::dense_form<T>(detail::form_kind::sparse_rows), .rewrites = true};

  float share = 0.5f;    ///< of a token's channels that is left out
  index_t residual = 0;  ///< newest tokens kept exact

  /// Channels that are stored of `dim`.
  [[nodiscard]] KVSLIM_HD constexpr index_t kept(index_t dim) const noexcept {
    return dim + 1 - detail::max(1, static_cast<index_t>(static_cast<float>(dim) * share));
  }
  [[nodiscard]] KVSLIM_HD constexpr status check(index_t dim) const noexcept {
    if (auto const s = check_options(); !s.ok()) return s;
    if (dim < 1 || dim > most_dim)
      return detail::fail(errc::invalid_shape,
                          "kvslim: sparse rows need head_dim between 1 and 1024");
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes sizes(index_t dim, index_t) const noexcept {
    return {.block_bytes = block_bytes(dim), .keep_exact = residual};
  }
  [[nodiscard]] KVSLIM_HD constexpr float limit() const noexcept { return largest_finite<T>(); }
  [[nodiscard]] constexpr form written() const noexcept {
    return {traits.form.value,
            {detail::bit_cast<std::uint32_t>(share), static_cast<std::uint32_t>(residual)}};
  }
  [[nodiscard]] static constexpr status read(form const& f, sparse_rows& out) noexcept {
    if (!detail::is_form(f, traits.form, 2)) return detail::foreign_form();
    sparse_rows const found{detail::bit_cast<float>(f.words[0]), index_t{f.words[1]}};
    if (!found.check_options().ok()) return detail::foreign_form();
    out = found;
    return {};
  }

  KVSLIM_HD void encode(float const* rows, site const& at, std::byte* block) const noexcept {
    index_t const dim = at.dim, n = kept(dim);
    for (index_t i = 0; i < at.n; ++i, block += block_bytes(dim)) {
      float const* const x = rows + i * dim;
      auto* const mask = detail::array_at<std::uint32_t>(block);
      auto* const values = detail::array_at<T>(block + mask_bytes(dim));
      if (encode_row(x, dim, mask, values)) continue;
      std::uint32_t const least = magnitude_of_rank(x, dim, n);
      index_t ties = n;  // of `least` that stay
      for (index_t d = 0; d < dim; ++d) ties -= magnitude(x[d]) > least ? 1 : 0;
      std::uint32_t word = 0;
      for (index_t d = 0, j = 0; d < dim; ++d) {
        std::uint32_t const m = magnitude(x[d]);
        if (m > least || (m == least && ties-- > 0)) {
          word |= 1u << (d % 32);
          values[j++] = from_float<T>(x[d]);
        }
        if (d % 32 == 31 || d + 1 == dim) {
          mask[d / 32] = word;
          word = 0;
        }
      }
    }
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, site const& at,
                                       index_t d) const noexcept {
    auto const* const mask = detail::array_at<std::uint32_t const>(block);
    std::uint32_t const word = mask[d / 32], bit = 1u << (d % 32);
    if ((word & bit) == 0) return 0.0f;
    index_t before = detail::count_bits(word & (bit - 1u));
    for (index_t w = 0; w < d / 32; ++w) before += detail::count_bits(mask[w]);
    return to_float(detail::array_at<T const>(block + mask_bytes(at.dim))[before]);
  }
  KVSLIM_HD void dot(std::byte const* block, site const& at, float const* q, index_t heads,
                     float* scores) const noexcept {
    if (detail::dot_sparse<T>(block, shape(at.dim), at, q, heads, scores)) return;
    using lanes = detail::lanes;
    for (index_t i = 0; i < at.n; ++i) {
      float part[run_heads][lanes::width] = {};
      by_words(block + i * block_bytes(at.dim), at.dim, [&](index_t d, float const* x, index_t n) {
        for (index_t h = 0; h < heads; ++h) {
          float const* const mine = q + h * at.dim + d;
          if (n < 32) {
            for (index_t c = 0; c < n; ++c) part[h][0] += mine[c] * x[c];
            continue;
          }
          lanes sum;
          std::memcpy(&sum, part[h], sizeof sum);
          for (index_t c = 0; c < 32; c += lanes::width) {
            lanes a, b;
            std::memcpy(&a, mine + c, sizeof a);
            std::memcpy(&b, x + c, sizeof b);
            sum.x += a.x * b.x;
          }
          std::memcpy(part[h], &sum, sizeof sum);
        }
      });
      for (index_t h = 0; h < heads; ++h) {
        for (index_t half = lanes::width / 2; half > 0; half /= 2)
          for (index_t c = 0; c < half; ++c) part[h][c] += part[h][half + c];
        scores[h * run_tokens + i] += part[h][0];
      }
    }
  }
  KVSLIM_HD void accumulate(std::byte const* block, site const& at, float const* p, index_t heads,
                            float* out) const noexcept {
    if (detail::add_sparse<T>(block, shape(at.dim), at, p, heads, out)) return;
    using lanes = detail::lanes;
    for (index_t i = 0; i < at.n; ++i)
      by_words(block + i * block_bytes(at.dim), at.dim, [&](index_t d, float const* x, index_t n) {
        for (index_t h = 0; h < heads; ++h) {
          float* const sums = out + h * at.dim + d;
          float const weight = p[h * run_tokens + i];
          if (n < 32) {
            for (index_t c = 0; c < n; ++c) sums[c] += weight * x[c];
            continue;
          }
          for (index_t c = 0; c < 32; c += lanes::width) {
            lanes a, b;
            std::memcpy(&a, sums + c, sizeof a);
            std::memcpy(&b, x + c, sizeof b);
            a.x += weight * b.x;
            std::memcpy(sums + c, &a, sizeof a);
          }
        }
      });
  }

 private:
  static constexpr index_t most_dim = detail::sparse_shape::most_dim;

  [[nodiscard]] KVSLIM_HD constexpr status check_options() const noexcept {
    if (!(share >= 0.0f && share < 1.0f))
      return detail::fail(errc::invalid_option,
                          "kvslim: the share of channels left out must be in [0, 1)");
    return detail::check_residual(residual);
  }
  [[nodiscard]] static KVSLIM_HD constexpr index_t mask_bytes(index_t dim) noexcept {
    return detail::div_up(dim, 32) * 4;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t block_bytes(index_t dim) const noexcept {
    return mask_bytes(dim) + detail::round_up(kept(dim) * static_cast<index_t>(sizeof(T)), 4);
  }
  [[nodiscard]] KVSLIM_HD constexpr detail::sparse_shape shape(index_t dim) const noexcept {
    return {block_bytes(dim), mask_bytes(dim), kept(dim), dim};
  }
  /// What encode does for a token, by kernels; false: nothing was done.
  [[nodiscard]] KVSLIM_HD bool encode_row(float const* x, index_t dim, std::uint32_t* mask,
                                          T* values) const noexcept {
#if defined(__CUDA_ARCH__)  // no kernels, and no room
    return false;
#else
    index_t const n = kept(dim), whole = n - n % 16;
    detail::local<float, most_dim + 16> chosen;
    chosen[0] = 0.0f;  // g++ does not know that there is a channel
    if (!detail::keep_largest(x, dim, n, mask, chosen)) return false;
    bool const narrowed = whole > 0 && detail::narrow_run(chosen, whole, values);
    for (index_t j = narrowed ? whole : 0; j < n; ++j) values[j] = from_float<T>(chosen[j]);
    return true;
#endif
  }
  /// Bits of |x|, which order as magnitudes do.
  [[nodiscard]] static KVSLIM_HD std::uint32_t magnitude(float x) noexcept {
    return detail::bit_cast<std::uint32_t>(x) & 0x7fffffffu;
  }
  /// The n-th largest magnitude, bit by bit.
  [[nodiscard]] static KVSLIM_HD std::uint32_t magnitude_of_rank(float const* x, index_t dim,
                                                                 index_t n) noexcept {
    std::uint32_t found = 0;
    for (int bit = 30; bit >= 0; --bit) {
      std::uint32_t const next = found | 1u << bit;
      std::int32_t reach = 0;
      for (index_t d = 0; d < dim; ++d) reach += magnitude(x[d]) >= next ? 1 : 0;
      if (reach >= static_cast<std::int32_t>(n)) found = next;
    }
    return found;
  }
  /// Calls use(d, x, n) for every 32 channels from d on, zeros where none is stored; the first n
  /// of them are the token's.
  template <class Use>
  KVSLIM_HD void by_words(std::byte const* block, index_t dim, Use const& use) const noexcept {
    auto const* const mask = detail::array_at<std::uint32_t const>(block);
    auto const* const values = detail::array_at<T const>(block + mask_bytes(dim));
    detail::local<float, most_dim + 1> y;
    index_t const n = kept(dim), whole = n - n % 16;
    for (index_t j = 0; j < whole; j += 16) detail::widen16(values + j, y + j);
    for (index_t j = whole; j < n; ++j) y[j] = detail::widen(values[j]);
    y[n] = 0.0f;  // read, not used, behind the last
    float const* next = y;
    for (index_t d = 0; d < dim; d += 32) {
      std::uint32_t const word = mask[d / 32];
      detail::local<float, 32> x;
      for (index_t c = 0; c < 32; ++c) {
        bool const held = (word >> c & 1u) != 0;
        float const value = *next;  // no branch: bits are as good as chance
        x[c] = held ? value : 0.0f;
        next += held ? 1 : 0;
      }
      use(d, x, detail::min(32, dim - d));
    }
  }
};

static_assert(key_codec<sparse_rows<f16>> && value_codec<sparse_rows<f16>> &&
              detail::check_codec<sparse_rows<f16>>::value);

KVSLIM_END_NAMESPACE
