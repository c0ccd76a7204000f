// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Codecs that no .cuh knows: warps then encode and read with nothing but the codec.

#include <kvslim/kvslim.hpp>

namespace on_device {

using namespace kvslim;

struct own_key : token_key<4> {};
struct own_value : token_value<8> {};
static_assert(detail::check_codec<own_key>::value && detail::check_codec<own_value>::value);

struct own_codecs {
  static constexpr quantizer_traits traits{};
  [[nodiscard]] KVSLIM_HD constexpr own_key key_codec() const noexcept { return {{20}}; }
  [[nodiscard]] KVSLIM_HD constexpr own_value value_codec() const noexcept {
    return {{0, 20, rounding::precise}};
  }
};

/// Blocks shared by two sequences, and a state: both rows of a token as differences from the first
/// token.
struct paired {
  using tail_type = float;
  static constexpr codec_traits traits{
      .form = form_id{0xf0040000u}, .grouped = true, .fitted = true};

  [[nodiscard]] KVSLIM_HD constexpr row_group group() const noexcept { return {.sequences = 2}; }
  [[nodiscard]] KVSLIM_HD constexpr status check(index_t) const noexcept { return {}; }
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes sizes(index_t dim, index_t) const noexcept {
    return {.block_bytes = 8 * dim, .keep_exact = 5, .state_bytes = 8 * dim};
  }
  [[nodiscard]] KVSLIM_HD constexpr float limit() const noexcept { return 1e30f; }
  [[nodiscard]] constexpr form written() const noexcept { return {traits.form.value, {}}; }
  [[nodiscard]] static constexpr status read(form const& f, paired& out) noexcept {
    out = {};
    return f.id == traits.form.value ? status{} : detail::fail(errc::foreign, "kvslim: not paired");
  }
  template <class Read>
  KVSLIM_HD void fit(Read const& read, index_t tokens, site const& at, std::byte* state,
                     float*) const noexcept {
    for (index_t m = 0; m < 2 && tokens > 0; ++m)
      read(m, 0, reinterpret_cast<float*>(state) + m * at.dim);
  }
  KVSLIM_HD void encode(float const* rows, site const& at, std::byte* block) const noexcept {
    auto const* const first = reinterpret_cast<float const*>(at.state);
    for (index_t i = 0; i < 2 * at.dim; ++i)
      reinterpret_cast<float*>(block)[i] = rows[i] - first[i];
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, site const& at,
                                       index_t d) const noexcept {
    index_t const i = at.member * at.dim + d;
    return reinterpret_cast<float const*>(block)[i] + reinterpret_cast<float const*>(at.state)[i];
  }
  KVSLIM_HD void dot(std::byte const* block, site const& at, float const* q, index_t heads,
                     float* scores) const noexcept {
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < at.n; ++i)
        for (index_t d = 0; d < at.dim; ++d)
          scores[h * run_tokens + i] += q[h * at.dim + d] * decode(block + i * 8 * at.dim, at, d);
  }
  KVSLIM_HD void accumulate(std::byte const* block, site const& at, float const* p, index_t heads,
                            float* out) const noexcept {
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < at.n; ++i)
        for (index_t d = 0; d < at.dim; ++d)
          out[h * at.dim + d] += p[h * run_tokens + i] * decode(block + i * 8 * at.dim, at, d);
  }
};
static_assert(detail::check_codec<paired>::value);

struct paired_sequences {
  static constexpr quantizer_traits traits{};
  [[nodiscard]] KVSLIM_HD constexpr paired key_codec() const noexcept { return {}; }
  [[nodiscard]] KVSLIM_HD constexpr paired value_codec() const noexcept { return {}; }
};

}  // namespace on_device
