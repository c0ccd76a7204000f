// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/affine.cuh>
#include <kvslim/codec/dense.cuh>
#include <kvslim/ops/top_k.cuh>
#include <kvslim/run/append.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

// Bodies of one-thread-per-index kernels; the arithmetic is the CPU's own, marked KVSLIM_HD.

template <class Scorer, class Cache>
struct score_body {
  Scorer scorer;
  Cache cache;
  score_view out;
  __device__ void operator()(index_t i) const {
    auto const& e = cache.extent;
    index_t const r = i / e.tokens, t = i % e.tokens, s = r / e.kv_heads, h = r % e.kv_heads;
    out.row(r)[t] = t < cache.length(s)
                        ? static_cast<float>(scorer.score(token_ref<Cache>(cache, s, h, t)))
                        : 0.0f;
  }
};

struct share_body {
  float* scores;
  index_t rows, tokens;
  __device__ void operator()(index_t i) const {
    share_score(scores + i / tokens * rows * tokens, rows, tokens, i % tokens);
  }
};

template <class Cache>
struct flags_body {
  Cache cache;
  std::uint8_t* flags;
  __device__ void operator()(index_t i) const {
    index_t const t = i % cache.extent.tokens, s = i / cache.extent.tokens / cache.extent.kv_heads;
    flags[i] = t < cache.length(s) && cache.is_valid(s, t) ? 0 : 255;
  }
};

inline constexpr int list_threads = 256;

/// One block per row: every thread counts its stretch of tokens, then lists it behind the stretches
/// before. Runs of a merger depend on each other, so one thread forms them.
template <class Plan, class Cache>
__global__ void list_kernel(Plan plan, Cache cache, workspace w) {
  __shared__ index_t before[list_threads + 1];
  auto const& e = plan.extents();
  index_t const r = blockIdx.x, length = cache.length(r / e.kv_heads),
                capacity = plan.kept_capacity();
  if constexpr (Plan::has_merger) {
    if (threadIdx.x == 0) w.counts[r] = list_kept(plan, cache, w, r);
  } else {
    std::uint8_t const* const flags = w.flags + r * e.tokens;
    index_t const share = div_up(length, list_threads), begin = min(length, threadIdx.x * share),
                  end = min(length, begin + share);
    index_t mine = 0;
    for (index_t t = begin; t < end; ++t) mine += stays<Plan>(flags[t]) ? 1 : 0;
    before[threadIdx.x + 1] = mine;
    if (threadIdx.x == 0) before[0] = 0;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int i = 1; i <= list_threads; ++i) before[i] += before[i - 1];
      w.counts[r] = min(capacity, before[list_threads]);
    }
    __syncthreads();
    index_t at = before[threadIdx.x];
    for (index_t t = begin; t < end && at < capacity; ++t)
      if (stays<Plan>(flags[t])) w.kept[r * capacity + at++] = static_cast<std::int32_t>(t);
  }
}

template <class Plan, class Cache, class Packed>
struct place_body {
  Plan plan;
  Cache cache;
  workspace w;
  Packed packed;
  __device__ void operator()(index_t) const {
    packed_header header = make_header(plan);
    header.used_bytes = place_rows(plan, cache, w, packed);
    packed.header() = header;
  }
};

template <class Plan>
using key_codec_of = decltype(std::declval<Plan const&>().key_codec());
template <class Plan>
using value_codec_of = decltype(std::declval<Plan const&>().value_codec());

/// Whether a codec's blocks depend on one row and one stretch of tokens only, so that warps can
/// encode side by side.
template <class Codec>
inline constexpr bool warp_encodable = !fitted_codec<Codec> && !requires(Codec const& c) {
  c.group();
};

/// Writes n tokens of a lane from rows that every lane of the warp can read.
template <class Lane>
__device__ void encode_tokens(Lane const& at, index_t begin, index_t n, float const* rows,
                              index_t dim) {
  for (index_t t = begin; t < begin + n;) {
    bool const whole = t < at.coded && at.codec.block_tokens() >= run_tokens;
    index_t const end = t < at.coded ? min(begin + n, at.coded) : begin + n,
                  take = whole ? at.in_block(t, end) : min(end - t, at.reach(t));
    at.visit(t, take, [&](auto const& codec, std::byte* block, block_run const& run) {
      warp_codec<std::remove_cvref_t<decltype(codec)>>::encode(codec, rows + (t - begin) * dim, run,
                                                               block);
    });
    t += take;
  }
}

