// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What a warp does with one run of 32 tokens that are stored as floats of 8 bits: what it does with
// f16, from half the words. Scales of K's tokens join scores, V's join weights.

#include <kvslim/codec/byte_fragments.cuh>
#include <kvslim/run/dense_walk.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

template <class Key, class Value, int Heads>
requires(key_runs<Key>::order == run_order::bytes) struct run_walk<Key, Value, Heads> {
  static constexpr bool wide = Heads == most_run_piece;
  static constexpr int lane_heads = Heads / 4;
  static constexpr int products = lane_heads;
  static constexpr int channel_words = Heads, query_words = 1;  // of queries in shared memory
  static constexpr int part_channels = 128;                     // of K, held at once
  static constexpr int weight_exponent = 15;
  static constexpr float first_scale = 0x1p-100f;
  static constexpr int groups = 1;
  using keys_type = key_runs<Key>;
  using values_type = value_runs<Value>;
  using share_type = run_share<true>;

  /// What a lane holds of a run: loaded while the run before it is worked on.
  struct loaded {
    std::uint32_t k[8][4];     // of a step, of a channel: four tokens
    std::uint32_t v[2][4][4];  // of two tokens of four, of a unit, of a token: four channels
    float largest;             // of V's scales
  };

  keys_type keys;
  values_type values;
  share_type share;
  float const* q;  // shared, as run_floats says; of this warp's channels on
  int g, t;
  bool fast;                           // weights are f16 alone; of eight heads
  std::uint32_t key_lane, value_lane;  // bytes from a run to what this lane reads

  __device__ run_walk(keys_type const& k, values_type const& v, float const* queries,
                      share_type const& shared, bool quick)
      : keys(k),
        values(v),
        share(shared),
        q(queries + share.first_channel(part_channels) * channel_words),
        g(static_cast<int>(threadIdx.x) % warp_threads / 4),
        t(static_cast<int>(threadIdx.x) % 4),
        fast(quick),
        key_lane(static_cast<std::uint32_t>(16 * (share.first_channel(part_channels) + t) +
                                            4 * (g % 4)) +
                 static_cast<std::uint32_t>(g / 4 * 16) * k.row_bytes),
        value_lane(static_cast<std::uint32_t>(8 * t) * v.row_bytes +
                   static_cast<std::uint32_t>(32 * share.first_unit())) {}

  static KVSLIM_HD constexpr int token_step(int j) { return j; }
  [[nodiscard]] __device__ int token() const { return 4 * g; }
  [[nodiscard]] __device__ int channel(int m, int half) const { return 4 * g + 2 * m + half; }
  [[nodiscard]] __device__ float sum_of(float const (&o)[8][4], float const (&)[groups], int u,
                                        int m, int half, int i) const {
    return of_head<wide>(o[2 * u + m], half, i) * power_of_two(values_type::fragments::exponent);
  }
  [[nodiscard]] __device__ float largest_scale(loaded const& x) const { return x.largest; }

  __device__ void begin(int run, loaded& to) const {
    load_keys(run, 0, to);
    load_values(run, to);
  }
  __device__ void score(int run, loaded& x, float const (&back)[lane_heads],
                        float const (&)[lane_heads], float (&to)[lane_heads][4]) const {
    float c[2][4] = {}, scale[4];
    keys.scales_of(run, 4 * g, scale);
    for (int part = 0;; load_keys(run, part, x)) {
      int const steps = share.dim() / 16 - part * 8;
      unrolled<8>([&](int s) {
        if (s >= steps) return;
        std::uint32_t b[products][2];
        prepared_queries(q, part * 8 + s, b);
        unrolled<2>([&](int m) {
          std::uint32_t a[4];
          keys_type::fragments::key_operand(x.k[s], m, a);
          for (auto const& columns : b) mma(c[m], a, columns[0], columns[1]);
        });
      });
      part = share.next_part(part);
      if (part * part_channels >= share.dim()) break;
    }
    unrolled<4>([&](int j) {
      float const by = scale[j] * power_of_two(keys_type::fragments::exponent);
      unrolled<lane_heads>(
          [&](int i) { to[i][j] = of_head<wide>(c[j / 2], j % 2, i) * (back[i] * by); });
    });
  }
  __device__ void load_next(int run, int next, loaded& to) const {
    load_keys(next, 0, to);
    float scale[4];
    values.scales_of(run, 4 * g, scale);
    to.largest = fmaxf(fmaxf(scale[0], scale[1]), fmaxf(scale[2], scale[3]));
  }
  __device__ void add(int run, int next, loaded& x, float const (&w)[lane_heads][4],
                      float (&o)[8][4], float (&)[lane_heads][groups]) const {
    std::uint32_t p[products][4];  // words of B, as dense_walk's
    float scale[4];                // read again: registers are scarce
    values.scales_of(run, 4 * g, scale);
    unrolled<4>([&](int j) {
      float y[lane_heads];
      unrolled<lane_heads>([&](int i) { y[i] = w[i][j] * scale[j]; });
      if constexpr (wide) {
        std::uint32_t const upper = halves(y[0], y[1]);
        p[0][j] = transposed(upper);
        if (!fast) p[1][j] = transposed(rest_of_halves(upper, y[0], y[1]));
      } else {
        p[0][j] = transposed(hi_lo(y[0]));
      }
    });
    int const units = share.units();
    unrolled<2>([&](int part) {
      unrolled<4>([&](int u) {
        if (u >= units) return;
        unrolled<2>([&](int m) {
          std::uint32_t a[4];
          values_type::fragments::value_operand(x.v[part][u], m, a);
          mma(o[2 * u + m], a, p[0][2 * part], p[0][2 * part + 1]);
          if constexpr (wide)
            if (!fast) mma(o[2 * u + m], a, p[1][2 * part], p[1][2 * part + 1]);
        });
      });
    });
    load_values(next, x);
  }

 private:
  /// Channels [128 part, 128 part + 128) of K.
  __device__ void load_keys(int run, int part, loaded& to) const {
    std::uint8_t const* const from = settled(keys.at(run) + key_lane + part * 2048);
    int const steps = share.dim() / 16 - part * 8;
    unrolled<8>([&](int s) {
      if (s >= steps) return;
      unrolled<4>([&](int i) { to.k[s][i] = read_only<std::uint32_t>(from + s * 256 + i * 64); });
    });
  }
  __device__ void load_values(int run, loaded& to) const {
    int const units = share.units();
    // Half of the last unit may be behind the row.
    auto const lane = static_cast<std::uint32_t>(4 * g),
               last_lane = values.row_bytes % 32 == 0 ? lane : lane % 16;
    unrolled<2>([&](int part) {
      std::uint8_t const* from = settled(values.at(run) + value_lane +
                                         static_cast<std::uint32_t>(2 * part) * values.row_bytes);
      unrolled<4>([&](int i) {
        unrolled<4>([&](int u) {
          if (u >= units) return;
          to.v[part][u][i] =
              read_only<std::uint32_t>(from + u * 32 + (u + 1 == units ? last_lane : lane));
        });
        from = settled(from + (i == 1 ? 3u : 1u) * values.row_bytes);
      });
    });
  }
};

KVSLIM_END_CUDA_NAMESPACE
