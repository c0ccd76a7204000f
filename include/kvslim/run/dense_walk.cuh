// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What a warp does with one run of 32 tokens that are stored as f16 or bf16. There are more bytes
// than registers: of K, and of V, 64 channels or 16 tokens are held, and the rest is loaded when
// these are done with. The multiprocessor's other warps fill the time.

#include <kvslim/codec/dense_fragments.cuh>
#include <kvslim/run/run_walk.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

template <element T, int Heads>
struct run_walk<dense_key<T>, dense_value<T>, Heads> {
  static constexpr bool wide = Heads == most_run_piece;
  static constexpr int lane_heads = Heads / 4;
  static constexpr int products = wide ? parts_of_float<T> : (parts_of_float<T> + 1) / 2;
  static constexpr int query_words = (4 * products + Heads - 1) / Heads;
  static constexpr int weight_exponent = std::is_same_v<T, bf16> ? 0 : 15;
  static constexpr float first_scale = 1.0f;
  static constexpr int groups = 1;

  using keys_type = key_runs<dense_key<T>>;
  using values_type = value_runs<dense_value<T>>;

  struct loaded {
    uint2 k[4][4];  // of a step, of a channel: four tokens
    uint2 v[4][4];  // of a unit of 32 channels, of a token: four channels
  };

  keys_type keys;
  values_type values;
  float const* q;                    // shared, as run_floats says
  int g, t, dim, first_unit, units;  // units of V from the first one on
  bool fast;                         // the last part of a weight is left out
  // Bytes from a run to what this lane reads; of V also those from a unit's first channel in the
  // last unit, half of which may be behind the row.
  std::uint32_t key_lane, value_lane, last_lane;

  __device__ run_walk(keys_type const& k, values_type const& v, float const* queries, int key_dim,
                      int value_units, int unit, bool quick)
      : keys(k),
        values(v),
        q(queries),
        g(static_cast<int>(threadIdx.x) % warp_threads / 4),
        t(static_cast<int>(threadIdx.x) % 4),
        dim(key_dim),
        first_unit(unit),
        units(value_units - unit),
        fast(quick),
        key_lane(static_cast<std::uint32_t>(g / 4) * k.tile_bytes +
                 static_cast<std::uint32_t>(32 * t + 8 * (g % 4))),
        value_lane(static_cast<std::uint32_t>(8 * t) * v.row_bytes +
                   static_cast<std::uint32_t>(64 * unit)),
        last_lane(static_cast<std::uint32_t>(v.row_bytes % 64 == 0 ? 8 * g : 8 * (g % 4))) {}

  static KVSLIM_HD constexpr int token_step(int j) { return j; }
  [[nodiscard]] __device__ int token() const { return 4 * g; }
  [[nodiscard]] __device__ int channel(int m, int half) const { return 4 * g + 2 * m + half; }
  [[nodiscard]] __device__ float sum_of(float const (&o)[8][4], float const (&)[groups], int u,
                                        int m, int half, int i) const {
    return of_head<wide>(o[2 * u + m], half, i);
  }
  [[nodiscard]] __device__ float largest_scale(loaded const&) const { return 0.0f; }

