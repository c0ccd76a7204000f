// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// What a scorer may look at besides the cache. A scorer names what it reads (`using needs =
/// needs_list<...>`); asking for evidence that the caller did not pass is a compile error, never a
/// null pointer.

#include <kvslim/core/view.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Post-RoPE queries of the last `queries.tokens` positions of every sequence: [sequence, q_head,
/// window, head_dim].
template <class T, class Space = host_space>
struct window_queries {
  rows_view<T const, Space> queries;
};
template <class T, class Space>
window_queries(rows_view<T, Space>) -> window_queries<std::remove_const_t<T>, Space>;

/// One float per token, made by the caller: accumulated attention, or scores of other layers
/// reduced into one row. Shape [sequence, kv_head, token] over the view's extents.
template <class Space = host_space>
struct token_scores {
  float const* data = nullptr;
};

struct needs_window_queries {};
struct needs_token_scores {};

template <class... Needs>
struct needs_list {};

/// Any combination of parts: `evidence{window_queries{q}}`, `evidence<>{}` for none.
template <class... Parts>
struct evidence : Parts... {
  constexpr evidence() = default;
  constexpr explicit evidence(Parts... parts) noexcept requires(sizeof...(Parts) > 0)
      : Parts{parts}... {}
};
template <class... Parts>
evidence(Parts...) -> evidence<Parts...>;

namespace detail {

template <class T, class Space>
constexpr window_queries<T, Space> const& find_window(
    window_queries<T, Space> const& part) noexcept {
  return part;
}
template <class Space>
constexpr token_scores<Space> const& find_scores(token_scores<Space> const& part) noexcept {
  return part;
}

template <class Evidence, class Need>
struct provides : std::false_type {};
template <class Evidence>
requires requires(Evidence const& e) { find_window(e); }
struct provides<Evidence, needs_window_queries> : std::true_type {};
template <class Evidence>
requires requires(Evidence const& e) { find_scores(e); }
struct provides<Evidence, needs_token_scores> : std::true_type {};

template <class Evidence, class List>
struct provides_all : std::true_type {};
template <class Evidence, class... Needs>
struct provides_all<Evidence, needs_list<Needs...>>
    : std::bool_constant<(provides<Evidence, Needs>::value && ...)> {};

template <class Policy>
struct needs_of {
  using type = needs_list<>;
};
template <class Policy>
requires requires { typename Policy::needs; }
struct needs_of<Policy> {
  using type = typename Policy::needs;
};

}  // namespace detail

KVSLIM_END_NAMESPACE