/// Encodes one lane (K or V): warps take stretches of `stretch` kept tokens, which hold whole
/// blocks. Rows are staged in shared memory, or, where a block is too large for it, in the row's
/// part of the workspace; then there is one warp to a row.
template <bool Keys, class Plan, class Cache, class Packed>
__global__ void encode_kernel(Plan plan, Cache cache, workspace w, Packed packed, index_t stretch,
                              index_t warps, bool in_shared) {
  extern __shared__ float shared[];
  auto const& e = plan.extents();
  index_t const r = blockIdx.x / warps, s = r / e.kv_heads, h = r % e.kv_heads, dim = e.head_dim,
                count = packed.row(r).count, lane = threadIdx.x;
  float* const rows = in_shared ? shared : w.staging + r * w.staging_floats;
  float* const other = rows + stretch * dim;
  std::int32_t const* const kept = w.kept + r * plan.kept_capacity();
  auto const at = [&] {
    if constexpr (Keys)
      return packed.keys(r);
    else
      return packed.values(r);
  }();
  for (index_t begin = blockIdx.x % warps * stretch; begin < count; begin += warps * stretch) {
    index_t const n = min(stretch, count - begin);
    if constexpr (Plan::has_merger) {
      for (index_t i = 0; i < n && lane == 0; ++i) {
        float* const mine = rows + i * dim;
        float const bias = read_kept(plan, cache, w, r, begin + i, Keys ? mine : other,
                                     Keys ? other : mine, other + dim);
        if (Keys && plan.keeps_log_weight()) packed.stored_weights(r)[begin + i] = bias;
      }
    } else {
      for (index_t i = 0; i < n; ++i) {
        auto const* const source =
            Keys ? cache.k.row(s, h, kept[begin + i]) : cache.v.row(s, h, kept[begin + i]);
        index_t const stride = Keys ? cache.k.layout.channel : cache.v.layout.channel;
        for (index_t d = lane; d < dim; d += warp_threads)
          rows[i * dim + d] = to_float(source[d * stride]);
      }
      if constexpr (Plan::has_mover && Keys) {
        __syncwarp();
        for (index_t i = lane; i < n; i += warp_threads)
          plan.policy().template get<position_tag>().move(rows + i * dim, dim,
                                                          cache.position(s, kept[begin + i]),
                                                          static_cast<std::int32_t>(begin + i));
      }
    }
    if constexpr (Plan::keeps_positions() && Keys)
      for (index_t i = lane; i < n; i += warp_threads)
        packed.stored_positions(r)[begin + i] = cache.position(s, kept[begin + i]);
    __syncwarp();
    encode_tokens(at, begin, n, rows, dim);
    __syncwarp();
  }
}

template <bool Keys, class Plan, class Cache, class Packed>
[[nodiscard]] status launch_encode(cuda exec, Plan const& plan, Cache const& cache,
                                   workspace const& w, Packed const& packed, index_t block_tokens) {
  auto const& e = plan.extents();
  constexpr index_t limit =
      48 * 1024 / static_cast<index_t>(sizeof(float));  // what a block gets without asking
  auto const whole_blocks = [&](index_t tokens) {
    return max(block_tokens, tokens - tokens % block_tokens);
  };
  index_t stretch = whole_blocks(run_tokens),
          floats = (stretch + (Plan::has_merger ? 4 : 0)) * e.head_dim;
  bool const in_shared = floats <= limit;
  if (!in_shared) stretch = whole_blocks(min(run_tokens, plan.block_rows()));
  index_t const warps = in_shared ? max(1, div_up(plan.kept_capacity(), stretch)) : 1;
  auto const bytes = in_shared ? static_cast<std::size_t>(floats) * sizeof(float) : std::size_t{0};
  encode_kernel<Keys>
      <<<static_cast<unsigned>(e.rows() * warps), warp_threads, bytes, exec.stream>>>(
          plan, cache, w, packed, stretch, warps, in_shared);
  return cuda_result(cudaPeekAtLastError());
}

/// For codecs that share blocks between rows or fit a state: one thread per row.
template <class Plan, class Cache, class Packed>
struct encode_body {
  Plan plan;
  Cache cache;
  workspace w;
  Packed packed;
  __device__ void operator()(index_t r) const { encode_row(plan, cache, w, packed, r); }
};