  __device__ void begin(int run, loaded& to) const {
    load_keys(run, 0, to);
    load_values(run, 0, to);
  }
  __device__ void score(int run, loaded& x, float const (&back)[lane_heads],
                        float const (&)[lane_heads], float (&to)[lane_heads][4]) const {
    float c[2][4] = {};
    for (int part = 0;; load_keys(run, part, x)) {
      multiply_keys(part, x, c);
      if (++part * 64 >= dim) break;
      load_keys(run, part, x);
      multiply_keys(part, x, c);
      if (++part * 64 >= dim) break;
    }
    unrolled<4>([&](int j) {
      unrolled<lane_heads>([&](int i) { to[i][j] = of_head<wide>(c[j / 2], j % 2, i) * back[i]; });
    });
  }
  __device__ void load_next(int, int next, loaded& to) const { load_keys(next, 0, to); }
  __device__ void add(int run, int next, loaded& x, float const (&w)[lane_heads][4],
                      float (&o)[8][4], float (&)[lane_heads][groups]) const {
    std::uint32_t p[4][products];
    unrolled<4>([&](int j) { weigh(w, j, p[j]); });
    unrolled<2>([&](int part) {
      unrolled<4>([&](int u) {
        if (u >= units) return;
        unrolled<2>([&](int m) {
          std::uint32_t a[4];
          values_type::operand(x.v[u], m, a);
          unrolled<products>([&](int n) {
            if (n > 0 && n + 1 == products && fast) return;
            multiply(o[2 * u + m], a, {p[2 * part][n], p[2 * part + 1][n]});
          });
        });
      });
      load_values(part == 0 ? run : next, 1 - part, x);
    });
  }

 private:
  static __device__ void multiply(float (&c)[4], std::uint32_t const (&a)[4],
                                  std::uint32_t const (&b)[2]) {
    if constexpr (std::is_same_v<T, bf16>)
      mma_bf16(c, a, b[0], b[1]);
    else
      mma(c, a, b[0], b[1]);
  }
  /// Adds the products of channels [64 part, 64 part + 64) of K with the queries.
  __device__ void multiply_keys(int part, loaded const& x, float (&c)[2][4]) const {
    int const steps = dim / 16 - part * 4;
    unrolled<4>([&](int s) {
      if (s >= steps) return;
      std::uint32_t b[products][2];
      auto const* const mine =
          reinterpret_cast<uint2 const*>(q) + ((part * 4 + s) * 32 + g * 4 + t) * products;
      unrolled<products>([&](int n) {
        uint2 const two = mine[n];
        b[n][0] = two.x;
        b[n][1] = two.y;
      });
      unrolled<2>([&](int m) {
        std::uint32_t a[4];
        keys_type::operand(x.k[s], m, a);
        for (auto const& columns : b) multiply(c[m], a, columns);
      });
    });
  }
  /// Words of B from weights w[head][j], one for each product.
  static __device__ void weigh(float const (&w)[lane_heads][4], int j,
                               std::uint32_t (&to)[products]) {
    if constexpr (wide && products == 2) {
      to[0] = halves(w[0][j], w[1][j]);
      to[1] = rest_of_halves(to[0], w[0][j], w[1][j]);
    } else {
      unrolled<products>([&](int n) {
        to[n] = low_halves(part_of_float<T>(w[0][j], wide ? n : 2 * n),
                           part_of_float<T>(w[lane_heads - 1][j], wide ? n : 2 * n + 1));
      });
    }
    for (std::uint32_t& word : to) word = transposed(word);
  }
  /// Channels [64 part, 64 part + 64) of K.
  __device__ void load_keys(int run, int part, loaded& to) const {
    std::uint8_t const* const from = settled(keys.at(run) + key_lane + part * 2048);
    int const steps = dim / 16 - part * 4;
    unrolled<4>([&](int s) {
      if (s >= steps) return;
      unrolled<4>([&](int i) { to.k[s][i] = read_only<uint2>(from + s * 512 + i * 128); });
    });
  }
  /// Tokens {0, 1, 4, 5} of eight of V, or those two behind.
  __device__ void load_values(int run, int part, loaded& to) const {
    std::uint8_t const* from = settled(values.run(run) + value_lane +
                                       static_cast<std::uint32_t>(2 * part) * values.row_bytes);
    unrolled<4>([&](int i) {
      unrolled<4>([&](int u) {
        if (u >= units) return;
        std::uint32_t const lane = u + 1 == units ? last_lane : static_cast<std::uint32_t>(8 * g);
        to.v[u][i] = read_only<uint2>(from + u * 64 + lane);
      });
      from = settled(from + (i == 1 ? 3u : 1u) * values.row_bytes);
    });
  }
};

KVSLIM_END_CUDA_NAMESPACE
