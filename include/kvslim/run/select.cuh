// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/ops/assign.cuh>
#include <kvslim/ops/fold.cuh>
#include <kvslim/ops/gate.cuh>
#include <kvslim/ops/observe.cuh>
#include <kvslim/ops/score_tokens.cuh>
#include <kvslim/ops/select.cuh>
#include <kvslim/ops/text_order.cuh>
#include <kvslim/run/select.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// Evidence in host memory cannot reach a kernel.
template <class Part>
inline constexpr bool in_device_memory = true;
template <template <class> class Part>
inline constexpr bool in_device_memory<Part<host_space>> = false;
template <class Evidence>
inline constexpr bool evidence_on_device = true;
template <class... Parts>
inline constexpr bool evidence_on_device<evidence<Parts...>> = (in_device_memory<Parts> && ...);

template <class Plan, class Text>
struct state_facts_body {
  Plan plan;
  Text text;
  select_space w;

  __device__ void operator()(index_t i) const {
    index_t const size = plan.template stage<quota_tag>().group().size();
    state_facts(plan, text, w, i / size, i % size);
  }
};

/// One group's quotas: a policy of the caller's, sequential.
template <class Plan>
struct allocate_body {
  Plan plan;
  select_space w;

  __device__ void operator()(index_t g) const { allocate_group(plan, g, w); }
};

/// Cosines of neighbours, [rows, tokens]: one thread a pair, summed as on the CPU, so that the
/// bits are the same.
template <class Text>
struct neighbours_body {
  Text text;
  float* similar;

  __device__ void operator()(index_t at) const {
    auto const& e = text.extents();
    index_t const r = at / e.tokens, i = at % e.tokens, s = r / e.kv_heads, h = r % e.kv_heads;
    if (i + 1 >= text.tokens(s, h)) return;
    auto const a = text.key(s, h, i), b = text.key(s, h, i + 1);
    similar[at] = ops::cosine(a, b, e.head_dim);
  }
};

/// What stands for a run stays.
template <class Text>
struct merged_fates_body {
  Text text;
  std::int32_t const* merged;
  fate* fates;

  __device__ void operator()(index_t at) const {
    auto const& e = text.extents();
    index_t const r = at / e.tokens, i = at % e.tokens;
    if (i < text.tokens(r / e.kv_heads, r % e.kv_heads))
      fates[at] = merged[at] == i ? fate::kept : fate::evicted;
  }
};

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

template <>
struct implementation<detail::allocate_op, cuda> {
  template <class Plan, class Text>
  static status run(cuda exec, Plan const& plan, Text const& text, score_view scores,
                    detail::select_space const& w) {
    auto const& e = plan.extents();
    auto const& policy = plan.template stage<quota_tag>();
    row_group const group = policy.group();
    detail::state_facts_body<Plan, Text> const facts{plan, text, w};
    if (auto const s = detail::launch_for_each(exec, e.rows(), facts); !s) return s;
    if constexpr (std::remove_cvref_t<decltype(policy)>::traits.contests)
      if (auto const s =
              ops::hold_contest(exec, text, scores, group, policy.open(e, plan.protected_recent()),
                                w.keys, slice<row_facts>{w.facts, e.rows()});
          !s)
        return s;
    return detail::launch_for_each(exec, group.groups(e), detail::allocate_body<Plan>{plan, w});
  }
};

/// Keys are free by now: they hold the cosines.
template <>
struct implementation<detail::merge_runs_op, cuda> {
  template <class Plan, class Text>
  static status run(cuda exec, Plan const& plan, Text const& text, detail::select_space const& w,
                    keep_set const& keep) {
    auto const& e = plan.extents();
    index_t const all = e.rows() * e.tokens;
    auto* const similar = static_cast<float*>(static_cast<void*>(w.keys));
    if (auto const s =
            detail::launch_for_each(exec, all, detail::neighbours_body<Text>{text, similar});
        !s)
      return s;
    if (auto const s =
            detail::launch(exec, {e.rows(), detail::block_threads}, detail::form_runs_kernel<Text>,
                           text, plan.template stage<merger_tag>().joins(), Plan::has_quota,
                           static_cast<float const*>(w.scores), static_cast<fate const*>(w.fates),
                           static_cast<float const*>(similar), keep.merged);
        !s)
      return s;
    return detail::launch_for_each(exec, all,
                                   detail::merged_fates_body<Text>{text, keep.merged, w.fates});
  }
};

/// score() on a device: as on the CPU, but for what only device memory can tell (lengths,
/// positions, finiteness), which is not checked. Needs the ops of a bulk scorer included too
/// (<kvslim/kvslim.cuh> has all).
template <class Plan, class Cache, class Evidence>
status score(cuda exec, Plan const& plan, Cache const& cache, Evidence const& evidence,
             score_view out, workspace scratch) {
  static_assert(Plan::has_scorer, "kvslim: this pipeline has no scorer");
  static_assert(std::same_as<typename Cache::space, cuda_space>,
                "kvslim: a CUDA executor was given a host view: view device memory with "
                "kvslim::cuda_space");
  static_assert(detail::evidence_on_device<Evidence>,
                "kvslim: a CUDA executor was given evidence in host memory");
  if (auto const s = detail::check_select(plan, cache, evidence); !s) return s;
  if (out.data == nullptr || out.tokens < plan.extents().tokens)
    return detail::fail(errc::invalid_pointer, "kvslim: score needs out [rows, tokens]");
  if (auto const s = detail::check_workspace(scratch, plan.select_bytes() + plan.keep_bytes()); !s)
    return s;
  detail::carver carve(scratch.data);
  auto const keep = plan.carve_keep(carve);
  auto const w = plan.carve_select(carve);
  text<Cache> ordered{cache};
  ops::text_order_memory const order{keep.order_cells, keep.order_counts, w.keys};
  if (auto const s = ops::make_text_order(exec, cache, order, ordered.order); !s) return s;
  return detail::score_text(exec, plan, ordered, evidence, w.columns, w.scratch, out);
}

/// select() on a device: as on the CPU, but for what only device memory can tell, which is not
/// checked. `keep` is device memory; its fields are set at once, what they point to once the
/// stream gets there.
template <class Plan, class Cache, class Evidence>
status select(cuda exec, Plan const& plan, Cache const& cache, Evidence const& evidence,
              keep_set& keep, workspace scratch) {
  static_assert(std::same_as<typename Cache::space, cuda_space>,
                "kvslim: a CUDA executor was given a host view: view device memory with "
                "kvslim::cuda_space");
  static_assert(detail::evidence_on_device<Evidence>,
                "kvslim: a CUDA executor was given evidence in host memory");
  if (auto const s = detail::check_select(plan, cache, evidence); !s) return s;
  if (keep.begins == nullptr || keep.cells == nullptr || keep.ranks == nullptr ||
      keep.order_cells == nullptr || keep.room < plan.total_kept())
    return detail::fail(errc::invalid_pointer,
                        "kvslim: select needs a keep set made by plan.keep(memory)");
  if (auto const s = detail::check_workspace(scratch, plan.select_bytes()); !s) return s;
  detail::carver carve(scratch.data);
  return detail::run_select(exec, plan, cache, evidence, keep, plan.carve_select(carve));
}

KVSLIM_END_NAMESPACE
