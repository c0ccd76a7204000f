// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

template <class Stage>
struct stage_rank;
template <>
struct stage_rank<scorer_tag> : std::integral_constant<int, 0> {};
template <>
struct stage_rank<selector_tag> : std::integral_constant<int, 1> {};
template <>
struct stage_rank<merger_tag> : std::integral_constant<int, 2> {};
template <>
struct stage_rank<position_tag> : std::integral_constant<int, 3> {};
template <>
struct stage_rank<quantizer_tag> : std::integral_constant<int, 4> {};

template <class S>
concept has_stage = requires {
  typename S::stage;
};

template <class S>
[[nodiscard]] constexpr int rank_of() noexcept {
  if constexpr (has_stage<S>)
    return stage_rank<typename S::stage>::value;
  else
    return -1;
}

template <class... S>
[[nodiscard]] constexpr bool in_order() noexcept {
  int last = -1;
  bool ordered = true;
  ((ordered = ordered && rank_of<S>() > last, last = rank_of<S>()), ...);
  return ordered;
}

/// True for stages of another kind, so that each check below speaks only of its own.
template <class S, int Rank>
inline constexpr bool not_rank = !has_stage<S> || rank_of<S>() != Rank;

template <class S>
struct check_stage {
  static_assert(has_stage<S>,
                "kvslim: a policy must say what it is: add `using stage = kvslim::scorer_tag;` (or "
                "another tag)");
  static_assert(std::is_trivially_copyable_v<S>,
                "kvslim: a policy must be trivially copyable: options only, nothing it owns");
  static_assert(!has_stage<S> || !std::is_trivially_copyable_v<S> || not_rank<S, 0> || scorer<S>,
                "kvslim: a scorer needs `float score(auto const& token) const` (or the members of "
                "bulk_scorer)");
  static_assert(
      !has_stage<S> || not_rank<S, 1> || selector<S>,
      "kvslim: a selector needs `capacity(tokens)`, `check(extents)` and `select(selection_row)`");
  static_assert(!has_stage<S> || not_rank<S, 2> || merger<S>,
                "kvslim: a merger needs `check()` and `mass_bias()`, see core/concepts.hpp");
  static_assert(
      !has_stage<S> || not_rank<S, 3> || repositioner<S>,
      "kvslim: a repositioner needs `move(key, head_dim, from, to)` and `check(extents)`");
  static_assert(!has_stage<S> || not_rank<S, 4> || quantizer<S>,
                "kvslim: a quantizer needs `key_codec()`, `value_codec()` and a static `scheme()`");
};

template <class... S>
struct check_pipeline : check_stage<S>... {
  static_assert((!has_stage<S> || ...) || in_order<S...>(),
                "kvslim: stages must come in the order score, select, merge, reposition, quantize, "
                "each at most once");
  static_assert((!has_stage<S> || ...) || !((rank_of<S>() == 1) || ...) ||
                    ((rank_of<S>() == 0) || ...),
                "kvslim: a selector needs a scorer before it");
  static_assert((!has_stage<S> || ...) || !((rank_of<S>() == 2) || ...) ||
                    ((rank_of<S>() == 0) || ...),
                "kvslim: a merger needs a scorer before it");
};

struct no_stage {};

template <class S>
struct slot {
  S stage_;
};

template <int Rank, class... S>
struct find_stage {
  using type = no_stage;
};
template <int Rank, class First, class... Rest>
struct find_stage<Rank, First, Rest...> {
  using type =
      std::conditional_t<rank_of<First>() == Rank, First, typename find_stage<Rank, Rest...>::type>;
};

}  // namespace detail

/// Stages run in one pass: score, select, merge, reposition, quantize; each optional, each at most
/// once. Without a scorer everything is kept; without a quantizer rows are stored as f16. Checked
/// when the type is named.
template <class... Stages>
struct pipeline : private detail::check_pipeline<Stages...>, private detail::slot<Stages>... {
  constexpr explicit pipeline(Stages... stages) noexcept : detail::slot<Stages>{stages}... {}

  template <class Tag>
  using stage_type = typename detail::find_stage<detail::stage_rank<Tag>::value, Stages...>::type;
  template <class Tag>
  static constexpr bool has = !std::same_as<stage_type<Tag>, detail::no_stage>;

  template <class Tag>
  [[nodiscard]] KVSLIM_HD constexpr stage_type<Tag> const& get() const noexcept {
    return static_cast<detail::slot<stage_type<Tag>> const&>(*this).stage_;
  }
};
template <class... Stages>
pipeline(Stages...) -> pipeline<Stages...>;

namespace detail {

template <class P>
inline constexpr bool is_pipeline = false;
template <class... S>
inline constexpr bool is_pipeline<pipeline<S...>> = true;

}  // namespace detail

KVSLIM_END_NAMESPACE
