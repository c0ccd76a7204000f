// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// What a scorer may look at besides the cache. A scorer names what it reads in its traits
/// (`scorer_traits<no_column, needs_window_queries>`); asking for evidence that the caller did not
/// pass is a compile error, never a null pointer.

#include <kvslim/core/rows.hpp>
#include <kvslim/core/slice.hpp>

KVSLIM_BEGIN_NAMESPACE

struct needs_window_queries {};
struct needs_token_scores {};
struct needs_query_filters {};
struct needs_output_projection {};
struct needs_probes {};
struct needs_raw_queries {};
struct needs_query_statistics {};
struct needs_hidden_states {};
struct needs_gate_weights {};

/// Post-RoPE queries of the newest `queries.tokens` tokens of every sequence, in text order:
/// [sequence, q_head, window, head_dim], of any element type.
template <class Space = host_space>
struct window_queries {
  using kind = needs_window_queries;
  rows<Space> queries;
};
template <class T, class Space>
window_queries(rows_view<T, Space>) -> window_queries<Space>;
template <class Space>
window_queries(detail::typeless_rows<void const, Space>) -> window_queries<Space>;

/// What the model multiplies each query head's output by: [layer, q_head, value channel, width], of
/// any element type and stride, so that a weight [width, q_heads * channels] is viewed as it lies.
/// Layers are consecutive sequences of the view; one layer serves all.
template <class Space = host_space>
struct output_projection {
  using kind = needs_output_projection;
  rows<Space> weights;
};
template <class T, class Space>
output_projection(rows_view<T, Space>) -> output_projection<Space>;
template <class Space>
output_projection(detail::typeless_rows<void const, Space>) -> output_projection<Space>;

/// Some of the probes, and the tokens (by rank) that they look at besides the sinks.
struct probe_stretch {
  index_t first_query = 0, queries = 0, first_token = 0, tokens = 0;
};

/// Post-RoPE queries that look at the cache without being its tokens: those of a pass that repeats
/// the text, or of other text. `keys` are their own, [sequence, kv_head, query, head_dim]: each
/// sees those of its stretch up to its own; null: none. `stretches`, in host memory on any backend,
/// ascend and do not overlap; none: all queries look at all tokens.
template <class Space = host_space>
struct probes {
  using kind = needs_probes;
  rows<Space> queries;
  rows<Space> keys = {};
  slice<probe_stretch const> stretches = {};
};
template <class T, class Space>
probes(rows_view<T, Space>) -> probes<Space>;
template <class T, class U, class Space>
probes(rows_view<T, Space>, rows_view<U, Space>) -> probes<Space>;
template <class T, class U, class Space>
probes(rows_view<T, Space>, rows_view<U, Space>, slice<probe_stretch const>) -> probes<Space>;

/// Queries before RoPE, of the newest `queries.tokens` tokens of every sequence, in text order:
/// [sequence, q_head, token, head_dim], of any element type. A row with fewer tokens takes the
/// last ones.
template <class Space = host_space>
struct raw_queries {
  using kind = needs_raw_queries;
  rows<Space> queries;
};
template <class T, class Space>
raw_queries(rows_view<T, Space>) -> raw_queries<Space>;
template <class Space>
raw_queries(detail::typeless_rows<void const, Space>) -> raw_queries<Space>;

/// Mean and covariance of a model's queries before RoPE, found offline for every layer and query
/// head: [layer, q_head, 1, head_dim] and [layer, q_head, head_dim, head_dim]. Layers are
/// consecutive sequences of the view; one layer serves all.
template <class Space = host_space>
struct query_statistics {
  using kind = needs_query_statistics;
  rows<Space> mean, covariance;
};
template <class T, class U, class Space>
query_statistics(rows_view<T, Space>, rows_view<U, Space>) -> query_statistics<Space>;

/// What a layer reads in front of its projections of Q, K and V, for every cell of the view:
/// [sequence, 1, cell, width], or [sequence, kv_head, cell, width] where heads hold different
/// tokens in a cell.
template <class Space = host_space>
struct hidden_states {
  using kind = needs_hidden_states;
  rows<Space> states;
};
template <class T, class Space>
hidden_states(rows_view<T, Space>) -> hidden_states<Space>;
template <class Space>
hidden_states(detail::typeless_rows<void const, Space>) -> hidden_states<Space>;

/// A trained gate beside every layer, as Fast KVzip's: it projects a hidden state to a small key of
/// each KV head and a small query of each query head. Of any element type and stride, so that
/// weights are viewed as they lie; layers are consecutive sequences of the view, one layer serves
/// all.
template <class Space = host_space>
struct gate_weights {
  using kind = needs_gate_weights;
  rows<Space> query;       ///< [layer, q_head, dim, width]: q_proj.weight
  rows<Space> query_bias;  ///< [layer, q_head, 1, dim]: q_proj.bias
  rows<Space> query_gain;  ///< [layer, 1, 1, dim]: q_norm.weight
  rows<Space> key;         ///< [layer, kv_head, dim, width]: k_proj.weight
  rows<Space> key_gain;    ///< [layer, 1, 1, dim]: k_norm.weight
  rows<Space> sinks;       ///< [layer, kv_head, sinks, dim]: k_base
  rows<Space> offset;      ///< [layer, kv_head, 1, q_heads / kv_heads]: b
};

/// One float per cell, made by the caller: accumulated attention, or scores of other layers reduced
/// into one row. Shape [sequence, kv_head, cell] over the view's extents.
template <class Space = host_space>
struct token_scores {
  using kind = needs_token_scores;
  float const* data = nullptr;
};

/// A direction for every layer and KV head that the model's queries lie along, found offline:
/// [layer, kv_head, 1, head_dim], of any element type. Layers are consecutive sequences of the
/// view; one layer serves all.
template <class Space = host_space>
struct query_filters {
  using kind = needs_query_filters;
  rows<Space> filters;
};
template <class T, class Space>
query_filters(rows_view<T, Space>) -> query_filters<Space>;
template <class Space>
query_filters(detail::typeless_rows<void const, Space>) -> query_filters<Space>;

template <class... Needs>
struct needs_list {};

/// Any combination of parts, each a struct with `using kind`: `evidence{window_queries{q}}`,
/// `evidence<>{}` for none.
template <class... Parts>
struct evidence : Parts... {
  constexpr evidence() = default;
  constexpr explicit evidence(Parts... parts) noexcept requires(sizeof...(Parts) > 0)
      : Parts{parts}... {}

  template <class Kind>
  static constexpr bool has = (std::same_as<typename Parts::kind, Kind> || ...);

  /// The part of that kind.
  template <class Kind>
  requires has<Kind>
  [[nodiscard]] constexpr auto const& get() const noexcept { return find<Kind, Parts...>(); }

 private:
  template <class Kind, class First, class... Rest>
  [[nodiscard]] constexpr auto const& find() const noexcept {
    if constexpr (std::same_as<typename First::kind, Kind>)
      return static_cast<First const&>(*this);
    else
      return find<Kind, Rest...>();
  }
};
template <class... Parts>
evidence(Parts...) -> evidence<Parts...>;

namespace detail {

template <class Evidence, class List>
struct provides_all : std::true_type {};
template <class Evidence, class... Needs>
struct provides_all<Evidence, needs_list<Needs...>>
    : std::bool_constant<(Evidence::template has<Needs> && ...)> {};

}  // namespace detail

KVSLIM_END_NAMESPACE
