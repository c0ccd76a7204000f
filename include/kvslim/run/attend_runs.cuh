// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Attention over whole runs of 32 stored tokens by matrix units, for codecs whose units are
// fragments as they lie. What it leaves is what attend_block has summed up when it comes to the
// slots that are no whole run.

#include <kvslim/ops/exp.hpp>
#include <kvslim/run/attend_cut.cuh>
#include <kvslim/run/byte_walk.cuh>
#include <kvslim/run/corrected_walk.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

inline constexpr int stretch_runs = 32;      // until sums move on to shared memory
inline constexpr float no_logit = -3.0e38f;  // below every logit, and finite
inline constexpr int largest_query = 100;    // exponent; rows of larger ones go without

/// The exponent of x > 0 that is a normal float; -127 for smaller ones, 128 for no number.
[[nodiscard]] __device__ inline int exponent_of(float x) {
  return static_cast<int>(bit_cast<std::uint32_t>(x) >> 23 & 255u) - 127;
}
/// e^x for x <= 0, to the 22 bits or so that hi_lo keeps of it, times a power of two.
[[nodiscard]] __device__ inline float weight_of(float x, float exponent = 0.0f) {
  return exp2_fast(x * 1.44269504f + exponent);
}

/// Channels of K, and of V, as their blocks have them.
template <class Layout>
[[nodiscard]] KVSLIM_HD constexpr index_t run_key_dim(Layout const& layout) noexcept {
  index_t const own = layout.key_own_dim();
  return own > 0 ? own : layout.extent.head_dim;
}
template <class Layout>
[[nodiscard]] KVSLIM_HD constexpr index_t run_value_dim(Layout const& layout) noexcept {
  index_t const own = layout.value_own_dim();
  return own > 0 ? own : layout.extent.value_width();
}

/// Shared memory of a block: queries [head_dim, heads], positions that heads see, run_floats, and
/// [threads, heads] for warps to meet in.
struct run_memory {
  float const* q;
  std::int32_t const *limit, *earliest;
  float *own, *met;
};

/// Adds up what the warps of a block have of one run's scores, each of its part of K. Every thread
/// calls, and gets the same sums.
template <int Heads>
__device__ void add_parts(float* met, float (&score)[Heads][4]) {
  float* const mine = met + threadIdx.x;
  unrolled<Heads>([&](int i) {
    unrolled<4>([&](int j) { mine[(i * 4 + j) * attend_threads] = score[i][j]; });
  });
  __syncthreads();
  float const* const lane = met + threadIdx.x % warp_threads;
  unrolled<Heads>([&](int i) {
    unrolled<4>([&](int j) {
      float sum = 0.0f;
      for (int w = 0; w < attend_warps; ++w)
        sum += lane[(i * 4 + j) * attend_threads + w * warp_threads];
      score[i][j] = sum;
    });
  });
  __syncthreads();
}

/// Queries as run_walk reads them, behind them their powers of two and sums. False where a query is
/// too large to be scaled. Every thread calls; what was written may be read afterwards.
template <class Walk, int Heads>
[[nodiscard]] __device__ bool prepare_run_queries(run_memory const& memory, int dim) {
  using keys = typename Walk::keys_type;
  int const padded = (dim + 31) & ~31;
  int const thread = static_cast<int>(threadIdx.x), lane = thread % warp_threads;
  float* const back = memory.own + Walk::query_words * Heads * padded;
  float* const sums = back + Heads;
  bool large = false;
  for (int head = thread / warp_threads; head < Heads; head += attend_warps) {
    float most = 0.0f, sum = 0.0f;
    for (int d = lane; d < dim; d += warp_threads) {
      float const x = memory.q[d * Heads + head];
      most = fmaxf(most, fabsf(x));
      sum += x;
    }
    most = over_warp(most, [](float a, float b) { return fmaxf(a, b); });
    sum = over_warp(sum, [](float a, float b) { return a + b; });
    int const exponent = static_cast<int>(max(exponent_of(most), -largest_query));
    if (lane == 0) {
      back[head] = power_of_two(exponent + 1 - keys::query_exponent);
      sums[head] = sum;
    }
    large = large || exponent > largest_query || !(sum - sum == 0.0f);
  }
  if (__syncthreads_or(large) != 0) return false;
  auto const scaled = [&](int d, int h) {
    return d < dim ? memory.q[d * Heads + h] / back[h] : 0.0f;
  };
  if constexpr (keys::by_channel) {
    for (int i = thread; i < padded * Heads; i += attend_threads)
      memory.own[i] = scaled(i / (4 * Heads) * 4 + i % 4, i / 4 % Heads);
  } else {
    // Two words for each product of a step of 16 channels, lane by lane.
    using element = typename keys::element_type;
    constexpr int products = Walk::products;
    auto* const words = reinterpret_cast<std::uint32_t*>(memory.own);
    for (int i = thread; i < padded * 4 * products; i += attend_threads) {
      int const r = i % 2, n = i / 2 % products, t = i / (2 * products) % 4,
                column = i / (8 * products) % 8, step = i / (64 * products);
      int const head = column * Heads / 8, part = Walk::wide ? n : 2 * n + column % 2;
      auto const at = [&](int half) {
        return part_of_float<element>(scaled(step * 16 + keys::query_channel(t, r, half), head),
                                      part);
      };
      words[i] = low_halves(at(0), at(1));
    }
  }
  __syncthreads();
  return true;
}

