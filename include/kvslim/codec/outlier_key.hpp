// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/blocks.hpp>
#include <kvslim/codec/channel_key.hpp>
#include <kvslim/codec/outliers.hpp>

KVSLIM_BEGIN_NAMESPACE

/// K quantized per channel (codec/channel_key.hpp), with the smallest and largest values of every
/// channel of a block of `residual` tokens kept aside as f16. Codes are made of the channel with
/// its mean over the block in their places.
///
/// With `whole_prompt` a channel has one range: that of the prompt, outliers aside. Tokens that
/// come later are coded by it too, and cut where they lie beyond.
///
/// Byte layout of a block of `residual` tokens: blocks of channel_key, then f16
/// value[dim][2 * each], token[dim][2 * each] (u8, or u16 where residual is above 256), each =
/// max(1, residual * outliers / 2), padded to 4 bytes. With `whole_prompt` the blocks of
/// channel_key are codes alone, and the state is Param scale[dim], Param low[dim]. Requires: what
/// channel_key does; residual at most 1024; outliers in [0, 0.5] (invalid_option). Error: that of
/// channel_key over what is left, and of f16 for what is kept aside.
template <int Bits, element Tail = f16, affine_parameter Param = f16>
struct outlier_key {
  using tail_type = Tail;
  static constexpr codec_traits traits{
      .form = detail::affine_form<Tail, Param>(detail::form_kind::outlier_key, Bits),
      .whole_blocks = true,
      .fitted = true,
      .long_runs = true,
      .takes_off = true};

  channel_key<Bits, Tail, Param> codes = {32, 64};
  float outliers = 0.02f;     ///< share of a channel's values, half of them at either end
  bool whole_prompt = false;  ///< one range a channel in place of one a group

  [[nodiscard]] KVSLIM_HD constexpr status check(index_t dim) const noexcept {
    if (auto const s = codes.check(dim); !s.ok()) return s;
    if (codes.residual > 1024)
      return detail::fail(errc::invalid_option,
                          "kvslim: outliers need a residual of at most 1024 tokens");
    return detail::check_outliers(outliers, dim);
  }
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes sizes(index_t dim, index_t) const noexcept {
    index_t const n = codes.residual;
    return {.block_tokens = n,
            .block_bytes = code_bytes(dim) + lists::bytes_of(dim, each(), n),
            .settle_by = n,
            .state_bytes = whole_prompt ? detail::parameter_array<Param>::bytes(dim) : 0,
            .fit_floats = whole_prompt
                              ? (n + 2) * dim + detail::div_up(lists::bytes_of(dim, each(), n), 4)
                              : 0};
  }
  [[nodiscard]] KVSLIM_HD constexpr float limit() const noexcept {
    return detail::within_f16(codes.limit());
  }
  [[nodiscard]] constexpr form written() const noexcept {
    form f = codes.written();
    f.id = traits.form.value;
    if (whole_prompt) f.words[2] |= 2;
    f.words[3] = detail::bit_cast<std::uint32_t>(outliers);
    return f;
  }
  [[nodiscard]] static constexpr status read(form const& f, outlier_key& out) noexcept {
    if (!detail::is_form(f, traits.form, 4)) return detail::foreign_form();
    outlier_key found{};
    form const inner{decltype(codes)::traits.form.value,
                     {f.words[0], f.words[1], f.words[2] & ~2u}};
    if (auto const s = decltype(codes)::read(inner, found.codes); !s.ok()) return s;
    found.outliers = detail::bit_cast<float>(f.words[3]);
    found.whole_prompt = (f.words[2] & 2) != 0;
    if (!found.check(4).ok()) return detail::foreign_form();
    out = found;
    return {};
  }

