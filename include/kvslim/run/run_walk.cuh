// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What a warp does with one run of 32 stored tokens on matrix units. A query or weight is what f16
// holds of it, and what that leaves. Of four heads these two are the eight columns of one product;
// of eight heads, each a column, they are two products into the same sums.

#include <kvslim/codec/planar_fragments.cuh>
#include <kvslim/codec/wrapped_fragments.cuh>
#include <kvslim/run/attend_cut.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

inline constexpr int run_piece = 4;  // heads of a block, or twice as many
inline constexpr int most_run_piece = 8;
inline constexpr int slice_units = 4, slice_channels = 32 * slice_units;  // of V, of a warp
inline constexpr index_t most_run_key = 576, most_run_value = 512;        // channels: latents'

/// How the block's four warps share runs, each of them a slice of V: one has runs of its own, two
/// of them multiply all of K each, and four every fourth part of its channels. All in one word,
/// since registers are scarce; most so if `Scarce`.
template <bool Scarce>
class run_share {
 public:
  /// `part`: channels of K.
  __device__ run_share(int dim, int width, int warp, int part) {
    int const slices = width > 2 * slice_channels ? 4
                       : width > slice_channels   ? 2
                                                  : 1,
              slice = warp % slices, first = slices == 4 ? slice * part : 0,
              units = (width + 31) / 32 - slice * slice_units;
    word_ = static_cast<std::uint32_t>(max_int(0, dim - first) | slice << 16 | 4 / slices << 20 |
                                       max_int(0, min_int(units, slice_units + 1)) << 24);
  }
  /// Channels of K from this warp's first one on.
  [[nodiscard]] __device__ int dim() const { return static_cast<int>(settled(word_) & 0xffffu); }
  [[nodiscard]] __device__ int slice() const { return static_cast<int>(settled(word_) >> 16 & 3u); }
  /// Units of 32 channels of V before this warp's slice.
  [[nodiscard]] __device__ int first_unit() const { return slice() * slice_units; }
  /// Units from there on: five where another slice follows.
  [[nodiscard]] __device__ int units() const { return static_cast<int>(kept() >> 24); }
  /// Runs of the block at a time.
  [[nodiscard]] __device__ int stride() const { return static_cast<int>(kept() >> 20 & 7u); }
  [[nodiscard]] __device__ bool splits_keys() const { return stride() == 1; }
  /// The first channel of K that is this warp's, and the part behind another.
  [[nodiscard]] __device__ int first_channel(int part) const {
    return splits_keys() ? slice() * part : 0;
  }
  [[nodiscard]] __device__ int next_part(int part) const { return part + (splits_keys() ? 4 : 1); }

 private:
  [[nodiscard]] __device__ std::uint32_t kept() const { return Scarce ? settled(word_) : word_; }

  std::uint32_t word_;
};

/// Combines what lanes of one head hold.
template <class T, class Combine>
[[nodiscard]] __device__ T over_rows(T x, Combine const& combine) {
  for (int step = 4; step < warp_threads; step *= 2)
    x = combine(x, __shfl_xor_sync(0xffffffffu, x, step));
  return x;
}
[[nodiscard]] __device__ inline float power_of_two(int exponent) {
  return bit_cast<float>(static_cast<std::uint32_t>(exponent + 127) << 23);
}
/// What columns 2t and 2t + 1 of a tile's half hold of head i of a lane.
template <bool Wide>
[[nodiscard]] __device__ float of_head(float const (&c)[4], int half, int i) {
  return Wide ? c[2 * half + i] : c[2 * half] + c[2 * half + 1];
}

/// One warp's walk over the runs of a row, for four heads or eight: of planar codes.
template <class Key, class Value, int Heads>
struct run_walk {
  static_assert(Heads == run_piece || Heads == most_run_piece);
  static constexpr bool wide = Heads == most_run_piece;
  static constexpr int lane_heads = Heads / 4;  // of lane 4 g + t: t, or 2t and 2t + 1
  static constexpr int products = lane_heads;   // of each fragment
  static constexpr int query_words = 1;         // in shared memory, of each channel and head
  static constexpr int channel_words = Heads;   // and of all heads
  static constexpr int part_channels = 128;     // of K, held at once
  static constexpr int weight_exponent = 15;    // below this power of two weights are f16
  static constexpr float first_scale = 0x1p-60f;
  using keys_type = key_runs<Key>;
  using values_type = value_runs<Value>;
  using kf = unit_fragments<keys_type::bits>;
  using vf = unit_fragments<values_type::bits>;
  static constexpr bool by_channel = keys_type::by_channel;
  using share_type = run_share<by_channel>;
  static constexpr int key_unit_bytes = 16 * keys_type::bits,
                       value_unit_bytes = 16 * values_type::bits;
  static constexpr int together = 2;                 // steps of 16 channels: queries are padded
  static constexpr int groups = by_channel ? 4 : 1;  // of V's units that have scales of their own

