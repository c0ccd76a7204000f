// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/run/encode.hpp>
#include <kvslim/run/evict.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

struct gather_columns_op {};

/// Records of a stored cache's tokens, by (row, rank).
template <class Exec, class Text>
status gather_columns(Exec const& exec, Text const& text, index_t bytes, std::byte* columns) {
  return implementation<gather_columns_op, Exec>::run(exec, text, bytes, columns);
}

}  // namespace ops

namespace detail {

/// Columns of a stored cache's tokens: those it holds.
template <class Exec, class Plan, class Packed, class Evidence>
[[nodiscard]] status fill_columns(Exec const& exec, Plan const&,
                                  text<packed_cells<Packed>> const& text, Evidence const&,
                                  std::byte* columns, float*) {
  return ops::gather_columns(exec, text, Plan::column_bytes, columns);
}

/// What both backends check before a recompress writes anything.
template <class Plan, class From, class To>
[[nodiscard]] status check_recompress(Plan const& plan, From const& from, To const& to) {
  if (auto const s = plan.check(); !s) return s;
  if (from.storage() == nullptr || to.storage() == nullptr)
    return fail(errc::invalid_pointer, "kvslim: recompress was given a null pointer");
  if (overlap(from.storage(), from.size(), to.storage(), to.size()))
    return fail(errc::invalid_pointer, "kvslim: recompress's caches overlap");
  auto const& a = from.extents();
  auto const& b = plan.extents();
  if (a.sequences != b.sequences || a.kv_heads != b.kv_heads || a.head_dim != b.head_dim ||
      a.value_width() != b.value_width())
    return fail(errc::invalid_shape, "kvslim: recompress needs caches of the same shape");
  if (from.layout().find(side_kind::bias) >= 0 && plan.layout().find(side_kind::bias) < 0)
    return fail(errc::unsupported,
                "kvslim: the stored cache has logit biases: plan with .biases = true");
  if constexpr (Plan::observes)
    if (int const i = from.layout().find(side_kind::column);
        i < 0 || from.layout().sides[i].bytes != Plan::column_bytes)
      return fail(errc::unsupported, "kvslim: the stored cache has no columns of this scorer");
  return {};
}

}  // namespace detail

template <host_executor Exec>
struct implementation<ops::gather_columns_op, Exec> {
  template <class Text>
  static status run(Exec const& exec, Text const& text, index_t bytes, std::byte* columns) {
    auto const e = text.extents();
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const s = r / e.kv_heads, h = r % e.kv_heads, n = text.tokens(s, h);
      std::byte const* const from = text.cells.packed.columns(r);
      for (index_t i = 0; i < n; ++i)
        std::memcpy(columns + (r * e.tokens + i) * bytes, from + text.cell(s, h, i) * bytes,
                    static_cast<std::size_t>(bytes));
    });
    return {};
  }
};

/// Runs a pipeline over a stored cache and stores the result under another layout, or the same one:
/// a second, tighter budget, other codecs, or the same ones without the holes that evictions left.
/// Positions, biases and columns go along; nothing is decoded to memory but rows on their way.
///
/// Shapes: `plan` was made for from's extents with at least as many tokens as its longest row has
/// slots; `to` is bound under plan.layout(); scratch of plan.workspace_bytes(). The memory of
/// `from` and `to` must not overlap. Returns: as select() and encode(); then `to` was not written.
/// Cost: one decode of what the scorer reads and of what stays, one write of its codes.
template <host_executor Exec, class Plan, class KeyA, class ValueA, class KeyB, class ValueB,
          class Evidence = evidence<>>
status recompress(Exec const& exec, Plan const& plan,
                  packed_cache<KeyA, ValueA, host_space> const& from,
                  packed_cache<KeyB, ValueB, host_space> const& to, workspace scratch,
                  Evidence const& evidence = {}) {
  if (auto const s = detail::check_recompress(plan, from, to); !s) return s;
  if (auto const s = detail::check_tables(from); !s) return s;
  if (!from.ready())
    return detail::fail(errc::corrupt, "kvslim: the packed cache was never filled");
  for (index_t r = 0; r < from.extents().rows(); ++r)
    if (from.raw_row(r).slots > plan.extents().tokens)
      return detail::fail(errc::invalid_shape,
                          "kvslim: a row has more slots than the plan's tokens");
  using cells_type = detail::packed_cells<packed_cache<KeyA, ValueA, host_space>>;
  cells_type const cells{from, plan.extents()};
  if (auto const s = detail::check_workspace(scratch, plan.workspace_bytes()); !s) return s;
  auto keep = plan.keep(scratch);
  if (auto const s = detail::check_encode(plan, cells, keep, to); !s) return s;
  workspace const rest{scratch.data + plan.keep_bytes(), scratch.bytes - plan.keep_bytes()};
  if constexpr (Plan::scores_in_bulk) {
    static_assert(
        detail::provides_all<Evidence,
                             typename detail::traits_of<typename Plan::scorer_type>::needs>::value,
        "kvslim: the scorer reads evidence that was not passed: add it to kvslim::evidence{...}");
    if (auto const s = plan.template stage<scorer_tag>().check(text<cells_type>{cells}, evidence);
        !s)
      return s;
  }
  detail::carver one(rest.data);
  if (auto const s = detail::run_select(exec, plan, cells, evidence, keep, plan.carve_select(one));
      !s)
    return s;
  detail::carver two(rest.data);
  return detail::run_encode(exec, plan, cells, keep, to, plan.carve_encode(two));
}

KVSLIM_END_NAMESPACE