/// What request and row ask of scores beyond products, in shared memory: few runs ask for any.
struct score_rules {
  row_block block;  // kept here, so that registers are free
  float const* biases;
  std::int32_t const* positions;
  float* logits[most_run_piece];  // of a head
  float* met;                     // [threads, heads]: where warps meet
  std::int32_t first_position;
  int whole;  // slots of whole runs
  float soft_cap;
  index_t logits_stride;
  bool any;  // of every run: not only of what spans cut
};
inline constexpr index_t score_rule_floats = sizeof(score_rules) / sizeof(float);

/// Floats of shared memory: queries as B fragments or, of four channels, as they are, query_words
/// for each of [head_dim, heads]; what every head's scores are multiplied by, and its sum; every
/// warp's sums, [warps, heads, slice_channels]; its largest logit and total, [warps, 3, heads];
/// three floats of every thread and head of it; score_rules; and the room of walks that correct.
template <class Key, class Value>
[[nodiscard]] KVSLIM_HD constexpr index_t run_floats(index_t head_dim, index_t heads) noexcept {
  return heads * (run_walk<fragments_of<Key>, fragments_of<Value>, run_piece>::query_words *
                      round_up(head_dim, 32) +
                  2 + attend_warps * (slice_channels + 3) +
                  walk_room<fragments_of<Key>, fragments_of<Value>>()) +
         3 * heads / run_piece * attend_threads + score_rule_floats;
}

template <class Packed>
__device__ void load_rules(Packed const& packed, attend_request<cuda_space> const& a,
                           attend_cut const& x, row_block const& at, int whole, score_rules& to) {
  to.whole = whole;
  to.block = at;
  run_positions const positions = packed.positions(at.r);
  to.biases = packed.biases(at.r);
  to.positions = positions.list;
  to.first_position = positions.first;
  to.soft_cap = packed.layout().logit.soft_cap;
  to.logits_stride = a.logits_stride;
  to.any = to.soft_cap > 0.0f || to.biases != nullptr || a.logits != nullptr || at.masked;
  for (int h = 0; h < most_run_piece; ++h)
    to.logits[h] =
        a.logits == nullptr || h >= at.heads
            ? nullptr
            : a.logits + query_place(x, at.kv_head, at.first + h).row(a, at.s) * a.logits_stride;
}

/// A soft cap, biases, masks, and a copy of one head's scores of one run, of which the slots of
/// span n count.
template <class Walk>
__device__ void finish_scores(Walk const& walk, score_rules const& rules, int n, int run, int head,
                              std::int32_t limit, std::int32_t earliest, float (&score)[4]) {
  auto const [from, to] = rules.block.visible[n];
  float* const logits = walk.share.slice() == 0 ? rules.logits[head] : nullptr;
  int const first = run * 32 + walk.token();
#if defined(__CUDACC__)
#pragma unroll 1  // few runs come here, and registers are scarce
#endif
  for (int j = 0; j < 4; ++j) {
    int const slot = first + Walk::token_step(j);
    float y = soft_capped(rules.soft_cap, score[0]);
    if (rules.biases != nullptr) y += rules.biases[slot];
    if (rules.block.masked) {
      std::int32_t const position =
          rules.positions != nullptr ? rules.positions[slot] : rules.first_position + slot;
      if (position == empty_slot || position > limit || position < earliest) y = -INFINITY;
    }
    bool const inside = slot >= from && slot < to;
    if (logits != nullptr && inside && slot < rules.logits_stride) logits[slot] = y;
    score[0] = score[1];
    score[1] = score[2];
    score[2] = score[3];
    score[3] = inside ? y : -INFINITY;
  }
}

/// The runs of K of a row; they are told its state if they ask for it.
template <class Runs, class Codec, class Half>
[[nodiscard]] __device__ Runs runs_of(Codec const& codec, Half const& half, int dim) {
  if constexpr (std::is_constructible_v<Runs, Codec const&, std::byte const*, int,
                                        std::byte const*>)
    return {codec, half.blocks, dim, half.state};
  else
    return {codec, half.blocks, dim};
}