  /// What a lane holds of a run: loaded while the run before it is worked on.
  struct loaded {
    std::uint32_t k[8][kf::words], v[2][4][vf::words];
    std::uint32_t scale[by_channel ? 8 : 2][by_channel ? 2 : 1], low[2];  // of K
    std::uint8_t const* key_low;  // K's minimums of each channel
    std::uint32_t value_scale[groups == 4 ? 4 : 2][groups == 4 ? 2 : 1],
        value_low[groups == 4 ? 4 : 2][groups == 4 ? 2 : 1];
  };

  keys_type keys;
  values_type values;
  share_type share;
  float const* q;  // shared, as run_floats says; of this warp's channels on
  int g, t;
  bool fast;  // weights are f16 alone; of eight heads
  // Bytes from a run to what this lane reads: codes of K and V, scales of K, of V's tokens.
  std::uint32_t key_lane, value_lane, scale_lane, value_scale_lane;
  std::uint32_t value_groups;  // a byte of each of V's units: twice its group

  __device__ run_walk(keys_type const& k, values_type const& v, float const* queries,
                      share_type const& shared, bool quick)
      : keys(k),
        values(v),
        share(shared),
        q(queries + share.first_channel(part_channels) * channel_words),
        g(static_cast<int>(threadIdx.x) % warp_threads / 4),
        t(static_cast<int>(threadIdx.x) % 4),
        fast(quick),
        key_lane(static_cast<std::uint32_t>(
            (share.first_channel(part_channels) / 4 + t) * key_unit_bytes + kf::key_row(g))),
        value_lane(
            static_cast<std::uint32_t>(share.first_unit() * value_unit_bytes + vf::value_row(g)) +
            static_cast<std::uint32_t>(vf::block(t)) * v.block_bytes),
        scale_lane(static_cast<std::uint32_t>(
            by_channel ? 2 * share.first_channel(part_channels) + 8 * t : 2 * kf::token(g))),
        value_scale_lane(v.scale(kf::token(g))),
        value_groups(0) {
    // A warp without channels of V reads the parameters of some others.
    if (share.units() == 0) value_scale_lane -= static_cast<std::uint32_t>(2 * share.first_unit());
    for (int u = groups - 1; u >= 0; --u) {
      auto const at =
          static_cast<std::uint32_t>(share.first_unit() + min_int(u, share.units() - 1));
      value_groups = value_groups << 8 | 2 * (at / v.units_of_group);
    }
  }

  /// Score j of a lane: its tile, its half, and its token in the run.
  static KVSLIM_HD constexpr int tile(int j) { return keys_type::bits == 2 ? j / 2 : j % 2; }
  static KVSLIM_HD constexpr int half(int j) { return keys_type::bits == 2 ? j % 2 : j / 2; }
  static KVSLIM_HD constexpr int token_step(int j) {
    return kf::block_step(tile(j), half(j)) * 4 + kf::token_step(tile(j));
  }

  /// Token of a run that a lane's score 0 is about.
  [[nodiscard]] __device__ int token() const { return kf::token(g); }
  /// Channel of a lane's sum in half of tile m of a unit of V.
  [[nodiscard]] __device__ int channel(int m, int half) const { return vf::channel(m, half, g); }
  /// That sum, of head i of a lane.
  [[nodiscard]] __device__ float sum_of(float const (&o)[8][4], float const (&base)[groups], int u,
                                        int m, int half, int i) const {
    return of_head<wide>(o[2 * u + m], half, i) * power_of_two(24 - vf::shift(m, half)) +
           base[groups == 4 ? u : 0];
  }

