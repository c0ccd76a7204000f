// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/token_share.cuh>
#include <kvslim/codec/turbo_rows.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// The levels of 2^Bits above 0, of which the others are the mirror image.
template <int Bits>
class upper_turbo_levels {
 public:
  struct found {
    std::uint32_t code;
    float level;
  };

  __device__ upper_turbo_levels(index_t dim, turbo_levels kind) {
    local<float, most_turbo_levels> table;
    fill_turbo_levels<Bits>(dim, kind, 1.0f, table);
    unrolled<count>([&](int i) {
      levels_[i] = table[count + i];
      above_[i] = i + 1 < count ? between_turbo_levels(table, count + i + 1) : INFINITY;
    });
  }
  /// What turbo_rows finds, by half as many comparisons: what lies on a boundary belongs below it,
  /// which is beyond the boundary's mirror image.
  [[nodiscard]] __device__ found nearest(float y) const {
    bool const positive = y > 0.0f;
    float const next = bit_cast<float>((bit_cast<std::uint32_t>(y) & ~(1u << 31)) + 1u),
                size = positive ? y : next;
    std::uint32_t n = 0;
    float level = levels_[0];
    unrolled<count - 1>([&](int i) {
      bool const beyond = !(size <= above_[i]);  // so is NaN
      n += beyond ? 1u : 0u;
      level = beyond ? levels_[i + 1] : level;
    });
    return {positive ? count + n : count - 1 - n, positive ? level : -level};
  }

 private:
  static constexpr int count = 1 << (Bits - 1);
  float levels_[count], above_[count];  // the latter lie between a level and the next
};

}  // namespace detail

template <bool Keys, int Bits, turbo_form Form, element Tail>
struct warp_codec<turbo_rows<Keys, Bits, Form, Tail>> {
  using codec = turbo_rows<Keys, Bits, Form, Tail>;
  static constexpr int warp = detail::warp_threads, warps = detail::most_team_warps;

  static __device__ int lane() { return static_cast<int>(threadIdx.x) % warp; }
  /// Warps have shares of tokens: lanes rotate them together, add up a token each, and own words.
  template <class Team = detail::one_warp>
  static __device__ void encode(codec const& c, float* rows, site const& at, std::byte* block) {
    int const first = static_cast<int>(at.first), n = static_cast<int>(at.n),
              dim = static_cast<int>(at.dim);
    detail::each_share<share_type, Team>(
        [&](int i) { encode_share(c, rows, share_type(first, n, i), dim, block); });
  }
  template <class Use>
  static __device__ void each_channel(codec const& c, std::byte const* block, site const& at,
                                      Use const& use) {
    auto const token = c.read_token(block, at);
    for (index_t j = 0; j < codec::parts * at.dim; ++j) use(j, c.coordinate(block, at, j, token));
  }
  /// Tokens lie in one block.
  template <class Use>
  static __device__ void each_token(codec const& c, std::byte const* block, site const& at,
                                    index_t j, Use const& use) {
    site one = at;
    one.n = 1;
    for (index_t i = 0; i < at.n; ++i, ++one.first) use(i, c.coordinate(block, one, j));
  }
  static __device__ void prepare(codec const& c, float const* q, site const& at, float* own) {
    index_t const dim = at.dim;
    for (index_t d = lane(); d < dim; d += warp) own[d] = q[d];
    __syncwarp();
    detail::rotate_by_warp(own, dim, c.seed, false);
    if constexpr (codec::inner) {
      float* const last = own + (codec::parts - 1) * dim;
      for (index_t d = lane(); d < dim; d += warp) last[d] = own[d];
      __syncwarp();
      detail::rotate_by_warp(last, dim, c.second_seed(), false);
    }
  }
  static __device__ void finish(codec const& c, float* sum, site const& at, float* out) {
    index_t const dim = at.dim;
    if constexpr (codec::inner) {
      float* const last = sum + (codec::parts - 1) * dim;
      detail::rotate_by_warp(last, dim, c.second_seed(), true);
      if constexpr (codec::parts == 2)
        for (index_t d = lane(); d < dim; d += warp) sum[d] += last[d];
      __syncwarp();
    }
    detail::rotate_by_warp(sum, dim, c.seed, true);
    for (index_t d = lane(); d < dim; d += warp) out[d] += sum[d];
  }
  static __device__ void load(codec const& c, std::byte const* block, site const& at, float* out) {
    index_t const dim = at.dim, last = (codec::parts - 1) * dim;
    auto const token = c.read_token(block, at);
    for (index_t j = lane(); j < dim; j += warp) out[j] = c.coordinate(block, at, last + j, token);
    __syncwarp();
    if constexpr (codec::inner) detail::rotate_by_warp(out, dim, c.second_seed(), true);
    if constexpr (codec::parts == 2) {
      for (index_t j = lane(); j < dim; j += warp) out[j] += c.coordinate(block, at, j, token);
      __syncwarp();
    }
    detail::rotate_by_warp(out, dim, c.seed, true);
  }

