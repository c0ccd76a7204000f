// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// A walk over planar codes to which a low rank is added, outliers kept aside or not: matrix units
// multiply the codes, and what corrects them is added to a run's scores and to V's sums. Lanes that
// add to one place of shared memory do so one after the other, in the order of the lanes.

#include <kvslim/codec/corrected_fragments.cuh>
#include <kvslim/run/run_walk.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

template <class Key, class Value, int Heads>
struct corrected_walk : run_walk<Key, Value, Heads> {
  using walk = run_walk<Key, Value, Heads>;
  using typename walk::loaded;
  static constexpr int lane_heads = walk::lane_heads, groups = walk::groups;
  /// Floats of shared memory of a warp: sums of tokens or channels, weights of tokens, products
  /// with directions that last, and sums along directions, each of all heads.
  static constexpr int most_rank = 16, room_floats = (slice_channels + 32 + 2 * most_rank) * Heads;

  run_corrections<Key> of_keys;
  run_corrections<Value> of_values;
  float const* queries;       // [dim, Heads], shared
  float* room;                // this warp's
  f16 const* last = nullptr;  // directions that products are of

  template <class Keys, class Values>
  __device__ corrected_walk(walk const& codes, Keys const& k, Values const& v,
                            float const* all_queries, float* floats)
      : walk(codes),
        of_keys(k.codec, k.blocks, k.state, static_cast<int>(k.dim)),
        of_values(v.codec, v.blocks, v.state, static_cast<int>(v.dim)),
        queries(all_queries),
        room(floats) {}

  __device__ void score(int run, loaded& x, float const (&back)[lane_heads],
                        float const (&query_sum)[lane_heads], float (&to)[lane_heads][4]) {
    walk::score(run, x, back, query_sum, to);
    if constexpr (run_corrections<Key>::exist) {
      correct_scores(run);
      unrolled<lane_heads>([&](int i) {
        unrolled<4>([&](int j) {
          to[i][j] += room[(this->token() + walk::token_step(j)) * Heads + head(i)];
        });
      });
      __syncwarp();
    }
  }
  __device__ void add(int run, int next, loaded& x, float const (&w)[lane_heads][4],
                      float (&o)[8][4], float (&base)[lane_heads][groups]) {
    walk::add(run, next, x, w, o, base);
    if constexpr (run_corrections<Value>::exist) add_missed(run, w, o);
  }

 private:
  static __device__ int lane() { return static_cast<int>(threadIdx.x) % warp_threads; }
  [[nodiscard]] __device__ int head(int i) const { return this->t * lane_heads + i; }

  __device__ void add_missed(int run, float const (&w)[lane_heads][4], float (&o)[8][4]) {
    float* const weights = room + slice_channels * Heads;
    unrolled<lane_heads>([&](int i) {
      unrolled<4>([&](int j) {
        weights[(this->token() + walk::token_step(j)) * Heads + head(i)] = w[i][j];
      });
    });
    __syncwarp();
    correct_sums(run, weights);
    int const units = this->share.units();
    unrolled<4>([&](int u) {
      if (u >= units) return;
      unrolled<2>([&](int m) {
        unrolled<2>([&](int half) {
          float const by = power_of_two(walk::vf::shift(m, half) - 24);
          unrolled<lane_heads>([&](int i) {
            o[2 * u + m][2 * half + i] +=
                room[(u * 32 + this->channel(m, half)) * Heads + head(i)] * by;
          });
        });
      });
    });
    __syncwarp();
  }

  /// Calls f() in every lane that has something for `place`, no two at once for one place.
  template <class F>
  static __device__ void in_turn(bool has, int place, F const& f) {
    constexpr unsigned all = 0xffffffffu;
    unsigned const same = __match_any_sync(all, has ? place : -1 - lane());
    int const turn = __popc(same & ((1u << lane()) - 1));
    for (int i = 0; __any_sync(all, has && turn >= i); ++i) {
      if (has && turn == i) f();
      __syncwarp();
    }
  }
  static __device__ void add_to(float* sums, float const* from, float by) {
    unrolled<Heads>([&](int h) { sums[h] += from[h] * by; });
  }

