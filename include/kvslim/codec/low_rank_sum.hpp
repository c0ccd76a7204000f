// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/blocks.hpp>
#include <kvslim/codec/form.hpp>
#include <kvslim/codec/low_rank_block.hpp>
#include <kvslim/isa/correction_kernels.hpp>

#include <cstring>

KVSLIM_BEGIN_NAMESPACE

/// What another codec stores, plus what it misses as far as few directions hold it. Tokens that are
/// stored from a prompt share `rank` directions, fitted to all that the other codec misses of them;
/// a block coded later has `grown_rank` directions of its own.
///
/// State: u32 tokens that share directions, 12 bytes zero, f16 directions[rank][dim], then the
/// other codec's, if it has one, at a multiple of 4 bytes. Byte layout of a block of `tokens`
/// tokens: the other codec's blocks, then f16 coefficients[tokens][rank] or, in a block coded
/// later, coefficients[tokens][grown_rank] and directions[grown_rank][dim]; there is room for the
/// larger, padded to 4 bytes. Coefficients beyond f16 are cut at 65504. Requires: a codec without
/// an exact tail of its own whose blocks divide `tokens`; tokens a multiple of 32, at most 1024;
/// ranks at most 16; rounds 1 to 16 (invalid_option). Cost: fit encodes the prompt once a round; a
/// block coded later decodes itself 2 * rounds + 1 times for each of its directions, or once on
/// CPUs with kernels where tokens * dim is at most 8192 (32 KiB of stack). Reading adds
/// rank * (1 + dim / 32) multiplications a token and query head.
template <class Base>
struct low_rank_sum {
  static_assert(codec<Base> && !Base::traits.grouped && !Base::traits.tabled &&
                    !Base::traits.tabled_fit && !Base::traits.positions &&
                    !Base::traits.shares_keys,
                "kvslim: low_rank_sum adds to a codec of single rows that reads no table");
  using tail_type = typename Base::tail_type;
  static constexpr codec_traits traits{
      .form = form_id{static_cast<std::uint32_t>(detail::form_kind::low_rank_sum) << 16},
      .whole_blocks = true,
      .fitted = true,
      .long_runs = true};

  Base base = {};
  index_t tokens = 64;     ///< of a block
  index_t rank = 4;        ///< directions that the prompt's tokens share
  index_t grown_rank = 2;  ///< directions of each block coded later
  index_t rounds = 3;      ///< of the iteration that finds them

