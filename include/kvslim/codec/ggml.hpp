// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Rows of ggml's blocks: what llama.cpp's cache types are, byte for byte.

#include <kvslim/codec/blocks.hpp>
#include <kvslim/codec/form.hpp>
#include <kvslim/codec/ggml_block.hpp>
#include <kvslim/isa/attend_kernels.hpp>
#include <kvslim/isa/encode_kernels.hpp>
#include <kvslim/isa/lanes.hpp>

KVSLIM_BEGIN_NAMESPACE

/// K or V as ggml's blocks of 32 channels, token after token, with an exact tail of `residual`
/// tokens.
///
/// Byte layout of a block: head_dim / 32 blocks of ggml's (codec/ggml_block.hpp), which is one head
/// of one row of a llama.cpp cache. Requires: head_dim a multiple of 32 (invalid_shape); residual
/// between 0 and 2^20 (invalid_option). Error: half a step, where the reference's steps reach; the
/// step is the largest magnitude / 127 (q8_0), / 16 (q5_0), / 8 (q4_0), or the span / 31 (q5_1),
/// / 15 (q4_1), rounded to f16; the symmetric types of 4 and 5 bits clip by up to a step at the end
/// that is opposite to the largest magnitude. Source: quant/ggml.hpp.
template <ggml_block Type, element Tail = f16>
struct ggml_rows {
  using tail_type = Tail;
  static constexpr ggml_block block_type = Type;
  static constexpr codec_traits traits{
      .form = form_id{static_cast<std::uint32_t>(detail::form_kind::ggml_rows) << 16 |
                      static_cast<std::uint32_t>(Type) << 8 | detail::element_number<Tail>()},
      .rewrites = true,
      .encodes_runs = true,
      .encodes_stored = true,
      .long_runs = true};

  index_t residual = 0;

  [[nodiscard]] KVSLIM_HD constexpr status check(index_t dim) const noexcept {
    if (auto const result = detail::check_residual(residual); !result.ok()) return result;
    if (dim % detail::ggml_channels != 0)
      return detail::fail(errc::invalid_shape,
                          "kvslim: ggml's blocks need head_dim to be a multiple of 32");
    return detail::check_channels(dim);
  }
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes sizes(index_t dim, index_t) const noexcept {
    return {.block_tokens = 1, .block_bytes = row_bytes(dim), .keep_exact = residual};
  }
  [[nodiscard]] KVSLIM_HD constexpr float limit() const noexcept {
    constexpr float tail = largest_finite<Tail>();
    if constexpr (format::largest >= tail) return tail;
    // What the tail rounds must not leave the range: the largest Tail that is not above.
    Tail most = from_float<Tail>(format::largest);
    if constexpr (!std::same_as<Tail, float>)
      if (to_float(most) > format::largest) --most.bits;
    return to_float(most);
  }
  [[nodiscard]] constexpr form written() const noexcept {
    return {traits.form.value, {static_cast<std::uint32_t>(residual)}};
  }
  [[nodiscard]] static constexpr status read(form const& f, ggml_rows& out) noexcept {
    if (!detail::is_form(f, traits.form, 1)) return detail::foreign_form();
    ggml_rows const found{f.words[0]};
    if (!detail::check_residual(found.residual).ok()) return detail::foreign_form();
    out = found;
    return {};
  }

  /// Bytes of one head's row.
  [[nodiscard]] static KVSLIM_HD constexpr index_t row_bytes(index_t dim) noexcept {
    return dim / channels * format::bytes;
  }
  /// False where no kernel reads such rows: nothing was written.
  template <class T>
  [[nodiscard]] KVSLIM_HD bool encode_stored(T const* rows, site const& at,
                                             std::byte* block) const noexcept {
    return detail::encode_block_rows<format>(rows, at, block);
  }
  KVSLIM_HD void encode(float const* rows, site const& at, std::byte* block) const noexcept {
    if (encode_stored(rows, at, block)) return;
    for (index_t i = 0; i < at.n * at.dim / channels; ++i)
      detail::encode_ggml<Type>(rows + i * channels, block + i * format::bytes);
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, site const&,
                                       index_t d) const noexcept {
    return detail::ggml_value<Type>(block + d / channels * format::bytes, d % channels);
  }
  KVSLIM_HD void dot(std::byte const* block, site const& at, float const* q, index_t heads,
                     float* scores) const noexcept {
    if (detail::dot_blocks<format>(block, row_bytes(at.dim), at, q, heads, scores)) return;
    by_runs(block, at, [&](std::byte const* rows, site const& run, index_t from) {
      dot_run(rows, run, q, heads, scores + from);
    });
  }
  KVSLIM_HD void accumulate(std::byte const* block, site const& at, float const* p, index_t heads,
                            float* out) const noexcept {
    if (detail::accumulate_block_rows<format>(block, row_bytes(at.dim), at, p, heads, out)) return;
    by_runs(block, at, [&](std::byte const* rows, site const& run, index_t from) {
      accumulate_run(rows, run, p + from, heads, out);
    });
  }

