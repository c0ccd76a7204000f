// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What a warp does with one run of 32 tokens that are stored as f16 or bf16. There are more bytes
// than registers: of K, and of V, 64 channels or 16 tokens are held, and the rest is loaded when
// these are done with. The multiprocessor's other warps fill the time. V has rows of its own, or is
// a slice of K's.

#include <kvslim/codec/dense_fragments.cuh>
#include <kvslim/run/run_walk.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// B of one step over K for each product: queries as they were prepared.
template <int Products>
__device__ void prepared_queries(float const* q, int step, std::uint32_t (&b)[Products][2]) {
  int const lane = static_cast<int>(threadIdx.x) % warp_threads;
  auto const* const mine = reinterpret_cast<uint2 const*>(q) + (step * 32 + lane) * Products;
  unrolled<Products>([&](int n) {
    uint2 const two = mine[n];
    b[n][0] = two.x;
    b[n][1] = two.y;
  });
}

/// The walk over K, and what V's have in common.
template <element T, class Value, int Heads>
struct dense_walk {
  static constexpr bool wide = Heads == most_run_piece;
  static constexpr int lane_heads = Heads / 4;
  static constexpr int products = wide ? parts_of_float<T> : (parts_of_float<T> + 1) / 2;
  static constexpr int channel_words = 4 * products;  // of queries in shared memory
  static constexpr int query_words = (channel_words + Heads - 1) / Heads;
  static constexpr int part_channels = 64;  // of K, held at once
  static constexpr int weight_exponent = std::is_same_v<T, bf16> ? 0 : 15;
  static constexpr float first_scale = 1.0f;
  static constexpr int groups = 1;

  using keys_type = key_runs<dense_key<T>>;
  using values_type = value_runs<Value>;
  using share_type = run_share<false>;

  struct loaded {
    uint2 k[4][4];  // of a step, of a channel: four tokens
    typename values_type::held v;
  };

  keys_type keys;
  values_type values;
  share_type share;
  float const* q;  // shared, as run_floats says; of this warp's channels on
  int g, t;
  bool fast;               // the last part of a weight is left out
  std::uint32_t key_lane;  // bytes from a run to what this lane reads of K

  __device__ dense_walk(keys_type const& k, values_type const& v, float const* queries,
                        share_type const& shared, bool quick)
      : keys(k),
        values(v),
        share(shared),
        q(queries + share.first_channel(part_channels) * channel_words),
        g(static_cast<int>(threadIdx.x) % warp_threads / 4),
        t(static_cast<int>(threadIdx.x) % 4),
        fast(quick),
        key_lane(static_cast<std::uint32_t>(g / 4) * k.tile_bytes +
                 static_cast<std::uint32_t>(32 * (share.first_channel(part_channels) + t) +
                                            8 * (g % 4))) {}

  static KVSLIM_HD constexpr int token_step(int j) { return j; }
  [[nodiscard]] __device__ int token() const { return 4 * g; }
  [[nodiscard]] __device__ float sum_of(float const (&o)[8][4], float const (&)[groups], int u,
                                        int m, int half, int i) const {
    return of_head<wide>(o[2 * u + m], half, i);
  }
  [[nodiscard]] __device__ float largest_scale(loaded const&) const { return 0.0f; }

  __device__ void score(int run, loaded& x, float const (&back)[lane_heads],
                        float const (&)[lane_heads], float (&to)[lane_heads][4]) const {
    float c[2][4] = {};
    for (int part = 0;; load_keys(run, part, x)) {
      multiply_keys(part, x, c);
      part = share.next_part(part);
      if (part * part_channels >= share.dim()) break;
      load_keys(run, part, x);
      multiply_keys(part, x, c);
      part = share.next_part(part);
      if (part * part_channels >= share.dim()) break;
    }
    unrolled<4>([&](int j) {
      unrolled<lane_heads>([&](int i) { to[i][j] = of_head<wide>(c[j / 2], j % 2, i) * back[i]; });
    });
  }
  __device__ void load_next(int, int next, loaded& to) const { load_keys(next, 0, to); }

 protected:
  /// Words of B from weights w[head of a lane][j], one for each product.
  struct weights {
    std::uint32_t word[4][products];

    __device__ explicit weights(float const (&w)[lane_heads][4]) {
      unrolled<4>([&](int j) {
        auto& to = word[j];
        if constexpr (wide && products == 2) {
          to[0] = halves(w[0][j], w[1][j]);
          to[1] = rest_of_halves(to[0], w[0][j], w[1][j]);
        } else {
          unrolled<products>([&](int n) {
            to[n] = low_halves(part_of_float<T>(w[0][j], wide ? n : 2 * n),
                               part_of_float<T>(w[lane_heads - 1][j], wide ? n : 2 * n + 1));
          });
        }
        for (std::uint32_t& one : to) one = transposed(one);
      });
    }
  };
  /// Adds a tile of V, tokens {0, 4} and {1, 5} of eight or those two behind, weighted.
  __device__ void multiply_values(float (&c)[4], std::uint32_t const (&a)[4], weights const& p,
                                  int part) const {
    unrolled<products>([&](int n) {
      if (n > 0 && n + 1 == products && fast) return;
      multiply(c, a, {p.word[2 * part][n], p.word[2 * part + 1][n]});
    });
  }
  static __device__ void multiply(float (&c)[4], std::uint32_t const (&a)[4],
                                  std::uint32_t const (&b)[2]) {
    if constexpr (std::is_same_v<T, bf16>)
      mma_bf16(c, a, b[0], b[1]);
    else
      mma(c, a, b[0], b[1]);
  }
  /// Adds the products of channels [64 part, 64 part + 64) of K with the queries.
  __device__ void multiply_keys(int part, loaded const& x, float (&c)[2][4]) const {
    int const steps = share.dim() / 16 - part * 4;
    unrolled<4>([&](int s) {
      if (s >= steps) return;
      std::uint32_t b[products][2];
      prepared_queries(q, part * 4 + s, b);
      unrolled<2>([&](int m) {
        std::uint32_t a[4];
        keys_type::operand(x.k[s], m, a);
        for (auto const& columns : b) multiply(c[m], a, columns);
      });
    });
  }
  /// Channels [64 part, 64 part + 64) of K.
  __device__ void load_keys(int run, int part, loaded& to) const {
    std::uint8_t const* const from = settled(keys.at(run) + key_lane + part * 2048);
    int const steps = share.dim() / 16 - part * 4;
    unrolled<4>([&](int s) {
      if (s >= steps) return;
      unrolled<4>([&](int i) { to.k[s][i] = read_only<uint2>(from + s * 512 + i * 128); });
    });
  }
};