  [[nodiscard]] KVSLIM_HD constexpr status check(index_t dim) const noexcept {
    if (auto const s = check_options(); !s.ok()) return s;
    if (auto const s = base.check(dim); !s.ok()) return s;
    auto const z = base.sizes(dim, 0);
    if (z.keep_exact != 0 || tokens % z.block_tokens != 0 || tokens % z.settle_by != 0)
      return detail::fail(errc::invalid_option,
                          "kvslim: low_rank_sum needs tokens that hold whole blocks of its codec, "
                          "and none kept exact there");
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes sizes(index_t dim, index_t) const noexcept {
    auto const z = base.sizes(dim, 0);
    return {.block_tokens = tokens,
            .block_bytes = base_bytes(dim) + detail::round_up(2 * room(dim), 4),
            .settle_by = tokens,
            .state_bytes =
                z.state_bytes == 0 ? state_head + 2 * rank * dim : base_state(dim) + z.state_bytes,
            .fit_floats = detail::max((tokens + 2 * rank) * dim + detail::div_up(z.block_bytes, 4),
                                      z.fit_floats)};
  }
  [[nodiscard]] KVSLIM_HD constexpr float limit() const noexcept {
    return detail::within_f16(base.limit());
  }
  [[nodiscard]] constexpr form written() const noexcept {
    form const inner = base.written();
    form f{traits.form.value, {inner.id}};
    for (int i = 0; i < 4; ++i) f.words[1 + i] = inner.words[i];
    f.words[5] = static_cast<std::uint32_t>(tokens);
    f.words[6] = static_cast<std::uint32_t>(rank | grown_rank << 8 | rounds << 16);
    return f;
  }
  [[nodiscard]] static constexpr status read(form const& f, low_rank_sum& out) noexcept {
    if (!detail::is_form(f, traits.form, 7)) return detail::foreign_form();
    low_rank_sum found{};
    form const inner{f.words[0], {f.words[1], f.words[2], f.words[3], f.words[4]}};
    if (auto const s = Base::read(inner, found.base); !s.ok()) return s;
    found.tokens = f.words[5];
    found.rank = f.words[6] & 255u;
    found.grown_rank = f.words[6] >> 8 & 255u;
    found.rounds = f.words[6] >> 16;
    if (!found.check_options().ok()) return detail::foreign_form();
    out = found;
    return {};
  }

  /// The directions of a prompt of n tokens.
  template <class Read>
  KVSLIM_HD void fit(Read const& read, index_t n, site const& at, std::byte* state,
                     float* scratch) const {
    index_t const dim = at.dim;
    float *const rows = scratch, *const basis = rows + tokens * dim,
                 *const sums = basis + rank * dim;
    auto* const inner = static_cast<std::byte*>(static_cast<void*>(sums + rank * dim));
    site whole = at;
    whole.state = state;
    if constexpr (Base::traits.fitted)
      base.fit(read, n, inside(whole, 0, n), state + base_state(dim), scratch);
    auto const missed = [&](index_t t) -> float const* {
      index_t const i = t % tokens;
      if (i == 0) {
        for (index_t j = 0; j < tokens; ++j) read(index_t{0}, t + j, rows + j * dim);
        take_off_base(rows, inside(whole, 0, 1), inner);
      }
      return rows + i * dim;
    };
    ops::leading_subspace(n, dim, rank, rounds, missed, basis, sums);
    std::uint32_t const head[4] = {static_cast<std::uint32_t>(n)};
    std::memcpy(state, head, sizeof head);
    auto* const directions = detail::array_at<f16>(state + state_head);
    for (index_t i = 0; i < rank * dim; ++i) directions[i] = detail::narrow_within(basis[i]);
  }
  KVSLIM_HD void encode(float const* rows, site const& at, std::byte* block) const noexcept {
    index_t const dim = at.dim, step = base_tokens(dim);
    for (index_t t = 0; t < tokens; t += step)
      base.encode(rows + t * dim, inside(at, 0, step), block + base_offset(dim, t));
    auto* const room = detail::array_at<f16>(block + base_bytes(dim));
    f16 const* const shared =
        shares(at) ? detail::array_at<f16 const>(at.state + state_head) : nullptr;
    detail::low_rank_block const shape{tokens, dim};
    if (detail::with_stack_rows(tokens * dim, [&](float* missed) {
          for (index_t i = 0; i < tokens * dim; ++i) missed[i] = rows[i];
          take_off_coded(missed, at, block);
          detail::find_or_grow(shape, missed, shared, shared != nullptr ? rank : grown_rank, rounds,
                               room);
          return true;
        }))
      return;
    if (shared != nullptr) {
      for (index_t t = 0; t < tokens; ++t) {
        float sum[most_rank] = {};
        for (index_t d = 0; d < dim; ++d) {
          float const missed = rows[t * dim + d] - decode_base(block, at, t, d);
          for (index_t j = 0; j < rank; ++j) sum[j] += missed * detail::widen(shared[j * dim + d]);
        }
        for (index_t j = 0; j < rank; ++j) room[t * rank + j] = detail::narrow_within(sum[j]);
      }
      return;
    }
    f16 const* const directions = room + tokens * grown_rank;
    for (index_t j = 0; j < grown_rank; ++j)
      shape.grow(
          [&](index_t t, index_t d) {
            float x = rows[t * dim + d] - decode_base(block, at, t, d);
            for (index_t i = 0; i < j; ++i)
              x -= detail::widen(room[t * grown_rank + i]) * detail::widen(directions[i * dim + d]);
            return x;
          },
          grown_rank, rounds, j, room);
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, site const& at,
                                       index_t d) const noexcept {
    auto const f = factors(block, at);
    float x = decode_base(block, at, at.first, d);
    for (index_t j = 0; j < f.rank; ++j)
      x += detail::widen(f.coefficients[at.first * f.rank + j]) *
           detail::widen(f.directions[j * at.dim + d]);
    return x;
  }
  KVSLIM_HD void dot(std::byte const* block, site const& at, float const* q, index_t heads,
                     float* scores) const noexcept requires key_codec<Base> {
    index_t const dim = at.dim;
    by_base(block, at, [&](std::byte const* inner, site const& part, index_t logits) {
      base.dot(inner, part, q, heads, scores + logits);
    });
    float products[run_heads * run_tokens];
    detail::head_floats<float> const along{products, run_tokens, 0};
    f16 const* of = nullptr;
    by_factors(block, at, [&](auto const& f, index_t first, index_t n, index_t logits) {
      if (f.directions != of) detail::dot_directions(f.directions, f.rank, dim, q, heads, along);
      of = f.directions;
      detail::add_coefficients(f.coefficients + first * f.rank, f.rank, n,
                               {products, run_tokens, 0}, heads,
                               {scores + logits, run_tokens, at.apart});
    });
  }
  KVSLIM_HD void accumulate(std::byte const* block, site const& at, float const* p, index_t heads,
                            float* out) const noexcept requires value_codec<Base> {
    index_t const dim = at.dim;
    by_base(block, at, [&](std::byte const* inner, site const& part, index_t weights) {
      base.accumulate(inner, part, p + weights, heads, out);
    });
    float sums[run_heads * run_tokens];
    detail::head_floats<float> const along{sums, run_tokens, 0};
    detail::low_rank_factors last{};
    auto const add = [&] {
      if (last.directions != nullptr)
        detail::add_directions(last.directions, last.rank, dim, along, heads, out);
    };
    by_factors(block, at, [&](auto const& f, index_t first, index_t n, index_t weights) {
      if (f.directions != last.directions) {
        add();
        for (index_t h = 0; h < heads; ++h)
          for (index_t j = 0; j < f.rank; ++j) *along.of(h, j) = 0.0f;
      }
      last = f;
      detail::sum_coefficients(f.coefficients + first * f.rank, f.rank, n,
                               {p + weights, run_tokens, at.apart}, heads, along);
    });
    add();
  }

 private:
  template <class>
  friend struct warp_codec;
  static constexpr index_t state_head = 16, most_rank = detail::most_directions;

  /// Calls f(block, site, numbers) for what the other codec is asked of a site, and how many floats
  /// its logits or weights lie behind the site's.
  template <class F>
  KVSLIM_HD void by_base(std::byte const* block, site const& at, F const& f) const {
    index_t const dim = at.dim, bytes = sizes(dim, 0).block_bytes, inner = base_tokens(dim);
    index_t const most = Base::traits.long_runs ? tokens : detail::min(tokens, run_tokens);
    detail::by_blocks(at, tokens, most, [&](index_t b, site const& part, index_t numbers) {
      f(block + b * bytes + base_offset(dim, part.first), inside(part, part.first % inner, part.n),
        numbers);
    });
  }
  /// Calls f(factors, first, n, numbers) for tokens [first, first + n) of each of a site's blocks.
  template <class F>
  KVSLIM_HD void by_factors(std::byte const* block, site const& at, F const& f) const {
    index_t const bytes = sizes(at.dim, 0).block_bytes;
    detail::by_blocks(at, tokens, tokens, [&](index_t b, site const& part, index_t numbers) {
      f(factors(block + b * bytes, part), part.first, part.n, numbers);
    });
  }

  [[nodiscard]] KVSLIM_HD constexpr status check_options() const noexcept {
    if (tokens < 32 || tokens % 32 != 0 || tokens > 1024)
      return detail::fail(errc::invalid_option,
                          "kvslim: low_rank_sum needs a multiple of 32 tokens, at most 1024");
    if (rank < 0 || rank > most_rank || grown_rank < 0 || grown_rank > most_rank || rounds < 1 ||
        rounds > 16)
      return detail::fail(errc::invalid_option,
                          "kvslim: low_rank_sum needs ranks of 0 to 16 and 1 to 16 rounds");
    return {};
  }
  /// Numbers that a block has room for besides the other codec's blocks.
  [[nodiscard]] KVSLIM_HD constexpr index_t room(index_t dim) const noexcept {
    return detail::max(tokens * rank, (tokens + dim) * grown_rank);
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t base_tokens(index_t dim) const noexcept {
    return base.sizes(dim, 0).block_tokens;
  }
  /// Where the other codec's block of token t starts.
  [[nodiscard]] KVSLIM_HD constexpr index_t base_offset(index_t dim, index_t t) const noexcept {
    auto const z = base.sizes(dim, 0);
    return t / z.block_tokens * z.block_bytes;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t base_bytes(index_t dim) const noexcept {
    return base_offset(dim, tokens);
  }
  /// Where the other codec's state begins in the state.
  [[nodiscard]] KVSLIM_HD constexpr index_t base_state(index_t dim) const noexcept {
    return state_head + detail::round_up(2 * rank * dim, 4);
  }
  /// What the other codec is told.
  [[nodiscard]] KVSLIM_HD constexpr site inside(site at, index_t first, index_t n) const noexcept {
    at.first = first;
    at.n = n;
    at.state = Base::traits.fitted && at.state != nullptr ? at.state + base_state(at.dim) : nullptr;
    return at;
  }
  [[nodiscard]] KVSLIM_HD float decode_base(std::byte const* block, site const& at, index_t t,
                                            index_t d) const noexcept {
    return base.decode(block + base_offset(at.dim, t), inside(at, t % base_tokens(at.dim), 1), d);
  }
  /// Whether the block of this site was there when directions were fitted.
  [[nodiscard]] KVSLIM_HD static bool shares(site const& at) noexcept {
    std::uint32_t n = 0;
    if (at.state != nullptr) std::memcpy(&n, at.state, sizeof n);
    return at.token < static_cast<index_t>(n);
  }
  [[nodiscard]] KVSLIM_HD detail::low_rank_factors factors(std::byte const* block,
                                                           site const& at) const noexcept {
    f16 const* const room = detail::array_at<f16 const>(block + base_bytes(at.dim));
    if (shares(at)) return {room, detail::array_at<f16 const>(at.state + state_head), rank};
    return {room, room + tokens * grown_rank, grown_rank};
  }
  /// rows [tokens, dim] become what the other codec misses of them; `block` is one of its blocks,
  /// `at` what it is told.
  KVSLIM_HD void take_off_base(float* rows, site at, std::byte* block) const noexcept {
    index_t const dim = at.dim, step = base_tokens(dim);
    for (index_t t = 0; t < tokens; t += step) {
      at.first = 0;
      at.n = step;
      base.encode(rows + t * dim, at, block);
      take_off(block, at, rows + t * dim);
    }
  }
  /// The same of a block that is coded.
  KVSLIM_HD void take_off_coded(float* rows, site const& at,
                                std::byte const* block) const noexcept {
    index_t const dim = at.dim, step = base_tokens(dim);
    for (index_t t = 0; t < tokens; t += step)
      take_off(block + base_offset(dim, t), inside(at, 0, step), rows + t * dim);
  }
  /// Takes what the other codec's block stands for off its values.
  KVSLIM_HD void take_off(std::byte const* block, site const& at, float* rows) const noexcept {
    if constexpr (Base::traits.takes_off)
      detail::by_instructions([&] { base.take_off(block, at, rows); });
    else
      detail::take_off_decoded(base, block, at, base_tokens(at.dim), rows);
  }
};

KVSLIM_END_NAMESPACE
