// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Attention over whole runs of 32 stored tokens by matrix units, for codecs whose units are
// fragments as they lie. What it leaves is what attend_block has summed up when it comes to the
// slots that are no whole run.

#include <kvslim/ops/exp.hpp>
#include <kvslim/run/attend_cut.cuh>
#include <kvslim/run/run_walk.cuh>

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

/// Shared memory of a block: queries [head_dim, 4], positions that heads see, and run_floats.
struct run_memory {
  float const* q;
  std::int32_t const *limit, *earliest;
  float* own;
};

/// Queries as run_walk reads them, behind them their powers of two and sums. False where a query is
/// too large to be scaled. Every thread calls; what was written may be read afterwards.
template <class Keys>
[[nodiscard]] __device__ bool prepare_run_queries(run_memory const& memory, int dim) {
  int const thread = static_cast<int>(threadIdx.x), lane = thread % warp_threads,
            head = thread / warp_threads;
  static_assert(attend_warps == run_piece);
  float* const back = memory.own + run_piece * ((dim + 31) & ~31);
  float* const sums = back + run_piece;
  float most = 0.0f, sum = 0.0f;
  for (int d = lane; d < dim; d += warp_threads) {
    float const x = memory.q[d * run_piece + head];
    most = fmaxf(most, fabsf(x));
    sum += x;
  }
  most = over_warp(most, [](float a, float b) { return fmaxf(a, b); });
  sum = over_warp(sum, [](float a, float b) { return a + b; });
  int const exponent = static_cast<int>(max(exponent_of(most), -largest_query));
  if (lane == 0) {
    back[head] = power_of_two(exponent + 1 - Keys::query_exponent);
    sums[head] = sum;
  }
  bool const large = __syncthreads_or(exponent > largest_query || !(sum - sum == 0.0f)) != 0;
  if (large) return false;
  auto const scaled = [&](int d, int h) {
    return d < dim ? memory.q[d * run_piece + h] / back[h] : 0.0f;
  };
  if constexpr (Keys::by_channel) {
    for (int i = thread; i < ((dim + 31) & ~31) * run_piece; i += attend_threads)
      memory.own[i] = scaled(i / 16 * 4 + i % 4, i / 4 % 4);
  } else {
    auto* const words = reinterpret_cast<std::uint32_t*>(memory.own);
    for (int i = thread; i < ((dim + 31) & ~31) * run_piece; i += attend_threads) {
      int const step = i / 64, g = i / 8 % 8, t = i / 2 % 4, d = step * 16 + t * 4 + i % 2;
      std::uint32_t const a = hi_lo(scaled(d, g / 2)), b = hi_lo(scaled(d + 2, g / 2));
      words[i] = g % 2 == 0 ? (a & 0xffffu) | b << 16 : a >> 16 | (b & 0xffff0000u);
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
  float* logits[run_piece];  // of a head
  std::int32_t first_position;
  int whole;  // slots of whole runs
  float soft_cap;
  index_t logits_stride;
};
inline constexpr index_t score_rule_floats = sizeof(score_rules) / sizeof(float);

/// Floats of shared memory: queries as B fragments or, of four channels, as they are
/// [head_dim, 4]; what every head's scores are multiplied by, and its sum; every warp's sums and
/// what they lost, [warps, 2, 4, slice_channels]; its largest logit and total, [warps, 3, 4];
/// three floats of every thread; and score_rules.
[[nodiscard]] KVSLIM_HD constexpr index_t run_floats(index_t head_dim) noexcept {
  return run_piece * (round_up(head_dim, 32) + 2 + attend_warps * (2 * slice_channels + 3)) +
         3 * attend_threads + score_rule_floats;
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
  for (int h = 0; h < run_piece; ++h)
    to.logits[h] =
        a.logits == nullptr || h >= at.heads
            ? nullptr
            : a.logits + query_place(x, at.kv_head, at.first + h).row(a, at.s) * a.logits_stride;
}

/// A soft cap, biases, masks, and a copy of the scores of one run, of which the slots of span n
/// count.
template <class Walk>
__device__ void finish_scores(Walk const& walk, score_rules const& rules, int n, int run,
                              std::int32_t limit, std::int32_t earliest, float (&score)[4]) {
  auto const [from, to] = rules.block.visible[n];
  float* const logits = walk.first_unit == 0 ? rules.logits[walk.t] : nullptr;
  int const first = run * 32 + Walk::kf::token(walk.g);
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

/// Attends to the runs that lie whole in both codecs' blocks, and leaves every head's largest
/// logit, its total (in the first thread) and its sums as attend_block has them. Returns the slots
/// that this covers. Every thread calls.
template <class Packed, int Heads>
__device__ index_t attend_runs(Packed const& packed, attend_request<cuda_space> const& a,
                               attend_cut const& x, run_memory const& memory, row_block& at,
                               float (&most_of)[Heads], float (&total_of)[Heads],
                               float (&total_lost_of)[Heads], float* sums, float* lost) {
  using walk_type = run_walk<typename Packed::key_codec_type, typename Packed::value_codec_type>;
  using keys_type = typename walk_type::keys_type;
  using kf = typename walk_type::kf;
  using vf = typename walk_type::vf;
  auto const& e = packed.extents();
  int const dim = static_cast<int>(e.head_dim), width = static_cast<int>(e.value_width()),
            thread = static_cast<int>(threadIdx.x), lane = thread % warp_threads,
            warp = thread / warp_threads, t = lane % 4;
  auto const& row = packed.raw_row(at.r);
  int const coded = static_cast<int>(min(row.key_coded, row.value_coded) / 32 * 32);
  if (coded <= at.visible.begin) return 0;
  float* const back = memory.own + run_piece * ((dim + 31) & ~31);
  float* const warp_sums = back + 2 * run_piece;
  float* const states = warp_sums + attend_warps * 2 * run_piece * slice_channels;
  for (int i = thread; i < attend_warps * 2 * run_piece * slice_channels; i += attend_threads)
    warp_sums[i] = 0.0f;
  float* const kept = states + attend_warps * 3 * run_piece + thread;
  auto& rules =
      *reinterpret_cast<score_rules*>(states + attend_warps * 3 * run_piece + 3 * attend_threads);
  if (thread == 0) load_rules(packed, a, x, at, coded, rules);
  if (!prepare_run_queries<keys_type>(memory, dim)) return 0;

  int const pairs = width > slice_channels ? 1 : 0, stride = attend_warps >> pairs;
  walk_type const walk({packed.layout().key, packed.keys(at.r).blocks, dim},
                       {packed.layout().value, packed.values(at.r).blocks, width}, memory.own, dim,
                       (width + 31) / 32, (warp & pairs) * (slice_channels / 32));
  bool const plain =
      rules.soft_cap <= 0.0f && rules.biases == nullptr && a.logits == nullptr && !at.masked;
  float const back_mine = back[t], query_sum = back[run_piece + t];
  float* const mine = warp_sums + warp * 2 * run_piece * slice_channels + t * slice_channels;

  // Of head t: the largest logit; in shared memory (`kept`) that which the sums there are relative
  // to, and the total. No scale of V that was met is above scale_limit: weights times 2^15 over
  // that are f16 when they meet the scales.
  float &folded = kept[0], &total = kept[attend_threads], &total_lost = kept[2 * attend_threads];
  folded = no_logit;
  total = total_lost = 0.0f;
  float most = no_logit;
  float scale_limit = power_of_two(-60);
  typename walk_type::loaded held = {};
  for (int n = 0; n < rules.block.visible.count(); ++n) {
    auto const span = rules.block.visible[n];
    int const from = static_cast<int>(span.from), to = static_cast<int>(min(span.to, rules.whole));
    int const last = (to + 31) / 32;
    int run = from / 32 + (warp >> pairs);
    if (from >= to || run >= last) continue;
    bool const odd = !plain || from % 32 != 0 || to % 32 != 0;
    walk.load_keys(run, 0, held);
    walk.load_values(run, held);
    if constexpr (!keys_type::by_channel) walk.load_value_parameters(run, held);
    while (run < last) {
      float o[8][4] = {}, base[walk_type::groups] = {}, part = 0.0f;
      for (int left = stretch_runs; left > 0 && run < last; --left) {
        float c[2][4] = {}, low_sum = 0.0f, score[4];
        walk.dot(run, held, c, low_sum);
        unrolled<4>([&](int j) {
          int const m = walk_type::tile(j), half = walk_type::half(j);
          float const sum = c[m][2 * half] + c[m][2 * half + 1],
                      by = power_of_two(24 - kf::shift(m, half));
          if constexpr (keys_type::by_channel)
            score[j] = (sum * by + low_sum) * back_mine;
          else
            score[j] = sum * (walk_type::of_pair(held.scale[j / 2][0], j % 2) * (back_mine * by)) +
                       query_sum * walk_type::of_pair(held.low[j / 2], j % 2);
        });
        int const next = run + stride < last ? run + stride : run;
        walk.load_keys(next, 0, held);
        if constexpr (keys_type::by_channel) walk.load_value_parameters(run, held);
        if (odd) finish_scores(walk, rules, n, run, memory.limit[t], memory.earliest[t], score);
        float high = fmaxf(fmaxf(score[0], score[1]), fmaxf(score[2], score[3]));
        high = over_rows(high, [](float one, float other) { return fmaxf(one, other); });
        float const largest = walk.largest_scale(held);
        if (__any_sync(0xffffffffu, high > most || largest > scale_limit)) {
          high = fmaxf(high, most);
          float const shrink = weight_of(most - high);
          most = high;
          float const scale =
              over_rows(largest, [](float one, float other) { return fmaxf(one, other); });
          float by = shrink;
          if (scale > scale_limit) {
            float const limit = power_of_two(exponent_of(scale) + 4);
            by *= scale_limit / limit;
            scale_limit = limit;
          }
          part *= by;
          for (float& y : base) y *= by;
          for (auto& tile : o)
            for (float& y : tile) y *= by;
        }
        auto const exponent = static_cast<float>(15 - exponent_of(scale_limit));
        float w[4];
        unrolled<4>([&](int j) {
          w[j] = weight_of(score[j] - most, exponent);
          part += w[j];
        });
        walk.add(held, w, o, base);
        walk.load_values(next, held);
        if constexpr (!keys_type::by_channel) walk.load_value_parameters(next, held);
        run += stride;
      }
      float const shrink = weight_of(folded - most), unit = scale_limit * 0x1p-15f;
      folded = most;
      add_exactly(total, total_lost, shrink, part * unit);
      for (float& y : base) y = over_rows(y, [](float one, float other) { return one + other; });
      unrolled<8>([&](int tile) {
        int const u = tile / 2, m = tile % 2;
        if (walk.first_unit + u >= walk.units) return;
        unrolled<2>([&](int half) {
          float* const place = mine + u * 32 + vf::channel(m, half, walk.g);
          float const sum = o[tile][2 * half] + o[tile][2 * half + 1];
          add_exactly(place[0], place[run_piece * slice_channels], shrink,
                      unit * (sum * power_of_two(24 - vf::shift(m, half)) +
                              base[walk_type::groups == 4 ? u : 0]));
        });
      });
    }
  }
  double const sum = over_rows(static_cast<double>(total) + static_cast<double>(total_lost),
                               [](double one, double other) { return one + other; });
  if (lane < run_piece) {
    float* const state = states + warp * 3 * run_piece + t;
    state[0] = most;
    state[run_piece] = static_cast<float>(sum);
    state[2 * run_piece] = static_cast<float>(sum - static_cast<double>(state[run_piece]));
  }
  __syncthreads();

  int const parts = value_parts(width);
  unrolled<Heads>([&](int h) {
    float high = no_logit;
    for (int w = 0; w < attend_warps; ++w) high = fmaxf(high, states[w * 3 * run_piece + h]);
    if (high > no_logit) most_of[h] = high;
    for (int w = 0; w < attend_warps; ++w) {
      float const* const state = states + w * 3 * run_piece + h;
      float const shrink = ops::exp_nonpositive(state[0] - high);
      if (thread == 0 && (w & pairs) == 0) {
        add_exactly(total_of[h], total_lost_of[h], 1.0f, state[run_piece] * shrink);
        total_lost_of[h] += state[2 * run_piece] * shrink;
      }
      for (int d = thread; d < slice_channels; d += attend_threads) {
        int const channel = (w & pairs) * slice_channels + d, to = h * parts * width + channel;
        float const* const from = warp_sums + (w * 2 * run_piece + h) * slice_channels + d;
        if (channel < width) {
          add_exactly(sums[to], lost[to], 1.0f, from[0] * shrink);
          lost[to] += from[run_piece * slice_channels] * shrink;
        }
      }
    }
  });
  __syncthreads();
  at = rules.block;
  return rules.whole;
}

KVSLIM_END_CUDA_NAMESPACE
