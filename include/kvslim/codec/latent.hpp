// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/dense.hpp>
#include <kvslim/isa/projection_kernels.hpp>
#include <kvslim/isa/tile_kernels.hpp>
#include <kvslim/ops/subspace.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Where a low-rank codec finds its basis: fitted to the prompt and stored with it, or in a table
/// that the cache binds (codec_tables), which is not part of the stored bytes. Such a table may
/// hold orthonormal directions; a mean in front of them, of which coordinates are taken and which
/// is added back; or two maps that are no projection, one that makes coordinates and one that takes
/// them back.
enum class basis_from : std::uint32_t { prompt, table, table_with_mean, table_of_maps };

namespace detail {

template <class>
struct latent_lanes;  // what the lanes of a warp do, where there are warps

struct any_quad {
  KVSLIM_HD void operator()(index_t, float*) const noexcept {}
};
/// Writes channels [d, d + 4) of a block without the others.
template <class C>
concept encodes_quads = requires(C const c, index_t d, std::byte* block) {
  c.encode_quad(any_quad{}, d, d, block);
};

}  // namespace detail

/// Tokens as `rank` coordinates: x ~ sum of coordinate[j] * basis[j], coordinate[j] = basis[j] . x,
/// with basis vectors of unit length that are orthogonal to each other. The coordinates are stored
/// by another codec, as if a head had `rank` channels; attention projects queries and carries sums
/// back, once each, and never rebuilds a token. With Grouped, the rows of a group share their
/// coordinates: a token is then as long as all members' channels together.
///
/// State (from the prompt): T basis[member][rank][dim]. Table: T basis[bases][directions][dim], of
/// which row r (sequence * kv_heads + kv_head) reads number r mod bases, and of its directions the
/// first `rank`; with a mean, T mean[dim] before each basis; of maps, T basis[bases][2][directions]
/// [dim]. Blocks: the other codec's, of `rank` channels. Coordinates beyond what the other codec
/// holds are cut there. Requires: rank 1 to 256 (1024 if Grouped) and at most the channels of all
/// members, and at most `directions`; rounds 1 to 255; groups of a table's rows lie in one
/// sequence; bases at least 1 (invalid_option). Cost: encode rank * dim multiplications a token and
/// row; fit 2 * rounds times as many; attention 2 * rank a token and query head, and 2 * rank * dim
/// a row and query head.
template <class Base, basis_from From = basis_from::prompt, bool Grouped = false, element T = f16>
struct latent {
  static_assert(codec<Base> && !Base::traits.grouped && !Base::traits.fitted &&
                    !Base::traits.positions && !Base::traits.shares_keys &&
                    Base::traits.space == basis::channels,
                "kvslim: latent stores coordinates by a codec of single rows without a state");
  /// Rows of a group have no room for their coordinates: those are made four at a time.
  static constexpr bool by_quads = Grouped && Base::traits.whole_blocks;
  static_assert(!by_quads || detail::encodes_quads<Base>,
                "kvslim: latent over a group needs a codec that writes single tokens, or four "
                "channels of a block at a time");
  using tail_type = typename Base::tail_type;
  static constexpr bool from_prompt = From == basis_from::prompt,
                        has_mean = From == basis_from::table_with_mean,
                        has_maps = From == basis_from::table_of_maps;
  static constexpr codec_traits traits{
      .form = form_id{static_cast<std::uint32_t>(detail::form_kind::latent) << 16 |
                      (Grouped ? 0x100u : 0u) | static_cast<std::uint32_t>(From) << 4 |
                      detail::element_number<T>()},
      .space = basis::own,
      .whole_blocks = Base::traits.whole_blocks,
      .rewrites = Base::traits.rewrites && !Grouped,
      .grouped = Grouped,
      .fitted = from_prompt,
      .tabled = !from_prompt};

  Base base = {};
  index_t rank = 32;
  index_t residual = 0;  ///< newest tokens kept exact
  row_group rows = {};   ///< that share coordinates, if Grouped
  index_t rounds = 8;    ///< of the iteration that fits the basis
  index_t bases = 1;     ///< in the table
  /// Of each basis in the table. 0: rank; -1: the channels of all members.
  index_t directions = 0;

