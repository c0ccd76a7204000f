// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// CriticalKV keeps half of the budget by another scorer and half by that scorer times what the
// token's value can do to the attention's output: ||v W_O||_1. "Identify Critical KV Cache in LLM
// Inference from an Output Perturbation Perspective", arXiv:2502.03805, algorithm 1.
// NVIDIA/kvpress 0.5.5, criticalkv_press.py; the authors' own repository was not read.
//
// Fidelity: the first stage's size is an option of its own, `budget * first_stage`, because a
// scorer does not know the quota; give both the same budget.
// Fidelity: tokens that the other scorer protects (its window) count in the first stage, as in
// kvpress, where they score most.
// Fidelity: CriticalAdaKV's first stage follows each head's share of a common budget; that is not
// here.

#include <kvslim/ops/projected_norms.hpp>
#include <kvslim/ops/score_any.hpp>
#include <kvslim/ops/second_stage.hpp>
#include <kvslim/score/shared.hpp>

KVSLIM_BEGIN_NAMESPACE

struct criticalkv_options {
  index_t budget = 256;      ///< tokens that the quota keeps of a row
  float first_stage = 0.5f;  ///< part of it that goes by the scores alone, in [0, 1] (kvpress)
  float epsilon = 1e-4f;     ///< added before scores are weighed (kvpress)
};

namespace detail {

template <class Needs>
struct with_projection;
template <class... Needs>
struct with_projection<needs_list<Needs...>> {
  using type = scorer_traits<no_column, Needs..., needs_output_projection>;
};

}  // namespace detail

/// Any scorer that observes nothing, in two stages: `criticalkv{snapkv{}, {.budget = 512}}`.
/// Requires: evidence output_projection, [layers, n * kv_heads, value_width, width]
/// (invalid_shape), besides the scorer's; options as below (invalid_option). Turn off a scorer's
/// own factor of the values. Cost: the scorer's, ops::projected_norms and a selection; workspace 13
/// bytes a token. Source: arXiv:2502.03805.
template <scorer Scorer>
struct criticalkv {
  static_assert(!Scorer::traits.observes && !detail::is_shared<Scorer>,
                "kvslim: criticalkv takes a bare scorer that observes nothing; share criticalkv "
                "itself");
  static constexpr
      typename detail::with_projection<typename detail::traits_of<Scorer>::needs>::type traits{
          .bulk = true, .states = Scorer::traits.states};

  Scorer scorer = {};
  criticalkv_options opt = {};

  [[nodiscard]] constexpr index_t protected_recent() const noexcept {
    return ops::recent_of(scorer);
  }
  [[nodiscard]] constexpr index_t scratch_floats(extents const& e) const noexcept {
    detail::carver carve(nullptr);
    static_cast<void>(take(carve, e));
    return detail::div_up(carve.used(), detail::max(1, e.rows()) * index_t{sizeof(float)});
  }
  [[nodiscard]] constexpr status check(extents const& e) const noexcept {
    if (opt.budget < 0 || !(opt.first_stage >= 0.0f && opt.first_stage <= 1.0f) ||
        !(opt.epsilon >= 0.0f) || opt.epsilon > ops::largest_float)
      return detail::fail(
          errc::invalid_option,
          "kvslim: criticalkv needs budget and epsilon >= 0, first_stage in [0, 1]");
    return ops::check_scorer(scorer, e);
  }
  template <class Text, class Evidence>
  [[nodiscard]] status check(Text const& text, Evidence const& evidence) const noexcept {
    auto const& e = text.extents();
    auto const& w = evidence.template get<needs_output_projection>().weights;
    if (w.data != nullptr && (w.heads < 1 || w.heads % e.kv_heads != 0 || w.head_dim < 1))
      return detail::fail(errc::invalid_shape,
                          "kvslim: an output projection needs n * kv_heads query heads");
    if (auto const s = ops::check_table(w, e, w.heads, e.value_width(), w.head_dim); !s) return s;
    return ops::check_scorer(scorer, text, evidence);
  }

  template <class Exec, class Text, class Evidence>
  [[nodiscard]] status score(Exec const& exec, Text const& text, Evidence const& evidence,
                             score_view out, float* scratch) const {
    detail::carver carve(static_cast<std::byte*>(static_cast<void*>(scratch)));
    auto const memory = take(carve, text.extents());
    if (auto const s = ops::score_any(exec, scorer, text, evidence, out, memory.scratch); !s)
      return s;
    if (auto const s = ops::projected_norms(
            exec, text, evidence.template get<needs_output_projection>().weights, memory.norms,
            memory.scratch);
        !s)
      return s;
    return ops::second_stage(exec, text, {first_stage(), opt.epsilon}, memory.norms, memory.stage,
                             out);
  }

 private:
  struct space {
    ops::stage_memory stage;
    score_view norms;
    float* scratch;  // the scorer's, then that of the norms
  };
  [[nodiscard]] constexpr space take(detail::carver& c, extents const& e) const noexcept {
    index_t const rows = e.rows(), all = rows * e.tokens;
    index_t const floats = detail::max(ops::projected_floats(e), ops::floats_of(scorer, e));
    space x{};
    x.stage.keys = c.take<std::uint64_t>(all);
    x.stage.quotas = c.take<quota>(rows);
    x.stage.fates = c.take<fate>(all);
    x.norms = {c.take<float>(all), e.tokens};
    x.scratch = c.take<float>(rows * floats);
    return x;
  }
  /// At least one token, if any is kept at all (kvpress).
  [[nodiscard]] constexpr quota first_stage() const noexcept {
    auto const part = static_cast<index_t>(static_cast<double>(opt.budget) *
                                           static_cast<double>(opt.first_stage));
    bool const any = opt.budget > 0 && opt.first_stage > 0.0f;
    return {.count = any ? detail::max(1, part) : 0, .recent = protected_recent()};
  }
};
template <class Scorer>
criticalkv(Scorer) -> criticalkv<Scorer>;
template <class Scorer>
criticalkv(Scorer, criticalkv_options) -> criticalkv<Scorer>;

KVSLIM_END_NAMESPACE