  /// room[32 tokens, Heads]: what a run's scores lack.
  __device__ void correct_scores(int run) {
    auto const at = of_keys.at(run);
    auto const low_rank = of_keys.factors_of(run, at);
    float* const with_directions = room + (slice_channels + 32) * Heads;
    if (low_rank.directions != last) {
      last = low_rank.directions;
      for (int r = 0; r < low_rank.rank; ++r) {
        float sum[Heads] = {};
        for (int d = lane(); d < of_keys.dim; d += warp_threads)
          add_to(sum, queries + d * Heads, widen(last[r * of_keys.dim + d]));
        unrolled<Heads>([&](int h) {
          float const all = over_warp(sum[h], [](float a, float b) { return a + b; });
          if (lane() == 0) with_directions[r * Heads + h] = all;
        });
      }
      __syncwarp();
    }
    float mine[Heads] = {};
    for (int r = 0; r < low_rank.rank; ++r)
      add_to(mine, with_directions + r * Heads,
             widen(low_rank.coefficients[lane() * low_rank.rank + r]));
    unrolled<Heads>([&](int h) { room[lane() * Heads + h] = mine[h]; });
    __syncwarp();
    if constexpr (run_corrections<Key>::asides) {
      auto const codes = this->keys.at(run);
      auto const parts = key_run<walk::keys_type::bits>(of_keys.dim);
      for (int first = 0; first < of_keys.dim; first += warp_threads) {
        int const d = first + lane(), line = d * of_keys.of_line;
        for (int i = 0; i < of_keys.of_line; ++i) {
          int const token = d < of_keys.dim ? of_keys.aside_place(at.block, line + i) : -1;
          bool const here = token >= 0 && token / 32 == at.run;
          float missed = 0.0f;
          if (here) {
            auto const code = static_cast<float>(parts.get(codes.codes, token % 32, d));
            missed = of_keys.aside_value(at.block, line + i) -
                     (code * low_half(read_only<std::uint16_t>(codes.scale + 2 * d)) +
                      low_half(read_only<std::uint16_t>(codes.scale + 2 * (of_keys.dim + d))));
          }
          in_turn(here, token % 32,
                  [&] { add_to(room + token % 32 * Heads, queries + d * Heads, missed); });
        }
      }
    }
  }
  /// room[slice_channels, Heads]: what a run's weighted sums lack.
  __device__ void correct_sums(int run, float const* weights) {
    auto const at = of_values.at(run);
    auto const low_rank = of_values.factors_of(run, at);
    float* const along = room + (slice_channels + 32 + most_rank) * Heads;
    for (int i = lane(); i < low_rank.rank * Heads; i += warp_threads) {
      int const r = i / Heads, h = i % Heads;
      float sum = 0.0f;
      for (int token = 0; token < 32; ++token)
        sum += weights[token * Heads + h] * widen(low_rank.coefficients[token * low_rank.rank + r]);
      along[i] = sum;
    }
    __syncwarp();
    for (int d = lane(); d < slice_channels; d += warp_threads) {
      float sum[Heads] = {};
      for (int r = 0; r < low_rank.rank && d < of_values.dim; ++r)
        add_to(sum, along + r * Heads, widen(low_rank.directions[r * of_values.dim + d]));
      unrolled<Heads>([&](int h) { room[d * Heads + h] = sum[h]; });
    }
    __syncwarp();
    if constexpr (run_corrections<Value>::asides) {
      auto const& coded = this->values;
      int const line = (at.run * 32 + lane()) * of_values.of_line;
      std::uint8_t const* const codes =
          coded.run(run) + static_cast<std::uint32_t>(lane() / 4) * coded.block_bytes;
      std::uint8_t const* const scales = coded.run(run) + coded.scale(lane());
      auto const parts = bit_parts<false, walk::values_type::bits>{of_values.dim, 4};
      for (int i = 0; i < of_values.of_line; ++i) {
        int const d = of_values.aside_place(at.block, line + i);
        auto const code = static_cast<float>(parts.get(codes, lane() % 4, d));
        std::uint32_t const group = static_cast<std::uint32_t>(d) / 32 / coded.units_of_group;
        float const missed =
            of_values.aside_value(at.block, line + i) -
            (code * low_half(read_only<std::uint16_t>(scales + 2 * group)) +
             low_half(read_only<std::uint16_t>(scales + 2 * group + 8 * coded.groups)));
        in_turn(true, d, [&] { add_to(room + d * Heads, weights + lane() * Heads, missed); });
      }
    }
  }
};

template <class Key, class Value>
inline constexpr bool corrects_runs = run_corrections<Key>::exist || run_corrections<Value>::exist;

template <class Key, class Value, int Heads>
using walk_of = std::conditional_t<corrects_runs<Key, Value>, corrected_walk<Key, Value, Heads>,
                                   run_walk<Key, Value, Heads>>;

/// Floats of shared memory that the warps of a block need beside what other walks do, for each
/// head.
template <class Key, class Value>
[[nodiscard]] consteval index_t walk_room() {
  if constexpr (corrects_runs<Key, Value>)
    return attend_warps * corrected_walk<Key, Value, run_piece>::room_floats / run_piece;
  else
    return 0;
}

KVSLIM_END_CUDA_NAMESPACE