/// One warp per row: codes what has settled, then stores the new token; see settle_row and
/// store_row.
template <class Packed, class Rows>
__global__ void append_kernel(Packed packed, Rows k, Rows v, float* scratch, index_t floats) {
  auto const& e = packed.plan().extents();
  index_t const r = blockIdx.x, s = r / e.kv_heads, h = r % e.kv_heads, dim = e.head_dim,
                lane = threadIdx.x, t = packed.row(r).count;
  if (t >= packed.row(r).capacity) return;
  float* const fresh = scratch + r * floats;
  for (index_t d = lane; d < dim; d += warp_threads) {
    fresh[d] = to_float(k.row(s, h)[d * k.layout.channel]);
    fresh[dim + d] = to_float(v.row(s, h)[d * v.layout.channel]);
  }
  __syncwarp();
  auto const add = [&](auto const& before, float const* row) {
    bool const direct = before.codec.tail_tokens() == 0;
    auto after = before;
    after.coded = direct ? t + 1 : max(before.coded, before.codec.coded(t));
    float* const rows = fresh + 2 * dim;
    for (index_t i = before.coded; i < after.coded && !direct;) {
      index_t const take = before.in_block(i, after.coded);
      for (index_t j = 0; j < take; ++j)
        for (index_t d = lane; d < dim; d += warp_threads)
          rows[j * dim + d] = before.decode(i + j, d);
      __syncwarp();
      encode_tokens(after, i, take, rows, dim);
      __syncwarp();
      i += take;
    }
    encode_tokens(after, t, 1, row, dim);
    return static_cast<std::int32_t>(after.coded);
  };
  auto const key_coded = add(packed.keys(r), fresh),
             value_coded = add(packed.values(r), fresh + dim);
  __syncwarp();
  if (lane != 0) return;
  auto& entry = packed.row(r);
  if constexpr (Packed::plan_type::keeps_positions())
    packed.stored_positions(r)[t] = entry.next_position;
  if (packed.plan().keeps_log_weight()) packed.stored_weights(r)[t] = 0.0f;
  entry.key_coded = key_coded;
  entry.value_coded = value_coded;
  entry.count = static_cast<std::int32_t>(t + 1);
  entry.next_position += 1;
}

/// The steps of append for rows that share blocks: a row group must have loaded all rows before one
/// settles, and settled all before one stores.
enum append_steps : unsigned { append_load = 1, append_settle = 2, append_store = 4 };

template <class Packed, class Rows>
struct append_body {
  Packed packed;
  Rows k, v;
  float* scratch;
  index_t floats;
  unsigned steps;
  __device__ void operator()(index_t r) const {
    auto const& e = packed.plan().extents();
    index_t const s = r / e.kv_heads, h = r % e.kv_heads;
    float* const rows = scratch + r * floats;
    if (packed.row(r).count >= packed.row(r).capacity) return;
    if ((steps & append_load) != 0) {
      ops::load_row(k.row(s, h), k.layout.channel, e.head_dim, rows);
      ops::load_row(v.row(s, h), v.layout.channel, e.head_dim, rows + e.head_dim);
    }
    if ((steps & append_settle) != 0) settle_row(packed, r, scratch, floats);
    if ((steps & append_store) != 0) store_row(packed, r, rows, rows + e.head_dim);
  }
};

}  // namespace detail

