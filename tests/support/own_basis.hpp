// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Codecs in a basis of their own that are exact, or lose what is plain to see: attention over them
// is attention over what they decode to.

#include <kvslim/kvslim.hpp>

namespace own_basis {

using namespace kvslim;

/// What the coordinates of a token are.
enum class turn : std::uint32_t {
  reversed,  ///< channels in another order, every third with the other sign
  padded,    ///< likewise, then zeros up to a power of two
  pairs,     ///< sums of two neighbours: half as many as channels
};

/// Coordinates as floats. Fitted: divided by the length of the first coded token, which is the
/// state.
template <bool Fitted = false>
struct turned {
  using tail_type = float;
  static constexpr codec_traits traits{.form = form_id{0xf0050000u + Fitted},
                                       .space = basis::own,
                                       .rewrites = true,
                                       .fitted = Fitted};
  turn kind = turn::reversed;
  index_t residual = 0;

  [[nodiscard]] KVSLIM_HD constexpr status check(index_t) const noexcept { return {}; }
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes sizes(index_t dim, index_t) const noexcept {
    index_t const n = width(dim);
    return {.block_bytes = 4 * n,
            .keep_exact = residual,
            .state_bytes = Fitted ? 4 : 0,
            .fit_floats = Fitted ? dim : 0,
            .own_dim = n};
  }
  [[nodiscard]] KVSLIM_HD constexpr float limit() const noexcept { return 1e30f; }
  [[nodiscard]] constexpr form written() const noexcept {
    return {traits.form.value,
            {static_cast<std::uint32_t>(kind), static_cast<std::uint32_t>(residual)}};
  }
  [[nodiscard]] static constexpr status read(form const& f, turned& out) noexcept {
    if (f.id != traits.form.value || f.words[0] > 2) return {errc::foreign, "not turned"};
    out = {static_cast<turn>(f.words[0]), index_t{f.words[1]}};
    return {};
  }
  template <class Read>
  KVSLIM_HD void fit(Read const& read, index_t tokens, site const& at, std::byte* state,
                     float* scratch) const noexcept requires Fitted {
    float sum = 1.0f;
    if (tokens > 0) read(0, 0, scratch);
    for (index_t d = 0; d < at.dim && tokens > 0; ++d) sum += scratch[d] * scratch[d];
    *reinterpret_cast<float*>(state) = sum;
  }

  /// Overwrites its rows, as it may.
  KVSLIM_HD void encode(float* rows, site const& at, std::byte* block) const noexcept {
    index_t const n = width(at.dim);
    for (index_t i = 0; i < at.n; ++i) {
      float* const x = rows + i * at.dim;
      auto* const to = reinterpret_cast<float*>(block) + i * n;
      for (index_t j = 0; j < n; ++j) {
        float const y = kind != turn::pairs  ? (j < at.dim ? sign(j) * x[channel(j, at.dim)] : 0.0f)
                        : 2 * j + 1 < at.dim ? x[2 * j] + x[2 * j + 1]
                                             : x[2 * j];
        to[j] = y / unit(at);
      }
      for (index_t d = 0; d < at.dim; ++d) x[d] = 1e20f;
    }
  }
  [[nodiscard]] KVSLIM_HD float coordinate(std::byte const* block, site const&,
                                           index_t j) const noexcept {
    return reinterpret_cast<float const*>(block)[j];
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, site const& at,
                                       index_t d) const noexcept {
    if (kind == turn::pairs) return coordinate(block, at, d / 2) * share(d / 2, at.dim) * unit(at);
    index_t const j = channel(d, at.dim);  // it is its own inverse
    return coordinate(block, at, j) * sign(j) * unit(at);
  }
  KVSLIM_HD void load(std::byte const* block, site const& at, float* out) const noexcept {
    for (index_t d = 0; d < at.dim; ++d) out[d] = decode(block, at, d);
  }
  KVSLIM_HD void prepare(float const* q, site const& at, float* own) const noexcept {
    for (index_t j = 0; j < width(at.dim); ++j) own[j] = 0.0f;
    for (index_t d = 0; d < at.dim; ++d)
      if (kind == turn::pairs)
        own[d / 2] += q[d] * share(d / 2, at.dim) * unit(at);
      else
        own[channel(d, at.dim)] = q[d] * sign(channel(d, at.dim)) * unit(at);
  }
  KVSLIM_HD void finish(float* sum, site const& at, float* out) const noexcept {
    for (index_t d = 0; d < at.dim; ++d)
      out[d] += kind == turn::pairs ? sum[d / 2] * share(d / 2, at.dim) * unit(at)
                                    : sum[channel(d, at.dim)] * sign(channel(d, at.dim)) * unit(at);
    sum[0] = 1e20f;
  }
  KVSLIM_HD void dot(std::byte const* block, site const& at, float const* q, index_t heads,
                     float* scores) const noexcept {
    index_t const n = width(at.dim);
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < at.n; ++i)
        for (index_t j = 0; j < n; ++j)
          scores[h * run_tokens + i] += q[h * n + j] * coordinate(block, at, i * n + j);
  }
  KVSLIM_HD void accumulate(std::byte const* block, site const& at, float const* p, index_t heads,
                            float* out) const noexcept {
    index_t const n = width(at.dim);
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < at.n; ++i)
        for (index_t j = 0; j < n; ++j)
          out[h * n + j] += p[h * run_tokens + i] * coordinate(block, at, i * n + j);
  }

 private:
  [[nodiscard]] KVSLIM_HD constexpr index_t width(index_t dim) const noexcept {
    if (kind == turn::pairs) return (dim + 1) / 2;
    index_t n = 1;
    while (n < dim) n *= 2;
    return kind == turn::padded ? n : dim;
  }
  [[nodiscard]] static KVSLIM_HD index_t channel(index_t j, index_t dim) noexcept {
    return (dim + 3 - j) % dim;
  }
  [[nodiscard]] static KVSLIM_HD float sign(index_t j) noexcept {
    return j % 3 == 0 ? -1.0f : 1.0f;
  }
  [[nodiscard]] static KVSLIM_HD float share(index_t j, index_t dim) noexcept {
    return 2 * j + 1 < dim ? 0.5f : 1.0f;
  }
  [[nodiscard]] static KVSLIM_HD float unit(site const& at) noexcept {
    return Fitted ? *reinterpret_cast<float const*>(at.state) : 1.0f;
  }
};
static_assert(detail::check_codec<turned<>>::value && detail::check_codec<turned<true>>::value);

}  // namespace own_basis