 private:
  using format = detail::ggml_format<Type>;
  static constexpr index_t channels = detail::ggml_channels;

  /// Calls f(rows, site, numbers) for each run of 32 tokens.
  template <class F>
  static KVSLIM_HD void by_runs(std::byte const* block, site const& at, F const& f) noexcept {
    detail::by_blocks(at, run_tokens, run_tokens, [&](index_t run, site const& part, index_t from) {
      f(block + run * run_tokens * row_bytes(at.dim), part, from);
    });
  }
  static KVSLIM_HD void dot_run(std::byte const* block, site const& at, float const* q,
                                index_t heads, float* scores) noexcept {
    if (detail::dot_rows<format>(block, row_bytes(at.dim), at, q, heads, scores)) return;
    detail::by_heads(heads, [&](auto count, index_t h0) {
      constexpr index_t n = decltype(count)::value;
      for (index_t i = 0; i < at.n; ++i)
        dot_row<n>(block + i * row_bytes(at.dim), at.dim, q + h0 * at.dim,
                   scores + h0 * run_tokens + i);
    });
  }
  static KVSLIM_HD void accumulate_run(std::byte const* block, site const& at, float const* p,
                                       index_t heads, float* out) noexcept {
    if (detail::add_rows<format>(block, row_bytes(at.dim), at, p, heads, out)) return;
    for (index_t d = 0; d < at.dim; d += channels)
      detail::by_heads(heads, [&](auto count, index_t h) {
        constexpr index_t m = decltype(count)::value;
        std::byte const* const first = block + d / channels * format::bytes;
        float const* const weights = p + h * run_tokens;
        float* const sums = out + h * at.dim + d;
        // Eight registers of sums leave room for what is added to them.
        if constexpr (m * channels <= 8 * detail::lanes::width || detail::lanes::width == 1) {
          add_channels<m, channels>(first, at, weights, sums, [](std::byte const* in, float* x) {
            detail::load_ggml<Type>(in, x);
          });
        } else {
          add_channels<m, 16>(first, at, weights, sums, [](std::byte const* in, float* x) {
            detail::load_ggml<Type, 0>(in, x);
          });
          add_channels<m, 16>(first, at, weights, sums + 16, [](std::byte const* in, float* x) {
            detail::load_ggml<Type, 1>(in, x);
          });
        }
      });
  }
  /// Adds q[h] . k to scores[h * run_tokens] for one row k. Blocks are summed by themselves, which
  /// keeps rounding errors apart, and lanes of a register side by side.
  template <index_t Heads>
  static KVSLIM_HD void dot_row(std::byte const* row, index_t dim, float const* q,
                                float* scores) noexcept {
    using lanes = detail::lanes;
    detail::local<lanes, Heads> total = {};
    for (index_t d = 0; d < dim; d += channels) {
      detail::local<float, detail::ggml_channels> x;
      detail::load_ggml<Type>(row + d / channels * format::bytes, x);
      // One register at a time: arrays of them would be copied through memory.
      detail::local<lanes, Heads> sum = {};
      for (index_t j = 0; j < channels; j += lanes::width) {
        lanes k;
        std::memcpy(&k, x + j, sizeof k);
        for (index_t h = 0; h < Heads; ++h) {
          lanes mine;
          std::memcpy(&mine, q + h * dim + d + j, sizeof mine);
          sum[h].x += mine.x * k.x;
        }
      }
      for (index_t h = 0; h < Heads; ++h) total[h].x += sum[h].x;
    }
    for (index_t h = 0; h < Heads; ++h) {
      detail::local<float, lanes::width> part;
      std::memcpy(part, &total[h], sizeof part);
      for (index_t half = lanes::width / 2; half > 0; half /= 2)
        for (index_t j = 0; j < half; ++j) part[j] += part[half + j];
      scores[h * run_tokens] += part[0];
    }
  }
  /// What accumulate adds to N channels of `Heads` heads; load(block, x) reads them.
  template <index_t Heads, index_t N, class Load>
  static KVSLIM_HD void add_channels(std::byte const* first, site const& at, float const* p,
                                     float* out, Load const& load) noexcept {
    detail::lane_sums<Heads, N> sums;
    for (index_t t = 0; t < at.n; ++t) {
      detail::local<float, N> v;
      load(first + t * row_bytes(at.dim), v);
      sums.add(v, [&](index_t h) { return p[h * run_tokens + t]; });
    }
    detail::local<float, Heads, N> sum;
    sums.store(sum);
    for (index_t h = 0; h < Heads; ++h)
      for (index_t i = 0; i < N; ++i) out[h * at.dim + i] += sum[h][i];
  }
};

static_assert(key_codec<ggml_rows<ggml_block::q8_0>> && value_codec<ggml_rows<ggml_block::q8_0>> &&
              detail::check_codec<ggml_rows<ggml_block::q8_0>>::value);

KVSLIM_END_NAMESPACE
