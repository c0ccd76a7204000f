// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

template <class Tag>
struct stage_rank;
template <>
struct stage_rank<scorer_tag> : std::integral_constant<int, 0> {};
template <>
struct stage_rank<quota_tag> : std::integral_constant<int, 1> {};
template <>
struct stage_rank<keep_tag> : std::integral_constant<int, 2> {};
template <>
struct stage_rank<merger_tag> : std::integral_constant<int, 3> {};
template <>
struct stage_rank<position_tag> : std::integral_constant<int, 4> {};
template <>
struct stage_rank<quantizer_tag> : std::integral_constant<int, 5> {};
template <>
struct stage_rank<index_tag> : std::integral_constant<int, 6> {};

template <class S>
[[nodiscard]] constexpr int rank_of() noexcept {
  if constexpr (has_traits<S>)
    return stage_rank<typename stage_of<S>::type>::value;
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

/// Declared and present, both ways. `Good` says whether S is a sound policy of its kind at all.
template <class S, class Tag>
struct check_kind {};

template <class S>
struct check_kind<S, scorer_tag> {
  static_assert(
      S::traits.bulk || has_token_score<S>,
      "kvslim: a scorer needs `float score(auto const& token) const` (or says .bulk = true "
      "and has the members of bulk_scorer)");
  static_assert(!S::traits.bulk || has_bulk_score<S>,
                "kvslim: a scorer that says .bulk = true needs the members of bulk_scorer, see "
                "core/concepts.hpp");
  static_assert(
      !S::traits.observes || has_observe<S>,
      "kvslim: a scorer that says .observes = true needs `Column born(place const&) const` "
      "and `void observe(Column&, float mass, place const&) const`");
  static_assert(
      S::traits.observes || !has_observe<S>,
      "kvslim: this scorer has observe() and does not say .observes = true: it would never "
      "be called");
  static_assert(!S::traits.gates || (has_doubt<S> && !S::traits.bulk),
                "kvslim: a scorer that says .gates = true scores tokens and needs `float "
                "doubt(auto const& token) const` and `gate gate() const`");
  static_assert(S::traits.gates || !has_doubt<S>,
                "kvslim: this scorer has doubt() and does not say .gates = true: it would never be "
                "called");
  static_assert(!S::traits.states || S::traits.bulk,
                "kvslim: only a scorer that says .bulk = true states statistics of rows");
  static_assert(!S::traits.observes || !std::is_empty_v<column_of<S>>,
                "kvslim: a scorer that observes names its column: scorer_traits<my_column>");
};

template <class S>
concept has_open = requires(S const s, extents const& e, index_t recent) {
  { s.open(e, recent) } -> std::same_as<contest>;
};

template <class S>
struct check_kind<S, quota_tag> {
  static_assert(quota_policy<S>,
                "kvslim: a quota needs `check(extents)`, `group()`, `most(extents)`, "
                "`total(extents)` and `allocate(facts, quotas)`");
  static_assert(!S::traits.contests || has_open<S>,
                "kvslim: a quota that says .contests = true needs `contest open(extents, index_t "
                "recent) const`");
  static_assert(
      S::traits.contests || !has_open<S>,
      "kvslim: this quota has open() and does not say .contests = true: it would never be "
      "called");
};

template <class S>
struct check_kind<S, keep_tag> {
  static_assert(keep_rule<S>,
                "kvslim: a keep rule needs `check(extents)`, `scratch_bytes(extents)` and "
                "`keep(exec, text, scores, quotas, fates, scratch)`");
};

template <class S>
struct check_kind<S, merger_tag> {
  static_assert(merger<S>,
                "kvslim: a merger needs `weigh(member)`, `fact(member)`, `joins()`, `check()`, "
                "`mass_bias()` and `grows()`: derive from kvslim::neighbour_merger; or, with "
                "`.assigns = true`, `assign` and `share`: derive from kvslim::assigning_merger");
  static_assert(S::traits.assigns || !has_assign<S>,
                "kvslim: this merger has assign() and does not say .assigns = true");
  static_assert(
      S::traits.memory == 0 || (S::traits.assigns && has_row_bytes<S>),
      "kvslim: a merger that says .memory assigns, and needs `index_t row_bytes() const`");
  static_assert(S::traits.memory != 0 || !has_row_bytes<S>,
                "kvslim: this merger has row_bytes() and does not say .memory: nothing would be "
                "kept");
};

template <class S>
struct check_kind<S, position_tag> {
  static_assert(
      repositioner<S>,
      "kvslim: a repositioner needs `move(key, head_dim, from, to)`, `check(extents)` and "
      "`fingerprint()`");
};

template <class S>
struct check_kind<S, quantizer_tag> {
  static_assert(quantizer<S>, "kvslim: a quantizer needs `key_codec()` and `value_codec()`");
};

template <class S>
struct check_kind<S, index_tag> {
  static_assert(page_index<S>,
                "kvslim: an index needs `check(extents)`, `page_tokens()`, `reads(slots)`, "
                "`newest(slots)`, `summarize(channel, fields)` and `term(q, fields)`");
  static_assert(S::traits.fields >= 1 && S::traits.fields <= 4,
                "kvslim: an index stores one to four numbers a channel");
};

template <class S>
struct check_stage : check_kind<S, typename stage_of<S>::type> {
  static_assert(has_traits<S>,
                "kvslim: a policy must say what it is: add `static constexpr "
                "kvslim::scorer_traits<> traits{};` (or another kind's)");
  static_assert(std::is_trivially_copyable_v<S>,
                "kvslim: a policy must be trivially copyable: options only, nothing it owns");
};

template <class... S>
inline constexpr bool any_nameless = (!has_traits<S> || ...);

template <int Rank, class... S>
inline constexpr bool holds = ((rank_of<S>() == Rank) || ...);

template <class S>
[[nodiscard]] constexpr bool flag_of(auto const& flag) noexcept {
  if constexpr (has_traits<S>)
    return flag(S::traits);
  else
    return false;
}
template <class S>
inline constexpr bool reads_statistics = flag_of<S>([](auto const& t) {
  if constexpr (requires { t.statistics; }) return t.statistics;
  return false;
});
template <class S>
inline constexpr bool states_statistics = flag_of<S>([](auto const& t) {
  if constexpr (requires { t.states; }) return t.states;
  return false;
});

template <class... S>
struct check_pipeline : check_stage<S>... {
  static_assert(any_nameless<S...> || in_order<S...>(),
                "kvslim: stages must come in the order score, quota, keep rule, merge, reposition, "
                "quantize, index, each at most once");
  static_assert(any_nameless<S...> || !holds<1, S...> || holds<0, S...>,
                "kvslim: a quota needs a scorer before it");
  static_assert(any_nameless<S...> || !(reads_statistics<S> || ...) ||
                    (states_statistics<S> || ...),
                "kvslim: this quota reads statistics of rows: the scorer before it must state them "
                "(cake_scores does)");
  static_assert(any_nameless<S...> || !holds<2, S...> || holds<1, S...>,
                "kvslim: a keep rule needs a quota before it");
  static_assert(any_nameless<S...> || !holds<3, S...> || holds<0, S...>,
                "kvslim: a merger needs a scorer before it");
};

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

/// Stages run in one pass: score, quota, keep rule, merge, reposition, quantize, index; each
/// optional, each at most once. Without a scorer everything is kept; without a quantizer rows are
/// stored as f16. Checked when the type is named.
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
