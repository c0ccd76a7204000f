// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Keys of 16 bits times the queries of a window, by matrix units. A warp holds 32 keys as they are
/// stored, in registers, and multiplies them by 16 queries after the other.
///
/// A of m16n8k16: rows are queries, as much of a float in the type of the keys as that holds
/// (matrix_unit.cuh, parts_of_float); B: columns are keys, rows are channels {0, 1, 2, 3} and then
/// {4, 5, 6, 7} of the eight (an octet) that a lane reads at once.

#include <kvslim/exec/matrix_unit.cuh>
#include <kvslim/ops/softmax_tile.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

template <class Key>
inline constexpr bool matrix_key = false;
template <>
inline constexpr bool matrix_key<channel_range<f16>> = true;
template <>
inline constexpr bool matrix_key<channel_range<bf16>> = true;

template <class Text>
using key_of_text = std::remove_cvref_t<decltype(std::declval<Text const&>().key(0, 0, 0))>;
/// Element type of the keys that a channel_range reads.
template <class Key>
using element_of_key = std::remove_cvref_t<decltype(*std::declval<Key const&>().first())>;

/// Window queries of the query heads [first_head, first_head + heads) of every KV head, as A: row
/// g * padded() + w is query w of head g, zero behind the window and behind the last head.
struct query_columns {
  rows<cuda_space> queries;
  index_t kv_heads, first_head, heads;
  float scale;
  float* memory;       // of row 0: what makes logits of products, [count]; then words
  index_t row_floats;  // from one row to the next

  [[nodiscard]] KVSLIM_HD static constexpr index_t padded(index_t window) {
    return round_up(window, 8);
  }
  /// Floats of one column.
  [[nodiscard]] KVSLIM_HD static constexpr index_t floats(index_t head_dim) {
    return 1 + round_up(head_dim, 32);
  }
  static constexpr index_t more_floats = 3;  ///< of a row: words begin at a multiple of 16 bytes

  [[nodiscard]] KVSLIM_HD index_t count() const {
    return round_up(heads * padded(queries.tokens), 16);
  }
  [[nodiscard]] __device__ float* factors(index_t r) const { return memory + r * row_floats; }
  /// Words of 16 queries after the other: a pair of steps (32 channels), its first step and its
  /// second, both halves of a float, a word for each lane; zero behind the last channel.
  [[nodiscard]] __device__ uint4* words(index_t r) const {
    auto const end = reinterpret_cast<std::uintptr_t>(factors(r) + count());
    return reinterpret_cast<uint4*>((end + 15) & ~std::uintptr_t{15});
  }
};

/// What a lane holds of A for one step and one of its two queries: four channels. The first two
/// words and the last two are read together.
template <element T>
__device__ void query_words(float const (&x)[4], std::uint32_t (&to)[4]) {
  if constexpr (std::is_same_v<T, bf16>) {
    for (int i = 0; i < 4; ++i) to[i] = bit_cast<std::uint32_t>(x[i]);
  } else {
    for (int i = 0; i < 4; ++i) to[i] = hi_lo(x[i]);
    std::uint32_t const first = to[0], second = to[1];
    to[0] = low_halves(first, second);
    to[1] = low_halves(to[2], to[3]);
    std::uint32_t const last = high_halves(to[2], to[3]);
    to[2] = high_halves(first, second);
    to[3] = last;
  }
}

/// Power of two below which queries must be, so that parts of them are f16; below those of bf16
/// products with the largest keys stay floats.
template <element T>
inline constexpr int query_limit = std::is_same_v<T, bf16> ? -8 : 15;