  /// Loads the first run of a span.
  __device__ void begin(int run, loaded& to) const {
    load_keys(run, 0, to);
    load_values(run, to);
    if constexpr (!by_channel) load_value_parameters(run, to);
  }
  /// Scores [head of a lane][j] of a run, of this warp's part of K; what comes back from queries,
  /// and their sums, are of each head.
  __device__ void score(int run, loaded& x, float const (&back)[lane_heads],
                        float const (&query_sum)[lane_heads], float (&to)[lane_heads][4]) const {
    float c[2][4] = {}, low_sum[lane_heads];
    dot(run, x, c, low_sum);
    unrolled<4>([&](int j) {
      int const m = tile(j), part = half(j);
      float const by = power_of_two(24 - kf::shift(m, part));
      unrolled<lane_heads>([&](int i) {
        float const sum = of_head<wide>(c[m], part, i);
        if constexpr (by_channel)
          to[i][j] = (sum * by + low_sum[i]) * back[i];
        else
          to[i][j] = sum * (of_pair(x.scale[j / 2][0], j % 2) * (back[i] * by)) +
                     query_sum[i] * of_pair(x.low[j / 2], j % 2);
      });
    });
  }
  /// The next run's K.
  __device__ void load_next(int run, int next, loaded& to) const {
    load_keys(next, 0, to);
    if constexpr (by_channel) load_value_parameters(run, to);
  }
  /// Adds V, weighted by w[head of a lane][j]. Loads the next run's.
  __device__ void add(int, int next, loaded& x, float const (&w)[lane_heads][4], float (&o)[8][4],
                      float (&base)[lane_heads][groups]) const {
    add_codes(x, w, o, base);
    load_values(next, x);
    if constexpr (!by_channel) load_value_parameters(next, x);
  }
  /// The largest of V's scales that this lane holds of a run.
  [[nodiscard]] __device__ float largest_scale(loaded const& x) const {
    std::uint32_t most = 0;
    unrolled<groups == 4 ? 4 : 2>([&](int j) {
      for (std::uint32_t const two : x.value_scale[j]) most = larger_halves(most, two);
    });
    return fmaxf(low_half(most), high_half(most));
  }

 private:
  /// Scores 2i and 2i + 1 of f16 that lie at from + offset(j).
  template <class Offset>
  [[nodiscard]] static __device__ std::uint32_t pair(std::uint8_t const* from, int i,
                                                     Offset const& offset) {
    if constexpr (keys_type::bits == 2)
      return read_only<std::uint16_t>(from + offset(2 * i)) |
             static_cast<std::uint32_t>(read_only<std::uint16_t>(from + offset(2 * i + 1))) << 16;
    else
      return read_only<std::uint32_t>(from + offset(2 * i));
  }

  /// Channels [128 part, 128 part + 128) of K, and what scales them.
  __device__ void load_keys(int run, int part, loaded& to) const {
    auto const from = keys.at(run);
    std::uint8_t const* const codes = settled(from.codes + key_lane + part * (32 * key_unit_bytes));
    std::uint8_t const* const scale = settled(from.scale + scale_lane);
    int const steps = share.dim() / 16 - part * 8;
    unrolled<8>([&](int s) {
      if (s / together * together >= steps) return;
      kf::load(codes + s * (4 * key_unit_bytes), to.k[s]);
      if constexpr (by_channel) {
        auto const two = read_only<uint2>(scale + part * 256 + s * 32);
        to.scale[s][0] = two.x;
        to.scale[s][1] = two.y;
      }
    });
    if (part != 0) return;
    if constexpr (by_channel)
      to.key_low = settled(scale + keys.run_bytes / (2 * keys_type::bits) + (wide ? 0 : g % 2 * 4));
    else
      unrolled<2>([&](int i) {
        to.scale[i][0] = pair(scale, i, [](int j) { return 2 * token_step(j); });
        to.low[i] = pair(scale, i, [](int j) { return 64 + 2 * token_step(j); });
      });
  }
  __device__ void load_values(int run, loaded& to) const {
    auto const* const begin = values.run(run);
    std::uint8_t const* const codes = settled(begin + value_lane);
    std::uint8_t const* const behind = settled(codes + 4 * values.block_bytes);
    int const units = share.units();
    unrolled<4>([&](int u) {
      if (u >= units) return;
      vf::load(codes + u * value_unit_bytes, to.v[0][u]);
      vf::load(behind + u * value_unit_bytes, to.v[1][u]);
    });
  }
  __device__ void load_value_parameters(int run, loaded& to) const {
    std::uint8_t const* const scale = settled(values.run(run) + value_scale_lane);
    auto const at = [&](int j) {
      return static_cast<std::uint32_t>(kf::block_step(tile(j), half(j))) * values.block_bytes +
             static_cast<std::uint32_t>(kf::token_step(tile(j))) * values.groups * 2;
    };
    if constexpr (groups == 1) {
      unrolled<2>([&](int i) {
        to.value_scale[i][0] = pair(scale, i, at);
        to.value_low[i][0] = pair(scale + 8, i, at);
      });
    } else {
      std::uint32_t const lows = values.groups * 8;
      if (values.units_of_group == 1 && values.groups % 4 == 0) {
        std::uint8_t const* const begin = settled(scale + share.first_unit() * 2);
        unrolled<4>([&](int j) {
          std::uint8_t const* const mine = settled(begin + at(j));
          auto const s = read_only<uint2>(mine), l = read_only<uint2>(mine + lows);
          to.value_scale[j][0] = s.x;
          to.value_scale[j][1] = s.y;
          to.value_low[j][0] = l.x;
          to.value_low[j][1] = l.y;
        });
        return;
      }
      std::uint32_t const packed = settled(value_groups);
      unrolled<2>([&](int i) {
        std::uint32_t const group[] = {packed >> 16 * i & 255u, packed >> (16 * i + 8) & 255u};
        unrolled<4>([&](int j) {
          auto const two = [&](std::uint8_t const* from) {
            return read_only<std::uint16_t>(from + group[0]) |
                   static_cast<std::uint32_t>(read_only<std::uint16_t>(from + group[1])) << 16;
          };
          to.value_scale[j][i] = two(scale + at(j));
          to.value_low[j][i] = two(scale + at(j) + lows);
        });
      });
    }
  }