/// V in rows of its own.
template <element T, int Heads>
requires(sizeof(T) == 2) struct run_walk<dense_key<T>, dense_value<T>, Heads>
    : dense_walk<T, dense_value<T>, Heads> {
  using base = dense_walk<T, dense_value<T>, Heads>;
  using base::share, base::g, base::values;
  using typename base::loaded, typename base::values_type, typename base::share_type;

  // Bytes from a run to what this lane reads of V, and from a unit's first channel to it in the
  // last unit, half of which may be behind the row.
  std::uint32_t value_lane, last_lane;

  __device__ run_walk(typename base::keys_type const& k, values_type const& v, float const* queries,
                      share_type const& shared, bool quick)
      : base(k, v, queries, shared, quick),
        value_lane(static_cast<std::uint32_t>(8 * base::t) * v.row_bytes +
                   static_cast<std::uint32_t>(64 * share.first_unit())),
        last_lane(static_cast<std::uint32_t>(v.row_bytes % 64 == 0 ? 8 * g : 8 * (g % 4))) {}

  [[nodiscard]] __device__ int channel(int m, int half) const { return 4 * g + 2 * m + half; }
  __device__ void begin(int run, loaded& to) const {
    base::load_keys(run, 0, to);
    load_values(run, 0, to);
  }
  __device__ void add(int run, int next, loaded& x, float const (&w)[base::lane_heads][4],
                      float (&o)[8][4], float (&)[base::lane_heads][base::groups]) const {
    typename base::weights const p(w);
    int const units = share.units();
    unrolled<2>([&](int part) {
      unrolled<4>([&](int u) {
        if (u >= units) return;
        unrolled<2>([&](int m) {
          std::uint32_t a[4];
          values_type::operand(x.v[u], m, a);
          base::multiply_values(o[2 * u + m], a, p, part);
        });
      });
      load_values(part == 0 ? run : next, 1 - part, x);
    });
  }

 private:
  /// Tokens {0, 1, 4, 5} of eight of V, or those two behind.
  __device__ void load_values(int run, int part, loaded& to) const {
    int const units = share.units();
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

/// V as K's first channels: read where K lies, and in the cache where K's scores were.
template <element T, int Heads>
requires(sizeof(T) == 2) struct run_walk<dense_key<T>, slice_of_key<dense_key<T>>, Heads>
    : dense_walk<T, slice_of_key<dense_key<T>>, Heads> {
  using base = dense_walk<T, slice_of_key<dense_key<T>>, Heads>;
  using base::share, base::g, base::t, base::values;
  using typename base::loaded, typename base::values_type, typename base::share_type;

  std::uint32_t value_lane;  // bytes from a run to what this lane reads of V

  __device__ run_walk(typename base::keys_type const& k, values_type const& v, float const* queries,
                      share_type const& shared, bool quick)
      : base(k, v, queries, shared, quick),
        value_lane(static_cast<std::uint32_t>(t / 2) * v.tile_bytes +
                   static_cast<std::uint32_t>(1024 * share.first_unit() + 32 * g + 16 * (t % 2))) {}

  [[nodiscard]] __device__ int channel(int m, int half) const { return 16 * m + 8 * half + g; }
  __device__ void begin(int run, loaded& to) const {
    base::load_keys(run, 0, to);
    load_values(run, 0, to);
  }
  __device__ void add(int run, int next, loaded& x, float const (&w)[base::lane_heads][4],
                      float (&o)[8][4], float (&)[base::lane_heads][base::groups]) const {
    typename base::weights const p(w);
    int const units = share.units();
    unrolled<2>([&](int part) {
      unrolled<2>([&](int i) {
        int const u = 2 * part + i;
        if (u >= units) return;
        unrolled<2>([&](int m) {
          unrolled<2>([&](int tokens) {
            std::uint32_t a[4];
            values_type::operand(x.v[2 * i + m], tokens, a);
            base::multiply_values(o[2 * u + m], a, p, tokens);
          });
        });
      });
      load_values(part == 0 ? run : next, 1 - part, x);
    });
  }

 private:
  /// Channels [64 part, 64 part + 64) of V's slice.
  __device__ void load_values(int run, int part, loaded& to) const {
    int const units = share.units();
    std::uint8_t const* const from =
        settled(values.run(run) + value_lane + static_cast<std::uint32_t>(2048 * part));
    unrolled<2>([&](int i) {
      if (2 * part + i >= units) return;
      unrolled<2>([&](int m) {
        unrolled<2>([&](int half) {
          to.v[2 * i + m][half] = read_only<uint4>(from + i * 1024 + m * 512 + half * 256);
        });
      });
    });
  }
};

KVSLIM_END_CUDA_NAMESPACE