/// Fills columns: a warp each.
template <element T>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(tile_threads)
    query_columns_kernel(query_columns to, index_t rows) {
  auto const& q = to.queries;
  index_t const count = to.count(), padded = query_columns::padded(q.tokens), dim = q.head_dim,
                pairs = div_up(dim, 32), lane = threadIdx.x % warp_threads,
                warps = tile_threads / warp_threads;
  for (index_t item = blockIdx.x * warps + threadIdx.x / warp_threads; item < rows * count;
       item += gridDim.x * warps) {
    index_t const r = item / count, column = item % count, g = column / padded, w = column % padded,
                  head = r % to.kv_heads * (q.heads / to.kv_heads) + to.first_head + g;
    bool const given = g < to.heads && w < q.tokens;
    auto const read = [&](index_t d) {
      return given && d < dim ? q.at(r / to.kv_heads, head, w, d) : 0.0f;
    };
    float most = 0.0f;
    for (index_t d = lane; d < dim; d += warp_threads) most = fmaxf(most, fabsf(read(d)));
    most = over_warp(most, [](float a, float b) { return fmaxf(a, b); });
    // One more than the exponent, less what queries may have; of a normal float.
    int const by = static_cast<int>(bit_cast<std::uint32_t>(most) >> 23) - 126 - query_limit<T>,
              exponent = by < -126  ? -126
                         : by > 127 ? 127
                                    : by;
    float const back = bit_cast<float>(static_cast<std::uint32_t>(exponent + 127) << 23);
    if (lane == 0) to.factors(r)[column] = back * to.scale;
    uint4* const words = to.words(r) + column / 16 * pairs * 128;
    for (index_t i = lane; i < pairs * 8; i += warp_threads) {
      index_t const pair = i / 8, t = i / 2 % 4, step = i % 2;
      float x[4];
      std::uint32_t of[4];
      for (int c = 0; c < 4; ++c) x[c] = read(pair * 32 + t * 8 + step * 4 + c) / back;
      query_words<T>(x, of);
      for (int half = 0; half < 2; ++half) {
        index_t const at = pair * 128 + (step * 2 + half) * 32 + column % 8 * 4 + t;
        auto* const word = reinterpret_cast<std::uint32_t*>(words + at) + column / 8 % 2;
        word[0] = of[2 * half];
        word[2] = of[2 * half + 1];
      }
    }
  }
}

/// 32 keys of a row, those of tokens first + 8 j + g, j in [0, 4), in lanes 4 g + t; 128 channels
/// at a time.
template <class Text>
class key_tile {
 public:
  /// Tokens behind the last are it again.
  __device__ key_tile(Text const& text, index_t s, index_t h, index_t first, index_t tokens)
      : text_(text),
        s_(s),
        h_(h),
        first_(static_cast<int>(first)),
        last_(static_cast<int>(tokens) - 1),
        octets_(static_cast<int>((text.extents().head_dim + 7) / 8)) {}
  /// Products with 16 queries: c[j][2 * half + i] is that of query lane() / 4 + 8 half and token 8
  /// j
  /// + 2 t + i. Every lane calls.
  __device__ void multiply(uint4 const* words, float (&c)[4][4]) {
    for (int part = 0; part * 4 * pairs < octets_; ++part) {
      if (part != held_) load(part);
      if (part == 0) unrolled<4>([&](int j) { c[j][0] = c[j][1] = c[j][2] = c[j][3] = 0.0f; });
      add(words + part * pairs * 128, part, c);
    }
  }
  [[nodiscard]] static __device__ int lane() {
    return static_cast<int>(threadIdx.x) % warp_threads;
  }

 private:
  static constexpr int pairs = 4;  // of steps: 128 channels

  using element_type = element_of_key<key_of_text<Text>>;
  static constexpr bool is_bf16 = std::is_same_v<element_type, bf16>;