/// Attends to the runs that lie whole in both codecs' blocks, and leaves every head's largest
/// logit, its total (in the first thread) and its sums as attend_block has them. Returns the slots
/// that this covers. Every thread calls.
template <class Packed, int Heads>
__device__ int attend_runs(Packed const& packed, attend_request<cuda_space> const& a,
                           attend_cut const& x, run_memory const& memory, row_block& at,
                           float (&most_of)[Heads], float (&total_of)[Heads],
                           float (&total_lost_of)[Heads], float* sums, float* lost) {
  using key = typename Packed::key_codec_type;
  using value = typename Packed::value_codec_type;
  using codes_walk = run_walk<fragments_of<key>, fragments_of<value>, Heads>;
  using walk_type = walk_of<fragments_of<key>, fragments_of<value>, Heads>;
  constexpr int mine = walk_type::lane_heads;
  auto const& layout = packed.layout();
  int const dim = static_cast<int>(run_key_dim(layout)),
            width = static_cast<int>(run_value_dim(layout)), thread = static_cast<int>(threadIdx.x),
            lane = thread % warp_threads, warp = thread / warp_threads,
            head = lane % 4 * mine;  // the first one of a lane
  auto const& row = packed.raw_row(at.r);
  int const coded = min_int(row.key_coded, row.value_coded) / 32 * 32;
  if (coded <= at.visible.place->begin) return 0;
  float* const back = memory.own + walk_type::query_words * Heads * ((dim + 31) & ~31);
  float* const warp_sums = back + 2 * Heads;
  float* const states = warp_sums + attend_warps * Heads * slice_channels;
  for (int i = thread; i < attend_warps * Heads * slice_channels; i += attend_threads)
    warp_sums[i] = 0.0f;
  float* const kept = states + attend_warps * 3 * Heads + thread;
  auto& rules = *reinterpret_cast<score_rules*>(states + attend_warps * 3 * Heads +
                                                3 * mine * attend_threads);
  if (thread == 0) {
    load_rules(packed, a, x, at, coded, rules);
    rules.met = memory.met;
  }
  if (!prepare_run_queries<walk_type, Heads>(memory, dim)) return 0;

  codes_walk const codes(
      runs_of<typename walk_type::keys_type>(fragment_codec<key>::of(layout.key), packed.keys(at.r),
                                             dim),
      {fragment_codec<value>::of(layout.value), packed.values(at.r).blocks, width}, memory.own,
      typename walk_type::share_type(dim, width, warp, walk_type::part_channels),
      a.precision == attend_precision::fast);
  auto walk = [&] {
    if constexpr (corrects_runs<key, value>)
      return walk_type(codes, packed.keys(at.r), packed.values(at.r), memory.q,
                       reinterpret_cast<float*>(&rules + 1) + warp * walk_type::room_floats);
    else
      return codes;
  }();
  float back_mine[mine], query_sum[mine];
  unrolled<mine>([&](int i) {
    back_mine[i] = back[head + i];
    query_sum[i] = walk.share.first_channel(1) == 0 ? back[Heads + head + i] : 0.0f;  // once
  });
  float* const my_sums = warp_sums + (warp * Heads + head) * slice_channels;

  // Of each head of a lane: the largest logit; in shared memory (`kept`) that which the sums there
  // are relative to, and the total. No scale of V that was met is above scale_limit: weights times
  // 2^15 over that are f16 when they meet the scales.
  auto const folded = [&](int i) -> float& { return kept[3 * i * attend_threads]; };
  auto const total = [&](int i) -> float& { return kept[(3 * i + 1) * attend_threads]; };
  auto const total_lost = [&](int i) -> float& { return kept[(3 * i + 2) * attend_threads]; };
  float most[mine];
  unrolled<mine>([&](int i) {
    most[i] = folded(i) = no_logit;
    total(i) = total_lost(i) = 0.0f;
  });
  float scale_limit = walk_type::first_scale;
  typename walk_type::loaded held = {};
  for (int n = 0; n < rules.block.visible.count(); ++n) {
    auto const span = rules.block.visible[n];
    int const from = span.from, to = min_int(span.to, rules.whole);
    int const last = (to + 31) / 32;
    int run = from / 32 + warp * walk.share.stride() / attend_warps;
    if (from >= to || run >= last) continue;
    bool const odd = rules.any || from % 32 != 0 || to % 32 != 0;
    walk.begin(run, held);
    while (run < last) {
      float o[8][4] = {}, base[mine][walk_type::groups] = {}, part[mine] = {};
      for (int const stop = min_int(last, run + stretch_runs * walk.share.stride()); run < stop;) {
        float score[mine][4];
        walk.score(run, held, back_mine, query_sum, score);
        if (walk.share.splits_keys()) add_parts(rules.met, score);
        int const next = run + walk.share.stride() < last ? run + walk.share.stride() : run;
        walk.load_next(run, next, held);
        if (odd)
          unrolled<mine>([&](int i) {
            finish_scores(walk, rules, n, run, head + i, memory.limit[head + i],
                          memory.earliest[head + i], score[i]);
          });
        float high[mine];
        bool higher = false;
        unrolled<mine>([&](int i) {
          high[i] = fmaxf(fmaxf(score[i][0], score[i][1]), fmaxf(score[i][2], score[i][3]));
          high[i] = over_rows(high[i], [](float one, float other) { return fmaxf(one, other); });
          higher = higher || high[i] > most[i];
        });
        float const largest = walk.largest_scale(held);
        if (__any_sync(0xffffffffu, higher || largest > scale_limit)) {
          float const scale =
              over_rows(largest, [](float one, float other) { return fmaxf(one, other); });
          float by = 1.0f;
          if (scale > scale_limit) {
            float const limit = power_of_two(exponent_of(scale) + 4);
            by = scale_limit / limit;
            scale_limit = limit;
          }
          float shrink[mine];
          unrolled<mine>([&](int i) {
            high[i] = fmaxf(high[i], most[i]);
            shrink[i] = weight_of(most[i] - high[i]) * by;
            most[i] = high[i];
            part[i] *= shrink[i];
            for (float& y : base[i]) y *= shrink[i];
          });
          for (auto& tile : o)
            unrolled<4>([&](int k) { tile[k] *= shrink[mine == 1 ? 0 : k % 2]; });
        }
        auto const exponent =
            static_cast<float>(walk_type::weight_exponent - exponent_of(scale_limit));
        float w[mine][4];
        unrolled<4>([&](int j) {
          unrolled<mine>([&](int i) {
            w[i][j] = weight_of(score[i][j] - most[i], exponent);
            part[i] += w[i][j];
          });
        });
        walk.add(run, next, held, w, o, base);
        run += walk.share.stride();
      }
      float const unit = scale_limit * power_of_two(-walk_type::weight_exponent);
      unrolled<mine>([&](int i) {
        float const shrink = weight_of(folded(i) - most[i]);
        folded(i) = most[i];
        add_exactly(total(i), total_lost(i), shrink, part[i] * unit);
        for (float& y : base[i])
          y = over_rows(y, [](float one, float other) { return one + other; });
        unrolled<8>([&](int tile) {
          int const u = tile / 2, m = tile % 2;
          if (u >= walk.share.units()) return;
          unrolled<2>([&](int half) {
            float& sum = my_sums[i * slice_channels + u * 32 + walk.channel(m, half)];
            sum = sum * shrink + unit * walk.sum_of(o, base[i], u, m, half, i);
          });
        });
      });
    }
  }
  unrolled<mine>([&](int i) {
    double const sum = over_rows(static_cast<double>(total(i)) + static_cast<double>(total_lost(i)),
                                 [](double one, double other) { return one + other; });
    if (lane < 4) {
      float* const state = states + warp * 3 * Heads + lane * mine + i;
      state[0] = most[i];
      state[Heads] = static_cast<float>(sum);
      state[2 * Heads] = static_cast<float>(sum - static_cast<double>(state[Heads]));
    }
  });
  __syncthreads();

  int const parts = value_parts(width), slices = attend_warps / walk.share.stride();
  unrolled<Heads>([&](int h) {
    float high = no_logit;
    for (int w = 0; w < attend_warps; ++w) high = fmaxf(high, states[w * 3 * Heads + h]);
    if (high > no_logit) most_of[h] = high;
    for (int w = 0; w < attend_warps; ++w) {
      float const* const state = states + w * 3 * Heads + h;
      float const shrink = ops::exp_nonpositive(state[0] - high);
      if (thread == 0 && w % slices == 0) {
        add_exactly(total_of[h], total_lost_of[h], 1.0f, state[Heads] * shrink);
        total_lost_of[h] += state[2 * Heads] * shrink;
      }
      for (int d = thread; d < slice_channels; d += attend_threads) {
        int const channel = w % slices * slice_channels + d, to = h * parts * width + channel;
        if (channel < width)
          add_exactly(sums[to], lost[to], 1.0f,
                      warp_sums[(w * Heads + h) * slice_channels + d] * shrink);
      }
    }
  });
  __syncthreads();
  at = rules.block;
  return rules.whole;
}

KVSLIM_END_CUDA_NAMESPACE
