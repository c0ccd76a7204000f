// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Two scorers as one: the weighted sum of what they give a token, as they are or each row's made
// comparable first.
//
// Fidelity: no paper. `standard` is what NVIDIA/kvpress 0.5.5's compactor_press.py does to the two
// scores that it adds, over each row instead of over all heads: a sample's deviation, at least
// 1e-6.
// Fidelity: what a scorer puts above all others (sinks score the largest float) stays above all and
// counts in no mean.

#include <kvslim/ops/blend_scores.hpp>
#include <kvslim/ops/score_any.hpp>
#include <kvslim/score/shared.hpp>

KVSLIM_BEGIN_NAMESPACE

struct blend_options {
  float first = 0.5f, second = 0.5f;  ///< weights, finite
  bool standard = false;              ///< each row's scores less their mean, over their deviation
};

namespace detail {

template <class A, class B>
struct joined_needs;
template <class... A, class... B>
struct joined_needs<needs_list<A...>, needs_list<B...>> {
  using type = scorer_traits<no_column, A..., B...>;
};

template <class Scorer>
inline constexpr bool can_blend = !Scorer::traits.observes && !is_shared<Scorer>;

}  // namespace detail

/// The sum of two scorers' weighted scores: `blend{snapkv{}, knorm{}, {.standard = true}}`.
/// Requires: scorers that observe nothing, and their evidence; finite weights (invalid_option).
/// Cost: theirs; workspace a float a token. Source: none.
template <scorer First, scorer Second>
struct blend {
  static_assert(
      detail::can_blend<First> && detail::can_blend<Second>,
      "kvslim: blend takes two bare scorers that observe nothing; share the blend itself");
  static constexpr
      typename detail::joined_needs<typename detail::traits_of<First>::needs,
                                    typename detail::traits_of<Second>::needs>::type traits{
          .bulk = true};

  First one = {};
  Second other = {};
  blend_options opt = {};

  [[nodiscard]] constexpr index_t protected_recent() const noexcept {
    return detail::max(ops::recent_of(one), ops::recent_of(other));
  }
  [[nodiscard]] constexpr index_t scratch_floats(extents const& e) const noexcept {
    return e.tokens + detail::max(ops::floats_of(one, e), ops::floats_of(other, e));
  }
  [[nodiscard]] constexpr status check(extents const& e) const noexcept {
    auto const finite = [](float x) { return x <= ops::largest_float && x >= -ops::largest_float; };
    if (!finite(opt.first) || !finite(opt.second))
      return detail::fail(errc::invalid_option, "kvslim: blend needs finite weights");
    if (auto const s = ops::check_scorer(one, e); !s) return s;
    return ops::check_scorer(other, e);
  }
  template <class Text, class Evidence>
  [[nodiscard]] status check(Text const& text, Evidence const& evidence) const noexcept {
    if (auto const s = ops::check_scorer(one, text, evidence); !s) return s;
    return ops::check_scorer(other, text, evidence);
  }

  template <class Exec, class Text, class Evidence>
  [[nodiscard]] status score(Exec const& exec, Text const& text, Evidence const& evidence,
                             score_view out, float* scratch) const {
    auto const& e = text.extents();
    score_view const second{scratch, e.tokens}, first{out.data, out.tokens};
    float* const rest = scratch + e.rows() * e.tokens;
    if (auto const s = ops::score_any(exec, one, text, evidence, first, rest); !s) return s;
    if (auto const s = ops::score_any(exec, other, text, evidence, second, rest); !s) return s;
    return ops::blend_scores(exec, text, {opt.first, opt.second, opt.standard}, second, first);
  }
};
template <class First, class Second>
blend(First, Second) -> blend<First, Second>;
template <class First, class Second>
blend(First, Second, blend_options) -> blend<First, Second>;

KVSLIM_END_NAMESPACE