 private:
  using share_type = detail::code_share<Keys>;

  /// Calls use(x) for the channels of a lane's token, in order: lane k adds up token k of a share.
  template <class Use>
  static __device__ void each_of_token(float const* rows, share_type const& share, int dim,
                                       Use const& use) {
    bool const has = has_token(share);
    detail::each_in_order(share.row(rows, dim, has ? lane() : share.begin), has ? dim : 0,
                          lane() % share_type::tokens, use);
  }
  [[nodiscard]] static __device__ bool has_token(share_type const& share) {
    return share.has(lane());
  }
  /// codec::norm_of that token.
  [[nodiscard]] static __device__ double norm_of(float const* rows, share_type const& share,
                                                 int dim) {
    double sum = 0.0;
    each_of_token(rows, share, dim, [&](float x) { codec::add_square(x, sum); });
    return std::sqrt(sum);
  }
  /// codec::encode of a share.
  static __device__ KVSLIM_DETAIL_CALLED void encode_share(codec c, float* rows, share_type share,
                                                           int dim, std::byte* block) {
    if (share.begin >= share.end) return;
    share.rotate(rows, dim, c.seed);
    if constexpr (codec::level_bits > 0) encode_levels(c, rows, share, dim, block);
    if constexpr (codec::inner) {
      f16 const missed = codec::half_of(norm_of(rows, share, dim));
      if (has_token(share))
        codec::put_half(block, codec::missed_at(dim), share.place(lane()), missed);
      __syncwarp();
      share.rotate(rows, dim, c.second_seed());
      detail::store_share(
          codec::signs(dim), detail::codes_of(block) + codec::signs_at(dim), share, rows,
          [](int) { return 0; }, [](float x, int) { return x >= 0.0f ? 1u : 0u; });
    }
  }
  /// codec::encode_levels of a share.
  static __device__ void encode_levels(codec const& c, float* rows, share_type const& share,
                                       int dim, std::byte* block) {
    detail::upper_turbo_levels<codec::level_bits> const levels(dim, c.levels);
    double const norm = norm_of(rows, share, dim);
    float const inverse = codec::to_unit(norm, dim);
    typename codec::level_sums sums;
    if (c.length != turbo_length::row)
      each_of_token(rows, share, dim, [&](float x) {
        float const y = x * inverse;
        sums.add(y, levels.nearest(y).level);
      });
    f16 const stored = c.length_of(dim, norm, sums);
    if (has_token(share))
      codec::put_half(block, codec::length_at(dim), share.place(lane()), stored);
    detail::store_share(
        codec::codes_in(dim), detail::codes_of(block), share, rows,
        [&](int k) { return __shfl_sync(whole_warp, inverse, k); },
        [&](float x, float by) { return levels.nearest(x * by).code; });
    if constexpr (codec::inner) {
      __syncwarp();
      float const root = codec::root_of(dim), length = detail::widen(stored);
      for (int k = share.begin; k < share.end; ++k) {
        float* const x = share.row(rows, dim, k);
        float const by = __shfl_sync(whole_warp, inverse, k),
                    held = __shfl_sync(whole_warp, length, k);
        for (int d = lane(); d < dim; d += warp)
          x[d] = codec::missed_of(x[d], held, levels.nearest(x[d] * by).level * root);
      }
      __syncwarp();
    }
  }
  static constexpr unsigned whole_warp = 0xffffffffu;
};

KVSLIM_END_NAMESPACE