  /// Half i of two f16 in a word.
  [[nodiscard]] static __device__ float of_pair(std::uint32_t x, int i) {
    return i == 0 ? low_half(x) : high_half(x);
  }

  /// Products of K's codes with the queries, [tile]; and the queries' products with K's minimums of
  /// each channel.
  __device__ void dot(int run, loaded& x, float (&c)[2][4], float (&base)[lane_heads]) const {
    std::uint8_t const* const low = x.key_low;
    float low_sum = 0.0f;
    for (int part = 0;;) {
      int const steps = share.dim() / 16 - part * 8;
      unrolled<8>([&](int s) {
        if (s / together * together >= steps) return;
        int const step = part * 8 + s;
        std::uint32_t b[lane_heads][2];
        if constexpr (by_channel)
          scaled_queries(step, x.scale[s], low, b, low_sum);
        else
          stored_queries(step, b);
        unrolled<2>([&](int m) {
          std::uint32_t a[4];
          kf::operand(x.k[s], m, a);
          for (auto const& columns : b) mma(c[m], a, columns[0], columns[1]);
        });
      });
      part = share.next_part(part);
      if (part * part_channels >= share.dim()) break;
      load_keys(run, part, x);
    }
    if constexpr (by_channel) {  // lane (g, t) has a head of row g, and wants those of t
      low_sum += __shfl_xor_sync(0xffffffffu, low_sum, 1);
      low_sum += __shfl_xor_sync(0xffffffffu, low_sum, 2);
      if constexpr (!wide) low_sum += __shfl_xor_sync(0xffffffffu, low_sum, 4);
      unrolled<lane_heads>(
          [&](int i) { base[i] = __shfl_sync(0xffffffffu, low_sum, t * 8 + i * 4); });
    }
  }