  __device__ void load(int part) {
    held_ = part;
    int const first = part * pairs * 4 + lane() % 4,
              dim = static_cast<int>(text_.extents().head_dim);
    element_type const* row[4];
    index_t stride = 1;
    bool whole = dim % 8 == 0;  // octets can be read at once
    unrolled<4>([&](int j) {
      auto const key = text_.key(s_, h_, min(first_ + 8 * j + lane() / 4, last_));
      row[j] = key.first();
      stride = key.stride();
      whole = whole && reinterpret_cast<std::uintptr_t>(row[j]) % 16 == 0;
    });
    if (__all_sync(0xffffffffu, whole && stride == 1) != 0)
      unrolled<pairs>([&](int p) {
        unrolled<4>([&](int j) {
          k_[p][j] = {0, 0, 0, 0};
          if (first + 4 * p < octets_) k_[p][j] = read_only<uint4>(row[j] + (first + 4 * p) * 8);
        });
      });
    else
      unrolled<pairs>([&](int p) {
        unrolled<4>([&](int j) { k_[p][j] = gathered(row[j], stride, (first + 4 * p) * 8, dim); });
      });
  }
  [[nodiscard]] static __device__ uint4 gathered(element_type const* from, index_t stride, int d,
                                                 int dim) {
    uint4 x{0, 0, 0, 0};
    auto const bits = [&](int at) { return at < dim ? std::uint32_t{from[at * stride].bits} : 0; };
#if defined(__CUDACC__)
#pragma unroll 1
#endif
    for (int end = d + 8; d < end; d += 2) x = {x.y, x.z, x.w, low_halves(bits(d), bits(d + 1))};
    return x;
  }
  __device__ void add(uint4 const* words, int part, float (&c)[4][4]) const {
    uint4 const* const mine = words + lane();
    auto const fetch = [&](int p, int step, uint4(&to)[2]) {
      unrolled<2>(
          [&](int half) { to[half] = read_only<uint4>(mine + p * 128 + step * 64 + half * 32); });
    };
    int const here = (octets_ + 3) / 4 - part * pairs;  // pairs
    uint4 first[2], second[2];
    fetch(0, 0, first);
    unrolled<pairs>([&](int p) {
      if (p >= here) return;
      if constexpr (!is_bf16) fetch(p, 1, second);
      multiply_step(p, 0, first, c);
      if constexpr (is_bf16) fetch(p, 1, second);  // there are no registers for both
      if (p + 1 < pairs && p + 1 < here) fetch(p + 1, 0, first);
      multiply_step(p, 1, second, c);
    });
  }
  __device__ void multiply_step(int p, int step, uint4 const (&q)[2], float (&c)[4][4]) const {
    if constexpr (is_bf16) {
      float x[8] = {bit_cast<float>(q[0].x), bit_cast<float>(q[0].z), bit_cast<float>(q[0].y),
                    bit_cast<float>(q[0].w), bit_cast<float>(q[1].x), bit_cast<float>(q[1].z),
                    bit_cast<float>(q[1].y), bit_cast<float>(q[1].w)};
      unrolled<parts_of_float<bf16>>([&](int) {
        std::uint32_t a[4];
        unrolled<4>([&](int i) {
          auto const one = bit_cast<std::uint32_t>(x[2 * i]),
                     other = bit_cast<std::uint32_t>(x[2 * i + 1]);
          a[i] = high_halves(one, other);
          x[2 * i] -= bit_cast<float>(one & 0xffff0000u);
          x[2 * i + 1] -= bit_cast<float>(other & 0xffff0000u);
        });
        multiply_keys(p, step, a, c);
      });
    } else {
      unrolled<2>([&](int half) {
        std::uint32_t const a[4] = {q[half].x, q[half].y, q[half].z, q[half].w};
        multiply_keys(p, step, a, c);
      });
    }
  }
  __device__ void multiply_keys(int p, int step, std::uint32_t const (&a)[4],
                                float (&c)[4][4]) const {
    unrolled<4>([&](int j) {
      uint4 const& k = k_[p][j];
      std::uint32_t const b0 = step == 0 ? k.x : k.z, b1 = step == 0 ? k.y : k.w;
      if constexpr (is_bf16)
        mma_bf16(c[j], a, b0, b1);
      else
        mma(c[j], a, b0, b1);
    });
  }

  Text const& text_;
  index_t s_, h_;
  int first_, last_;
  int octets_, held_ = -1;  // part of the channels that is in
  uint4 k_[pairs][4];
};

/// Logits of a lane's eight tokens of a tile (8 j + 2 t + i) with one of its two queries.
class tile_logits {
 public:
  /// Every lane calls; before the next one of a warp, too.
  template <class Text>
  __device__ tile_logits(Text const& text, index_t s, index_t h, index_t first, index_t tokens) {
    __shared__ float2 biases[tile_threads / 2];
    int const lane = static_cast<int>(threadIdx.x) % warp_threads;
    mine_ = biases + (static_cast<int>(threadIdx.x) - lane) / 2;
    __syncwarp();
    reinterpret_cast<float*>(mine_)[lane] = text.logit_bias(s, h, min(first + lane, tokens - 1));
    __syncwarp();
    mine_ += lane % 4;
  }
  [[nodiscard]] static __device__ int token(int v) {
    return v / 2 * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + v % 2;
  }
  __device__ void make(float const (&c)[4][4], int half, float factor, float soft_cap,
                       float (&x)[8]) const {
    unrolled<8>([&](int v) { x[v] = c[v / 2][2 * half + v % 2] * factor; });
    if (soft_cap > 0.0f) unrolled<8>([&](int v) { x[v] = soft_capped(soft_cap, x[v]); });
    unrolled<4>([&](int j) {
      float2 const two = mine_[4 * j];
      x[2 * j] += two.x;
      x[2 * j + 1] += two.y;
    });
  }

 private:
  float2* mine_;
};

/// Adds up what the lanes 4 g + t hold for the same t: x[0] becomes the sum of x[v], v being what
/// is returned.
__device__ inline int sum_over_queries(float (&x)[8]) {
  int const lane = static_cast<int>(threadIdx.x) % warp_threads;
  auto const fold = [&](int apart, auto count) {
    bool const upper = (lane & apart) != 0;
    unrolled<count.value>([&](int v) {
      float const other = upper ? x[v] : x[v + count.value];
      x[v] = (upper ? x[v + count.value] : x[v]) + __shfl_xor_sync(0xffffffffu, other, apart);
    });
  };
  fold(16, std::integral_constant<int, 4>{});
  fold(8, std::integral_constant<int, 2>{});
  fold(4, std::integral_constant<int, 1>{});
  return (lane & 16) / 4 + (lane & 8) / 4 + (lane & 4) / 4;
}

