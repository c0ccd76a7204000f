// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/run/encode.cuh>
#include <kvslim/run/evict.cuh>
#include <kvslim/run/recompress.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// One word of the record of one (row, rank).
template <class Text>
struct gather_columns_body {
  Text text;
  index_t words;
  std::uint32_t* columns;
  __device__ void operator()(index_t i) const {
    auto const& e = text.extents();
    index_t const word = i % words, rank = i / words % e.tokens, r = i / words / e.tokens;
    index_t const s = r / e.kv_heads, h = r % e.kv_heads;
    if (rank >= text.tokens(s, h)) return;
    auto const* const from =
        static_cast<std::uint32_t const*>(static_cast<void const*>(text.cells.packed.columns(r)));
    columns[i] = from[text.cell(s, h, rank) * words + word];
  }
};

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

template <>
struct implementation<ops::gather_columns_op, cuda> {
  template <class Text>
  static status run(cuda exec, Text const& text, index_t bytes, std::byte* columns) {
    auto const& e = text.extents();
    auto* const words = static_cast<std::uint32_t*>(static_cast<void*>(columns));
    return detail::launch_for_each(exec, e.rows() * e.tokens * (bytes / 4),
                                   detail::gather_columns_body<Text>{text, bytes / 4, words});
  }
};

/// recompress() on a stream. Rows with more slots than the plan's tokens are cut there; failures of
/// `to` are as encode()'s.
template <class Plan, class KeyA, class ValueA, class KeyB, class ValueB,
          class Evidence = evidence<>>
status recompress(cuda exec, Plan const& plan, packed_cache<KeyA, ValueA, cuda_space> const& from,
                  packed_cache<KeyB, ValueB, cuda_space> const& to, workspace scratch,
                  Evidence const& evidence = {}) {
  if (auto const s = detail::check_recompress(plan, from, to); !s) return s;
  if (auto const s = detail::check_tables(from); !s) return s;
  using cells_type = detail::packed_cells<packed_cache<KeyA, ValueA, cuda_space>>;
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