  /// Adds V's codes, weighted: w[i][j] of head i of a lane, times V's scales. Codes count from
  /// their middle, so that sums stay small: matrix units cut them, which would be a bias.
  __device__ void add_codes(loaded const& x, float const (&w)[lane_heads][4], float (&o)[8][4],
                            float (&base)[lane_heads][groups]) const {
    constexpr float middle = 0.5f * static_cast<float>((1 << values_type::bits) - 1);
    float sum[lane_heads] = {};
    std::uint32_t p[lane_heads][2][2];
    auto const weigh = [&](int group) {
      unrolled<4>([&](int j) {
        std::uint32_t const s = groups == 4 ? x.value_scale[j][group / 2] : x.value_scale[j / 2][0],
                            l = groups == 4 ? x.value_low[j][group / 2] : x.value_low[j / 2][0];
        int const k = groups == 4 ? group % 2 : j % 2;
        float const scale = of_pair(s, k), low = of_pair(l, k);
        float const centre = wide ? low + scale * middle : low;
        float y[lane_heads];
        unrolled<lane_heads>([&](int i) {
          y[i] = w[i][j] * scale;
          base[i][group] += w[i][j] * centre;
        });
        auto const add_up = [&](int i, float one) { sum[i] = j == 0 ? one : sum[i] + one; };
        if constexpr (wide) {
          std::uint32_t const upper = halves(y[0], y[1]);
          p[0][tile(j)][half(j)] = transposed(upper);
          if (fast) {
            add_up(0, low_half(upper));
            add_up(1, high_half(upper));
          } else {
            p[1][tile(j)][half(j)] = transposed(rest_of_halves(upper, y[0], y[1]));
            add_up(0, y[0]);
            add_up(1, y[1]);
          }
        } else {
          p[0][tile(j)][half(j)] = transposed(hi_lo(y[0]));
          add_up(0, y[0]);
        }
      });
      if constexpr (!wide) base[0][group] += sum[0] * middle;
      for (float& y : sum) y = over_rows(y, [](float one, float other) { return one + other; });
    };
    if constexpr (groups == 1) weigh(0);
    int const units = share.units();
    unrolled<4>([&](int u) {
      if (u / 2 * 2 >= units) return;  // what is behind the last unit goes nowhere
      if constexpr (groups == 4) weigh(u);
      unrolled<2>([&](int m) {
        unrolled<2>([&](int part) {
          float const by = middle * power_of_two(vf::shift(m, part) - 24);
          unrolled<lane_heads>([&](int i) { o[u * 2 + m][2 * part + i] -= sum[i] * by; });
        });
      });
      auto const multiply = [&](std::uint32_t const(&weights)[2][2]) {
        unrolled<2>([&](int step) {
          std::uint32_t b[2];
          vf::weights(weights, step, b);
          unrolled<2>([&](int m) {
            std::uint32_t a[4];
            vf::operand(x.v[step][u], m, a);
            mma(o[u * 2 + m], a, b[0], b[1]);
          });
        });
      };
      multiply(p[0]);
      if constexpr (wide)
        if (!fast) multiply(p[1]);
    });
  }

  /// B of one step over K: queries as they were prepared.
  __device__ void stored_queries(int step, std::uint32_t (&b)[lane_heads][2]) const {
    if constexpr (wide) {
      auto const four = reinterpret_cast<uint4 const*>(q)[step * 32 + g * 4 + t];
      b[0][0] = four.x;
      b[0][1] = four.y;
      b[1][0] = four.z;
      b[1][1] = four.w;
    } else {
      auto const two = reinterpret_cast<uint2 const*>(q)[step * 32 + g * 4 + t];
      b[0][0] = two.x;
      b[0][1] = two.y;
    }
  }
  /// The same, times a scale of each channel; adds the queries' products with the minimums.
  __device__ void scaled_queries(int step, std::uint32_t const (&scale)[2], std::uint8_t const* low,
                                 std::uint32_t (&b)[lane_heads][2], float& low_sum) const {
    int const unit = step * 4 + t, head = wide ? g : g / 2;
    auto const mine = reinterpret_cast<float4 const*>(q)[unit * Heads + head];
    float const y[] = {mine.x * low_half(scale[0]), mine.y * high_half(scale[0]),
                       mine.z * low_half(scale[1]), mine.w * high_half(scale[1])};
    if constexpr (wide) {
      auto const lows = read_only<uint2>(low + step * 32);
      low_sum += mine.x * low_half(lows.x);
      low_sum += mine.y * high_half(lows.x);
      low_sum += mine.z * low_half(lows.y);
      low_sum += mine.w * high_half(lows.y);
      auto const rest = [](float one) { return one - upper_part(one); };
      b[0][0] = cut_halves(y[0], y[2]);
      b[0][1] = cut_halves(y[1], y[3]);
      b[1][0] = cut_halves(rest(y[0]), rest(y[2]));
      b[1][1] = cut_halves(rest(y[1]), rest(y[3]));
    } else {
      // The two lanes of a head take two of the four channels each.
      auto const two = reinterpret_cast<float2 const*>(q)[(unit * Heads + head) * 2 + g % 2];
      auto const lows = read_only<std::uint32_t>(low + step * 32);
      low_sum += two.x * low_half(lows);
      low_sum += two.y * high_half(lows);
      // Of four products either lane keeps what f16 holds, or the rest.
      std::uint32_t const upper = g % 2 == 0 ? 0u : 0xffffe000u;
      auto const kept = [&](float one) {
        return one - bit_cast<float>(bit_cast<std::uint32_t>(one) & upper);
      };
      b[0][0] = cut_halves(kept(y[0]), kept(y[2]));
      b[0][1] = cut_halves(kept(y[1]), kept(y[3]));
    }
  }
};

KVSLIM_END_CUDA_NAMESPACE