/// What every query of a window gives to the softmax of its head: maximum and sum of exponentials
/// over one stretch. Blocks: [row, stretch]; `tile` counts rows of A where it counts queries.
template <class Text>
KVSLIM_DETAIL_KERNEL void __launch_bounds__(tile_threads, 3)
    product_sums_kernel(softmax_tile<Text> tile, query_columns columns) {
  constexpr int warps = tile_threads / warp_threads, together = tile_threads;
  __shared__ float most_of[warps][together], total_of[warps][together];
  auto const& e = tile.text.extents();
  int const me = static_cast<int>(threadIdx.x), lane = me % warp_threads, warp = me / warp_threads,
            window = static_cast<int>(columns.queries.tokens),
            padded = static_cast<int>(query_columns::padded(window));
  index_t const pairs = div_up(e.head_dim, 32), items = e.rows() * tile.stretches_at_most;
  for (index_t item = blockIdx.x; item < items; item += gridDim.x) {
    index_t const r = item / tile.stretches_at_most, at = item % tile.stretches_at_most,
                  s = r / e.kv_heads, h = r % e.kv_heads, n = tile.tokens(r),
                  begin = at * tile.stretch, end = min(begin + tile.stretch, n);
    if (begin >= end) continue;
    uint4 const* const words = columns.words(r);
    float const* const factors = columns.factors(r);
    for (index_t i0 = 0; i0 < tile.count; i0 += together) {
      int const here = static_cast<int>(min(together, tile.count - i0));
      for (int i = lane; i < here; i += warp_threads) {
        most_of[warp][i] = -INFINITY;
        total_of[warp][i] = 0.0f;
      }
      __syncwarp();
      for (index_t base = begin + warp * warp_threads; base < end; base += tile_threads) {
        key_tile<Text> keys(tile.text, s, h, base, n);
        tile_logits const logits(tile.text, s, h, base, n);
        int w0 = static_cast<int>(i0 % padded);
        for (int i = 0; i < here; i += 16) {
          float c[4][4];
          keys.multiply(words + (i0 + i) / 16 * pairs * 128, c);
          unrolled<2>([&](int half) {
            int const w = w0 + lane / 4, column = i + 8 * half + lane / 4;
            if (i + 8 * half >= here) return;
            w0 = w0 + 8 == padded ? 0 : w0 + 8;
            index_t const sees = w < window ? min(end, n - window + w + 1) - base : 0;
            float x[8], high = -INFINITY, sum = 0.0f;
            logits.make(c, half, factors[i0 + column], tile.soft_cap, x);
            unrolled<8>([&](int v) {
              if (logits.token(v) >= sees) x[v] = -INFINITY;
              high = fmaxf(high, x[v]);
            });
            high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 1));
            high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 2));
            if (high > -INFINITY)
              unrolled<8>([&](int v) { sum += ops::exp_nonpositive(x[v] - high); });
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            if (lane % 4 == 0 && high > -INFINITY) {
              float const before = most_of[warp][column], most = fmaxf(before, high);
              total_of[warp][column] =
                  total_of[warp][column] * ops::exp_nonpositive(before - most) +
                  sum * ops::exp_nonpositive(high - most);
              most_of[warp][column] = most;
            }
          });
        }
      }
      __syncthreads();
      if (me < here) {
        float high = -INFINITY, sum = 0.0f;
        for (auto const& most : most_of) high = fmaxf(high, most[me]);
        for (int i = 0; i < warps && high > -INFINITY; ++i)
          sum += total_of[i][me] * ops::exp_nonpositive(most_of[i][me] - high);
        float* const out = tile.stats_of(r, at) + (i0 + me) * 2;
        out[0] = high;
        out[1] = sum;
      }
      __syncthreads();
    }
  }
}

/// Fills the columns and statistics of a tile.
template <class Text>
[[nodiscard]] status launch_product_softmax(cuda exec, softmax_tile<Text> const& tile,
                                            query_columns const& columns) {
  index_t const all = tile.text.extents().rows(), warps = tile_threads / warp_threads,
                blocks = blocks_for(div_up(all * tile.count, warps));
  if (auto const s = launch(exec, {blocks, tile_threads},
                            query_columns_kernel<element_of_key<key_of_text<Text>>>, columns, all);
      !s)
    return s;
  if (auto const s = launch(exec, {blocks_for(all * tile.stretches_at_most), tile_threads},
                            product_sums_kernel<Text>, tile, columns);
      !s)
    return s;
  return launch(exec, {blocks_for(div_up(all * tile.count, warps)), tile_threads},
                softmax_merge_kernel<Text>, tile);
}

KVSLIM_END_CUDA_NAMESPACE