  /// The ranges of a prompt's channels, block by block without their outliers.
  template <class Read>
  KVSLIM_HD void fit(Read const& read, index_t n, site const& at, std::byte* state,
                     float* scratch) const {
    if (!whole_prompt) return;
    index_t const dim = at.dim, block = codes.residual;
    float *const rows = scratch, *const least = rows + block * dim;
    detail::channel_ranges ranges{least, least + dim, dim};
    detail::outlier_lists<std::byte> const aside{
        static_cast<std::byte*>(static_cast<void*>(least + 2 * dim)), 1, each(), block};
    for (index_t first = 0; first < n; first += block) {
      for (index_t t = 0; t < block; ++t) read(index_t{0}, first + t, rows + t * dim);
      bool const set = detail::set_columns_aside(
          rows, block, dim, aside.each, [](index_t, index_t, float, index_t) {}, rows);
      for (index_t d = 0; d < dim && !set; ++d) {
        auto const channel = [&](index_t t) { return rows[t * dim + d]; };
        aside.choose(0, channel);
        float const mean = detail::mean_of(block, channel);
        for (index_t i = 0; i < 2 * aside.each; ++i) rows[aside.place(0, i) * dim + d] = mean;
      }
      for (index_t t = 0; t < block; ++t) ranges.add(rows + t * dim);
    }
    ranges.store(Bits, codes.rounding, detail::parameters_at<Param>(state, dim));
  }
  KVSLIM_HD void encode(float const* rows, site const& at, std::byte* block) const noexcept {
    index_t const dim = at.dim;
    detail::outlier_lists<std::byte> const aside = lists_of(block, dim);
    if (encode_rows(rows, at, aside, block)) return;
    for (index_t d = 0; d < dim; d += detail::unit_quad) encode_quad(rows, d, at, aside, block);
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, site const& at,
                                       index_t d) const noexcept {
    auto const aside = lists_of(block, at.dim);
    index_t const i = aside.find(d, at.first);
    return i >= 0 ? aside.value(d, i) : decode_code(block, at, at.first, d);
  }
  /// Takes what a whole block stands for off its values, rows of dim.
  KVSLIM_HD void take_off(std::byte const* block, site const& at, float* rows) const noexcept {
    constexpr index_t quad = detail::unit_quad;
    index_t const dim = at.dim, tokens = codes.block_tokens();
    auto const aside = lists_of(block, dim);
    if (aside.each > detail::most_aside)
      return detail::take_off_decoded(*this, block, at, codes.residual, rows);
    for (index_t d = 0; d < dim; d += quad)
      aside.keep_missed(
          d, quad, [&](index_t line, index_t t) { return rows + t * dim + line; },
          [&] {
            for (index_t begin = 0; begin < codes.residual; begin += tokens) {
              std::byte const* const inner = block + begin / tokens * inner_bytes(dim);
              detail::take_off_quad<Bits>(
                  detail::codes_of(inner), tokens, d, dim, codes.group,
                  [&](index_t t) { return parameters(inner, at, t); }, rows + begin * dim);
            }
          });
  }
  KVSLIM_HD void dot(std::byte const* block, site const& at, float const* q, index_t heads,
                     float* scores) const noexcept {
    index_t const bytes = sizes(at.dim, 0).block_bytes;
    detail::by_blocks(at, codes.residual, codes.residual,
                      [&](index_t b, site const& part, index_t logits) {
                        dot_block(block + b * bytes, part, q, heads, scores + logits);
                      });
  }

  /// Outliers of a channel at either end.
  [[nodiscard]] KVSLIM_HD constexpr index_t each() const noexcept {
    return detail::outliers_of(codes.residual, outliers);
  }
  template <class Byte>
  [[nodiscard]] KVSLIM_HD detail::outlier_lists<Byte> lists_of(Byte* block,
                                                               index_t dim) const noexcept {
    return {block + code_bytes(dim), dim, each(), codes.residual};
  }

 private:
  template <class>
  friend struct warp_codec;
  using lists = detail::outlier_lists<std::byte const>;

