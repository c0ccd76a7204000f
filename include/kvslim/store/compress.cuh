// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/cuda.cuh>
#include <kvslim/ops/top_k.cuh>
#include <kvslim/store/append.hpp>

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
    out.row(r)[t] = t < cache.length(s) ? static_cast<float>(scorer.score(token_ref<Cache>(cache, s, h, t))) : 0.0f;
  }
};

struct share_body {
  float* scores;
  index_t rows, tokens;
  __device__ void operator()(index_t g) const { share_scores(scores + g * rows * tokens, rows, tokens); }
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

template <class Plan, class Cache>
struct list_body {
  Plan plan;
  Cache cache;
  workspace w;
  __device__ void operator()(index_t r) const { w.counts[r] = list_kept(plan, cache, w, r); }
};

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

template <class Plan, class Cache, class Packed>
struct encode_body {
  Plan plan;
  Cache cache;
  workspace w;
  Packed packed;
  __device__ void operator()(index_t r) const { encode_row(plan, cache, w, packed, r); }
};

/// The steps of append: a row group must have loaded all rows before one settles, and settled all before one stores.
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

/// compress() on a stream: same policy, plan and stored form (not yet run on a GPU); view, evidence, storage and workspace in device memory.
/// What only device memory can tell (lengths, non-finite values) is not checked, because nothing synchronises.
/// Rows are encoded by one thread each: correct, and far from the floor.
template <class Policy, class Cache, class Evidence>
status compress(cuda exec, compression_plan<Policy> const& plan, Cache const& cache, Evidence const& evidence,
                packed_cache<Policy, cuda_space> const& packed, std::byte* scratch, std::size_t scratch_bytes) {
  using plan_type = compression_plan<Policy>;
  static_assert(std::same_as<typename Cache::space, cuda_space>,
                "kvslim: a CUDA executor was given a host view: view device memory with kvslim::cuda_space");
  static_assert(detail::provides_all<Evidence, typename detail::needs_of<typename Policy::template stage_type<scorer_tag>>::type>::value,
                "kvslim: the scorer reads evidence that was not passed: add it to kvslim::evidence{...}");
  static_assert(!(plan_type::has_mover && plan_type::has_merger), "kvslim: on CUDA, rerotate after a merger is not supported");
  if (auto const s = detail::check_compress(plan, cache, evidence, packed, scratch, scratch_bytes); !s) return s;
  detail::carver carve(scratch);
  auto const w = plan.carve(carve);
  auto const& e = plan.extents();
  using packed_type = packed_cache<Policy, cuda_space>;
  status s{};
  if constexpr (plan_type::has_scorer) {
    using scorer_type = typename Policy::template stage_type<scorer_tag>;
    auto const& scorer = plan.policy().template get<scorer_tag>();
    if constexpr (token_scorer<scorer_type>)
      s = detail::launch_for_each(exec, e.rows() * e.tokens, detail::score_body<scorer_type, Cache>{scorer, cache, {w.scores, e.tokens}});
    else
      s = scorer.score(exec, cache, evidence, {w.scores, e.tokens}, w.scratch);
    if (!s) return s;
  }
  if constexpr (plan_type::has_selector) {
    using selector_type = typename Policy::template stage_type<selector_tag>;
    static_assert(std::same_as<selector_type, top_k>, "kvslim: on CUDA the selector must be top_k");
    auto const& selector = plan.policy().template get<selector_tag>();
    if (index_t const n = selector.shared_sequences() * e.kv_heads; n > 0)
      if (s = detail::launch_for_each(exec, e.rows() / n, detail::share_body{w.scores, n, e.tokens}); !s) return s;
    detail::select_kernel<<<static_cast<unsigned>(e.rows()), detail::select_threads, 0, exec.stream>>>(
        selector, cache, w.scores, w.flags, detail::protected_recent(plan.policy()));
    if (s = detail::cuda_result(cudaPeekAtLastError()); !s) return s;
  } else {
    if (s = detail::launch_for_each(exec, e.rows() * e.tokens, detail::flags_body<Cache>{cache, w.flags}); !s) return s;
  }
  if (s = detail::launch_for_each(exec, e.rows(), detail::list_body<plan_type, Cache>{plan, cache, w}); !s) return s;
  if (s = detail::cuda_result(cudaMemsetAsync(packed.storage(), 0, plan.packed_bytes(), exec.stream)); !s) return s;
  if (s = detail::launch_for_each(exec, 1, detail::place_body<plan_type, Cache, packed_type>{plan, cache, w, packed}); !s) return s;
  return detail::launch_for_each(exec, e.rows(), detail::encode_body<plan_type, Cache, packed_type>{plan, cache, w, packed});
}

/// append() on a stream. A full row is left as it is: the caller knows its own capacity.
template <class Policy, class Rows>
status append(cuda exec, packed_cache<Policy, cuda_space> const& packed, Rows const& k, Rows const& v, float* scratch) {
  static_assert(std::same_as<typename Rows::space, cuda_space>,
                "kvslim: a CUDA executor was given a host view: view device memory with kvslim::cuda_space");
  auto const& e = packed.plan().extents();
  if (k.data == nullptr || v.data == nullptr || scratch == nullptr || packed.storage() == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: append was given a null pointer");
  for (auto const* x : {&k, &v})
    if (x->sequences != e.sequences || x->heads != e.kv_heads || x->tokens != 1 || x->head_dim != e.head_dim)
      return detail::fail(errc::invalid_shape, "kvslim: append needs k and v as [sequences, kv_heads, 1, head_dim]");
  index_t const floats = detail::append_row_floats(packed.plan());
  auto const run = [&](unsigned steps) {
    return detail::launch_for_each(exec, e.rows(), detail::append_body<packed_cache<Policy, cuda_space>, Rows>{packed, k, v, scratch, floats, steps});
  };
  if (!packed.plan().grouped()) return run(detail::append_load | detail::append_settle | detail::append_store);
  if (auto const s = run(detail::append_load); !s) return s;
  if (auto const s = run(detail::append_settle); !s) return s;
  return run(detail::append_store);
}

KVSLIM_END_NAMESPACE