/// compress() on a stream: same policy, plan and stored form (not yet run on a GPU); view,
/// evidence, storage and workspace in device memory. What only device memory can tell (lengths,
/// non-finite values) is not checked, because nothing synchronises. Warps encode 32 tokens each
/// (more where a block holds more); codecs that share blocks between rows or fit a state, one
/// thread per row.
template <class Policy, class Cache, class Evidence>
status compress(cuda exec, compression_plan<Policy> const& plan, Cache const& cache,
                Evidence const& evidence, packed_cache<Policy, cuda_space> const& packed,
                std::byte* scratch, std::size_t scratch_bytes) {
  using plan_type = compression_plan<Policy>;
  static_assert(
      std::same_as<typename Cache::space, cuda_space>,
      "kvslim: a CUDA executor was given a host view: view device memory with kvslim::cuda_space");
  static_assert(
      detail::provides_all<
          Evidence,
          typename detail::needs_of<typename Policy::template stage_type<scorer_tag>>::type>::value,
      "kvslim: the scorer reads evidence that was not passed: add it to kvslim::evidence{...}");
  static_assert(!(plan_type::has_mover && plan_type::has_merger),
                "kvslim: on CUDA, rerotate after a merger is not supported");
  if (auto const s = detail::check_compress(plan, cache, evidence, packed, scratch, scratch_bytes);
      !s)
    return s;
  detail::carver carve(scratch);
  auto const w = plan.carve(carve);
  auto const& e = plan.extents();
  using packed_type = packed_cache<Policy, cuda_space>;
  status s{};
  if constexpr (plan_type::has_scorer) {
    using scorer_type = typename Policy::template stage_type<scorer_tag>;
    auto const& scorer = plan.policy().template get<scorer_tag>();
    if constexpr (token_scorer<scorer_type>)
      s = detail::launch_for_each(
          exec, e.rows() * e.tokens,
          detail::score_body<scorer_type, Cache>{scorer, cache, {w.scores, e.tokens}});
    else
      s = scorer.score(exec, cache, evidence, {w.scores, e.tokens}, w.scratch);
    if (!s) return s;
  }
  if constexpr (plan_type::has_selector) {
    using selector_type = typename Policy::template stage_type<selector_tag>;
    static_assert(std::same_as<selector_type, top_k>, "kvslim: on CUDA the selector must be top_k");
    auto const& selector = plan.policy().template get<selector_tag>();
    if (index_t const n = selector.shared_sequences() * e.kv_heads; n > 0)
      if (s = detail::launch_for_each(exec, e.rows() / n * e.tokens,
                                      detail::share_body{w.scores, n, e.tokens});
          !s)
        return s;
    detail::
        select_kernel<<<static_cast<unsigned>(e.rows()), detail::select_threads, 0, exec.stream>>>(
            selector, cache, w.scores, w.flags, detail::protected_recent(plan.policy()));
    if (s = detail::cuda_result(cudaPeekAtLastError()); !s) return s;
  } else {
    if (s = detail::launch_for_each(exec, e.rows() * e.tokens,
                                    detail::flags_body<Cache>{cache, w.flags});
        !s)
      return s;
  }
  detail::list_kernel<<<static_cast<unsigned>(e.rows()), detail::list_threads, 0, exec.stream>>>(
      plan, cache, w);
  if (s = detail::cuda_result(cudaPeekAtLastError()); !s) return s;
  if (s = detail::cuda_result(
          cudaMemsetAsync(packed.storage(), 0, plan.packed_bytes(), exec.stream));
      !s)
    return s;
  if (s = detail::launch_for_each(
          exec, 1, detail::place_body<plan_type, Cache, packed_type>{plan, cache, w, packed});
      !s)
    return s;
  if constexpr (detail::warp_encodable<detail::key_codec_of<plan_type>> &&
                detail::warp_encodable<detail::value_codec_of<plan_type>>) {
    if (s = detail::launch_encode<true>(exec, plan, cache, w, packed,
                                        plan.key_codec().block_tokens());
        !s)
      return s;
    return detail::launch_encode<false>(exec, plan, cache, w, packed,
                                        plan.value_codec().block_tokens());
  } else {
    return detail::launch_for_each(
        exec, e.rows(), detail::encode_body<plan_type, Cache, packed_type>{plan, cache, w, packed});
  }
}

/// append() on a stream. A full row is left as it is: the caller knows its own capacity.
template <class Policy, class Rows>
status append(cuda exec, packed_cache<Policy, cuda_space> const& packed, Rows const& k,
              Rows const& v, float* scratch) {
  static_assert(
      std::same_as<typename Rows::space, cuda_space>,
      "kvslim: a CUDA executor was given a host view: view device memory with kvslim::cuda_space");
  auto const& e = packed.plan().extents();
  if (k.data == nullptr || v.data == nullptr || scratch == nullptr || packed.storage() == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: append was given a null pointer");
  for (auto const* x : {&k, &v})
    if (x->sequences != e.sequences || x->heads != e.kv_heads || x->tokens != 1 ||
        x->head_dim != e.head_dim)
      return detail::fail(errc::invalid_shape,
                          "kvslim: append needs k and v as [sequences, kv_heads, 1, head_dim]");
  index_t const floats = detail::append_row_floats(packed.plan());
  using packed_type = packed_cache<Policy, cuda_space>;
  using plan_type = compression_plan<Policy>;
  if constexpr (detail::warp_encodable<detail::key_codec_of<plan_type>> &&
                detail::warp_encodable<detail::value_codec_of<plan_type>>) {
    detail::
        append_kernel<<<static_cast<unsigned>(e.rows()), detail::warp_threads, 0, exec.stream>>>(
            packed, k, v, scratch, floats);
    return detail::cuda_result(cudaPeekAtLastError());
  } else {
    auto const run = [&](unsigned steps) {
      return detail::launch_for_each(
          exec, e.rows(),
          detail::append_body<packed_type, Rows>{packed, k, v, scratch, floats, steps});
    };
    if (auto const s = run(detail::append_load); !s) return s;
    if (auto const s = run(detail::append_settle); !s) return s;
    return run(detail::append_store);
  }
}

KVSLIM_END_NAMESPACE