  [[nodiscard]] KVSLIM_HD constexpr row_group group() const noexcept requires Grouped {
    return rows;
  }
  [[nodiscard]] KVSLIM_HD constexpr status check(index_t dim) const noexcept {
    if (auto const s = check_options(); !s.ok()) return s;
    if (auto const s = base.check(rank); !s.ok()) return s;
    if (auto const s = detail::check_channels(dim); !s.ok()) return s;
    if (rank > members() * dim || (!from_prompt && rank > directions_of(dim)))
      return detail::fail(errc::invalid_option,
                          "kvslim: latent's rank is above the channels that it is made of, or the "
                          "directions of its table");
    if (by_quads && base.sizes(rank, 0).block_tokens > most_tokens)
      return detail::fail(errc::invalid_option,
                          "kvslim: latent over a group needs blocks of at most 128 tokens");
    if (base.sizes(rank, 0).keep_exact != 0)
      return detail::fail(errc::invalid_option,
                          "kvslim: latent keeps tokens exact, not the codec of its coordinates");
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes sizes(index_t dim, index_t n) const noexcept {
    auto z = base.sizes(rank, n);
    z.keep_exact = residual;
    z.own_dim = rank + has_mean;
    if constexpr (from_prompt) {
      index_t const width = members() * dim;
      z.state_bytes = rank * width * static_cast<index_t>(sizeof(T));
      z.fit_floats = (2 * rank + 1) * width;
    }
    return z;
  }
  /// Rows of a group are as long as all of them together when they are fitted.
  [[nodiscard]] KVSLIM_HD constexpr float limit() const noexcept {
    return base.limit() < 1e6f ? base.limit() : 1e6f;
  }
  [[nodiscard]] constexpr form written() const noexcept {
    form const inner = base.written();
    form f{traits.form.value, {inner.id}};
    for (int i = 0; i < 3; ++i) f.words[1 + i] = inner.words[i];
    f.words[4] = static_cast<std::uint32_t>(rank) |
                 static_cast<std::uint32_t>(from_prompt ? rounds : directions) << 16;
    f.words[5] = static_cast<std::uint32_t>(rows.sequences | rows.kv_heads << 16);
    f.words[6] = static_cast<std::uint32_t>(residual) | static_cast<std::uint32_t>(bases) << 21;
    return f;
  }
  [[nodiscard]] static constexpr status read(form const& f, latent& out) noexcept {
    if (!detail::is_form(f, traits.form, 7)) return detail::foreign_form();
    latent found{};
    form const inner{f.words[0], {f.words[1], f.words[2], f.words[3]}};
    if (auto const s = Base::read(inner, found.base); !s.ok()) return s;
    found.rank = f.words[4] & 0xffffu;
    if constexpr (from_prompt)
      found.rounds = f.words[4] >> 16;
    else
      found.directions = f.words[4] >> 16 == 0xffffu ? -1 : index_t{f.words[4] >> 16};
    found.rows = {f.words[5] & 0xffffu, f.words[5] >> 16};
    found.residual = f.words[6] & 0x1fffffu;
    found.bases = f.words[6] >> 21;
    if (!found.check_options().ok()) return detail::foreign_form();
    out = found;
    return {};
  }

  /// Rows of `dim` numbers that the bound table holds for each of its bases.
  [[nodiscard]] KVSLIM_HD constexpr index_t table_rows(index_t dim) const noexcept {
    return has_mean + (has_maps ? 2 : 1) * directions_of(dim);
  }

  /// The leading directions of the prompt's n tokens.
  template <class Read>
  KVSLIM_HD void fit(Read const& read, index_t n, site const& at, std::byte* state,
                     float* scratch) const requires(From == basis_from::prompt) {
    index_t const dim = at.dim, width = members() * dim;
    float *const x = scratch, *const found = x + width, *const sums = found + rank * width;
    auto const row = [&](index_t t) -> float const* {
      for (index_t m = 0; m < members(); ++m) read(m, t, x + m * dim);
      return x;
    };
    ops::leading_subspace(n, width, rank, rounds, row, found, sums);
    T* const out = detail::array_at<T>(state);
    for (index_t m = 0; m < members(); ++m)
      for (index_t j = 0; j < rank; ++j)
        for (index_t d = 0; d < dim; ++d)
          out[(m * rank + j) * dim + d] = from_float<T>(found[j * width + m * dim + d]);
  }
  /// Overwrites its rows.
  KVSLIM_HD void encode(float* rows_of_members, site const& at, std::byte* block) const noexcept {
    index_t const dim = at.dim, n = at.n;
    float const most = base.limit();
    if constexpr (has_mean)
      for (index_t m = 0; m < members(); ++m)
        for (index_t i = 0; i < n; ++i)
          add(-1.0f, mean_of(at, m), dim, rows_of_members + (m * n + i) * dim);
    // Coordinates [j, j + count) of `some` tokens from i on, z[token][apart].
    auto const project = [&](index_t i, index_t some, index_t j, index_t count, float* z,
                             index_t apart) {
      for (index_t t = 0; t < some; ++t)
        for (index_t c = 0; c < count; ++c) z[t * apart + c] = 0.0f;
      for (index_t m = 0; m < members(); ++m) {
        float const* const x = rows_of_members + (m * n + i) * dim;
        T const* const vectors = basis_of(at, m) + j * dim;
        if (detail::project_rows(x, some, dim, vectors, count, z, apart)) continue;
        for (index_t t = 0; t < some; ++t)
          for (index_t c = 0; c < count; ++c)
            z[t * apart + c] += along(x + t * dim, vectors + c * dim, dim);
      }
      for (index_t t = 0; t < some; ++t)
        for (index_t c = 0; c < count; ++c) {
          float& x = z[t * apart + c];
          x = x > most ? most : x < -most ? -most : x;
        }
    };
    if constexpr (by_quads) {
      constexpr index_t quad = 4;
      for (index_t j = 0; j < rank; j += quad) {
        detail::local<float, most_tokens * quad> z;
        project(0, n, j, quad, z, quad);
        auto const read = [&](index_t i, float* x) {
          for (index_t c = 0; c < quad; ++c) x[c] = z[i * quad + c];
        };
        base.encode_quad(read, j, rank, block);
      }
    } else {
      // A kernel reads a direction for four tokens together. A GPU's threads have none, nor room.
#if defined(__CUDA_ARCH__)
      constexpr index_t room = most_rank;
#else
      constexpr index_t room = 1024;
#endif
      index_t const together = 4 * rank <= room ? 4 : 1;
      for (index_t i = 0, some = 0; i < n; i += some) {
        some = i + together <= n ? together : 1;
        detail::local<float, room> z;
        z[0] = 0.0f;  // g++ does not know that there is a coordinate
        project(i, some, 0, rank, z, rank);
        for (index_t t = 0; t < some; ++t) {
          if constexpr (Base::traits.whole_blocks) {
            for (index_t j = 0; j < rank; ++j)
              rows_of_members[(i + t) * rank + j] = z[t * rank + j];
          } else {
            base.encode(z + t * rank, inside(at, at.first + i + t, 1), block);
          }
        }
      }
      if constexpr (Base::traits.whole_blocks)
        base.encode(rows_of_members, inside(at, at.first, n), block);
    }
  }
  [[nodiscard]] KVSLIM_HD float coordinate(std::byte const* block, site const& at,
                                           index_t j) const noexcept {
    if (has_mean && j == rank) return 1.0f;  // what the mean is multiplied by
    return base.decode(block, inside(at, at.first, 1), j);
  }
  [[nodiscard]] KVSLIM_HD float decode(std::byte const* block, site const& at,
                                       index_t d) const noexcept {
    T const* const from = back_of(at, at.member);
    float sum = 0.0f;
    if constexpr (has_mean) sum = detail::widen(mean_of(at, at.member)[d]);
    for (index_t j = 0; j < rank; ++j)
      sum += coordinate(block, at, j) * detail::widen(from[j * at.dim + d]);
    return sum;
  }
  KVSLIM_HD void load(std::byte const* block, site const& at, float* out) const noexcept {
    for (index_t d = 0; d < at.dim; ++d) out[d] = 0.0f;
    if constexpr (has_mean) add(1.0f, mean_of(at, at.member), at.dim, out);
    for (index_t j = 0; j < rank; ++j)
      add(coordinate(block, at, j), back_of(at, at.member) + j * at.dim, at.dim, out);
  }
  /// Channels [d, d + n), then [other, other + m), of tokens [at.first, at.first + at.n) as rows of
  /// a tile (detail::token_tile), whose columns begin at at.first % 32.
  KVSLIM_HD void load_tile(std::byte const* block, site const& at, index_t d, index_t n,
                           index_t other, index_t m, float* tile) const noexcept {
    constexpr index_t apart = detail::token_tile::apart, wide = detail::token_tile::channels,
                      at_once = 16;
    auto const channels = [&](T const* vector, float* to) {
      widen_channels(vector + d, n, to);
      widen_channels(vector + other, m, to + n);
    };
    detail::local<float, at_once* wide> y = {};
    if constexpr (has_mean) channels(mean_of(at, at.member), y);
    for (index_t c = 0; c < n + m; ++c)
      for (index_t t = 0; t < run_tokens; ++t) tile[t / 16 * apart + c * 16 + t % 16] = y[c];
    for (index_t j0 = 0; j0 < rank; j0 += at_once) {
      index_t const ranks = detail::min(at_once, rank - j0);
      for (index_t j = 0; j < ranks; ++j)
        channels(back_of(at, at.member) + (j0 + j) * at.dim, y + j * wide);
      add_coordinates(block, at, j0, ranks, y, n + m, tile);
    }
  }
  KVSLIM_HD void prepare(float const* q, site const& at, float* own) const noexcept {
    for (index_t j = 0; j < rank; ++j)
      own[j] = along(q, back_of(at, at.member) + j * at.dim, at.dim);
    if constexpr (has_mean) own[rank] = along(q, mean_of(at, at.member), at.dim);
  }
  KVSLIM_HD void finish(float* sum, site const& at, float* out) const noexcept {
    for (index_t j = 0; j < rank; ++j)
      add(sum[j], back_of(at, at.member) + j * at.dim, at.dim, out);
    if constexpr (has_mean) add(sum[rank], mean_of(at, at.member), at.dim, out);
  }
  KVSLIM_HD void dot(std::byte const* block, site const& at, float const* q, index_t heads,
                     float* scores) const noexcept requires key_codec<Base> {
    site const within = inside(at, at.first, at.n);
    if constexpr (!has_mean) {
      base.dot(block, within, q, heads, scores);
    } else {  // a head's numbers are one more than the other codec's channels
      for (index_t h = 0; h < heads; ++h, q += rank + 1, scores += run_tokens) {
        base.dot(block, within, q, 1, scores);
        for (index_t i = 0; i < at.n; ++i) scores[i] += q[rank];
      }
    }
  }
  KVSLIM_HD void accumulate(std::byte const* block, site const& at, float const* p, index_t heads,
                            float* out) const noexcept requires value_codec<Base> {
    site const within = inside(at, at.first, at.n);
    if constexpr (!has_mean) {
      base.accumulate(block, within, p, heads, out);
    } else {
      for (index_t h = 0; h < heads; ++h, p += run_tokens, out += rank + 1) {
        base.accumulate(block, within, p, 1, out);
        for (index_t i = 0; i < at.n; ++i) out[rank] += p[i];
      }
    }
  }

 private:
  template <class>
  friend struct warp_codec;
  template <class>
  friend struct detail::latent_lanes;
  static constexpr index_t most_rank = Grouped ? 1024 : 256, most_tokens = 128;

  [[nodiscard]] KVSLIM_HD constexpr index_t members() const noexcept {
    return Grouped ? rows.size() : 1;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t directions_of(index_t dim) const noexcept {
    return directions < 0 ? members() * dim : directions == 0 ? rank : directions;
  }
  [[nodiscard]] KVSLIM_HD constexpr status check_options() const noexcept {
    if (rank < 1 || rank > most_rank || rounds < 1 || rounds > 255)
      return detail::fail(errc::invalid_option,
                          "kvslim: latent needs a rank of 1 to 256 (1024 over a group) and 1 to "
                          "255 rounds");
    if (rows.sequences < 1 || rows.kv_heads < 1 || rows.sequences > 1024 || rows.kv_heads > 1024 ||
        (!from_prompt && rows.sequences != 1))
      return detail::fail(
          errc::invalid_option,
          "kvslim: latent's group needs 1 to 1024 sequences and KV heads; rows that "
          "read a table lie in one sequence");
    if (bases < 1 || bases > 2047 || directions < -1 || directions > 32767 ||
        (from_prompt && directions != 0))
      return detail::fail(errc::invalid_option,
                          "kvslim: latent's table holds 1 to 2047 bases of at most 32767 "
                          "directions");
    return detail::check_residual(residual);
  }
  [[nodiscard]] KVSLIM_HD site inside(site at, index_t first, index_t n) const noexcept {
    at.first = first;
    at.n = n;
    at.dim = rank;
    return at;
  }
  /// The vectors that coordinates are made with.
  [[nodiscard]] KVSLIM_HD T const* basis_of(site const& at, index_t member) const noexcept {
    if constexpr (from_prompt)
      return detail::array_at<T const>(at.state) + member * rank * at.dim;
    else
      return mean_of(at, member) + has_mean * at.dim;
  }
  /// The vectors that a token is a sum of.
  [[nodiscard]] KVSLIM_HD T const* back_of(site const& at, index_t member) const noexcept {
    return basis_of(at, member) + (has_maps ? directions_of(at.dim) * at.dim : 0);
  }
  /// The first row of a basis in the table.
  [[nodiscard]] KVSLIM_HD T const* mean_of(site const& at, index_t member) const noexcept {
    return static_cast<T const*>(at.table) +
           (at.row - at.member + member) % bases * table_rows(at.dim) * at.dim;
  }
  /// Adds coordinates [j0, j0 + ranks) times y[ranks][32] to n rows of a tile.
  KVSLIM_HD void add_coordinates(std::byte const* block, site const& at, index_t j0, index_t ranks,
                                 float const* y, index_t n, float* tile) const noexcept {
    constexpr index_t apart = detail::token_tile::apart, wide = detail::token_tile::channels;
    auto const z = base.sizes(rank, 0);
    if constexpr (detail::is_dense_key<Base>) {
      // Where tokens end in the first tile of 16, the other may not be read.
      auto const* const tiles = detail::array_at<tail_type>(block) + j0 * 16;
      if (detail::latent_tile<tail_type>(tiles, at.first + at.n > 16 ? rank * 16 : 0, ranks, y,
                                         wide, n, tile))
        return;
    }
    detail::local<float, 16 * run_tokens> x = {};  // [2][16 ranks][16]
    for (index_t j = 0; j < ranks; ++j)
      if constexpr (detail::is_dense_key<Base>) {
        for (index_t t = 0; t < at.first + at.n; t += 16)
          detail::widen16(detail::array_at<tail_type>(block) + (t * rank + (j0 + j) * 16),
                          x + t * 16 + j * 16);
      } else {
        for (index_t i = 0; i < at.n; ++i) {
          index_t const t = at.first + i, column = at.first % run_tokens + i;
          x[column / 16 * 256 + j * 16 + column % 16] =
              base.decode(block + t / z.block_tokens * z.block_bytes,
                          inside(at, t % z.block_tokens, 1), j0 + j);
        }
      }
    if (detail::latent_tile<float>(x, 256, ranks, y, wide, n, tile)) return;
    for (index_t half = 0; half < 2; ++half, tile += apart)
      detail::by_heads(n, [&](auto count, index_t c0) {
        constexpr index_t m = decltype(count)::value;
        detail::lane_sums<m, 16> sums;
        detail::local<float, m, 16> sum;
        for (index_t j = 0; j < ranks; ++j)
          sums.add(x + half * 256 + j * 16, [&](index_t c) { return y[j * wide + c0 + c]; });
        sums.store(sum);
        for (index_t c = 0; c < m; ++c)
          for (index_t t = 0; t < 16; ++t) tile[(c0 + c) * 16 + t] += sum[c][t];
      });
  }
  static KVSLIM_HD void widen_channels(T const* in, index_t n, float* out) noexcept {
    index_t c = 0;
    for (; c + 16 <= n; c += 16) detail::widen16(in + c, out + c);
    for (; c < n; ++c) out[c] = detail::widen(in[c]);
  }
  [[nodiscard]] static KVSLIM_HD float along(float const* x, T const* vector,
                                             index_t dim) noexcept {
    float part[16] = {}, y[16];
    index_t d = 0;
    for (; d + 16 <= dim; d += 16) {
      detail::widen16(vector + d, y);
      for (index_t c = 0; c < 16; ++c) part[c] += x[d + c] * y[c];
    }
    if (d < dim)  // by numbers that a compiler knows: sums stay in registers
      for (index_t c = 0; c < 16; ++c)
        if (d + c < dim) part[c] += x[d + c] * detail::widen(vector[d + c]);
    for (index_t half = 8; half > 0; half /= 2)
      for (index_t c = 0; c < half; ++c) part[c] += part[half + c];
    return part[0];
  }
  static KVSLIM_HD void add(float share, T const* vector, index_t dim, float* out) noexcept {
    float y[16];
    index_t d = 0;
    for (; d + 16 <= dim; d += 16) {
      detail::widen16(vector + d, y);
      for (index_t c = 0; c < 16; ++c) out[d + c] += share * y[c];
    }
    for (; d < dim; ++d) out[d] += share * detail::widen(vector[d]);
  }
};

KVSLIM_END_NAMESPACE