  /// Lists and codes of channels [d, d + 4) of a block.
  KVSLIM_HD void encode_quad(float const* rows, index_t d, site const& at,
                             detail::outlier_lists<std::byte> const& aside,
                             std::byte* block) const noexcept {
    constexpr index_t quad = detail::unit_quad;
    index_t const dim = at.dim, inner_tokens = codes.block_tokens();
    float mean[quad];
    for (index_t c = 0; c < quad; ++c) {
      auto const channel = [&](index_t t) { return rows[t * dim + d + c]; };
      aside.choose(d + c, channel);
      mean[c] = detail::mean_of(codes.residual, channel);
    }
    for (index_t begin = 0; begin < codes.residual; begin += inner_tokens) {
      std::byte* const inner = block + begin / inner_tokens * inner_bytes(dim);
      auto const read = [&](index_t t, float* x) {
        for (index_t c = 0; c < quad; ++c)
          x[c] = aside.find(d + c, begin + t) >= 0 ? mean[c] : rows[(begin + t) * dim + d + c];
      };
      if (whole_prompt)
        encode_by_prompt(read, d, at, inner);
      else
        codes.encode_quad(read, d, dim, inner);
    }
  }
  /// What encode does, by kernels and with a copy of the rows; false: nothing was done.
  [[nodiscard]] KVSLIM_HD bool encode_rows(float const* rows, site const& at,
                                           detail::outlier_lists<std::byte> const& aside,
                                           std::byte* block) const noexcept {
    index_t const dim = at.dim, tokens = codes.block_tokens();
    return detail::with_stack_rows(codes.residual * dim, [&](float* rest) {
      if (!detail::set_columns_aside(
              rows, codes.residual, dim, aside.each,
              [&](index_t d, index_t i, float x, index_t t) { aside.put(d, i, x, t); }, rest))
        return false;
      for (index_t t = 0; t < codes.residual; t += tokens) {
        float const* const mine = rest + t * dim;
        std::byte* const inner = block + t / tokens * inner_bytes(dim);
        if (whole_prompt)
          for (index_t d = 0; d < dim; d += detail::unit_quad)
            encode_by_prompt(
                [&](index_t i, float* x) {
                  for (index_t c = 0; c < detail::unit_quad; ++c) x[c] = mine[i * dim + d + c];
                },
                d, at, inner);
        else
          codes.encode(mine, {.n = tokens, .dim = dim}, inner);
      }
      return true;
    });
  }
  /// Codes of channels [d, d + 4) of one of channel_key's blocks, in the prompt's ranges.
  template <class Read>
  KVSLIM_HD void encode_by_prompt(Read const& read, index_t d, site const& at,
                                  std::byte* inner) const noexcept {
    detail::encode_quad<Bits>(
        read, codes.block_tokens(), d, at.dim, codes.rounding,
        [&](index_t t) { return parameters(inner, at, t); }, detail::codes_of(inner));
  }
  /// What dot does for one block.
  KVSLIM_HD void dot_block(std::byte const* block, site const& at, float const* q, index_t heads,
                           float* scores) const noexcept {
    index_t const dim = at.dim, inner_tokens = codes.block_tokens();
    if (whole_prompt) {
      detail::by_blocks(at, inner_tokens, run_tokens,
                        [&](index_t b, site const& part, index_t logits) {
                          std::byte const* const inner = block + b * inner_bytes(dim);
                          detail::dot_by_channels<Bits>(
                              detail::run_of_keys<Bits>(detail::codes_of(inner), part.first, dim),
                              parameters(inner, at, part.first), part, q, heads, scores + logits);
                        });
    } else {
      site inside = at;
      inside.first = at.first % inner_tokens;
      codes.dot(block + at.first / inner_tokens * inner_bytes(dim), inside, q, heads, scores);
    }
    // Where each run's codes and, if groups are whole runs, its parameters lie.
    constexpr index_t most_runs = 1024 / run_tokens;
    detail::local<std::uint8_t const*, most_runs> run_codes;
    detail::local<index_t, most_runs> run_parameters;
    auto const stored = parameters(block, at, 0);
    index_t const bytes = inner_bytes(dim),
                  block_step = whole_prompt ? 0 : bytes / static_cast<index_t>(sizeof(Param)),
                  group_step = whole_prompt ? 0 : dim;
    for (index_t t = 0; t < codes.residual; t += run_tokens) {
      index_t const b = t / inner_tokens, place = t % inner_tokens;
      run_codes[t / run_tokens] =
          detail::run_of_keys<Bits>(detail::codes_of(block + b * bytes), place, dim);
      run_parameters[t / run_tokens] = b * block_step + place / codes.group * group_step;
    }
    bool const whole_runs = codes.group % run_tokens == 0;
    auto const inner = static_cast<std::uint32_t>(inner_tokens),
               group = static_cast<std::uint32_t>(codes.group);
    auto const parts = detail::key_run<Bits>(dim);
    detail::add_aside<Param>(
        lists_of(block, dim).numbers(), 0, dim, {q, dim, run_tokens}, at.first, at.n, heads,
        {scores, run_tokens, at.apart}, [&](index_t line) {
          auto const d = static_cast<std::uint32_t>(line);
          return [&, d](std::uint32_t t) {
            std::uint32_t const run = t / 32;
            index_t p = run_parameters[run];
            if (!whole_runs)
              p = static_cast<index_t>(t / inner) * block_step +
                  static_cast<index_t>(t % inner / group) * group_step;
            return detail::parameterized_code<Param>{
                parts.get(run_codes[run], static_cast<index_t>(t % 32), static_cast<index_t>(d)),
                stored.scale + (p + d), stored.low + (p + d)};
          };
        });
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t inner_bytes(index_t dim) const noexcept {
    return whole_prompt ? codes.code_bytes(dim) : codes.sizes(dim, 0).block_bytes;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t code_bytes(index_t dim) const noexcept {
    return codes.residual / codes.block_tokens() * inner_bytes(dim);
  }
  /// The parameters of all channels of token t of channel_key's block at `inner`.
  [[nodiscard]] KVSLIM_HD auto parameters(std::byte const* inner, site const& at,
                                          index_t t) const noexcept {
    return whole_prompt ? detail::parameters_at<Param>(at.state, at.dim)
                        : codes.parameters(inner, at.dim).from(t / codes.group * at.dim);
  }
  [[nodiscard]] KVSLIM_HD float decode_code(std::byte const* block, site const& at, index_t t,
                                            index_t d) const noexcept {
    index_t const place = t % codes.block_tokens();
    std::byte const* const inner = block + t / codes.block_tokens() * inner_bytes(at.dim);
    return parameters(inner, at, place)[d].decode(
        detail::get_key<Bits>(detail::codes_of(inner), place, d, at.dim));
  }
};

static_assert(key_codec<outlier_key<2>> && detail::check_codec<outlier_key<2>>::value);

KVSLIM_END_NAMESPACE
