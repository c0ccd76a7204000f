// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "compare/entries.hpp"

namespace example {

using namespace kvslim;

namespace {

/// Every KV head is given the scores of the next head of its layer.
template <auto Scorer, index_t Window>
std::vector<float> next_heads_scores(prefilled const& text, index_t layer, index_t layers,
                                     index_t length) {
  auto const view = text.cache(layer, layers, length);
  extents const& e = view.extents();
  auto const plan = make_plan(pipeline{Scorer, keep(0.5, length)}, e);
  aligned_buffer const scratch(plan.select_bytes() + plan.keep_bytes());
  std::vector<float> scores(static_cast<std::size_t>(e.rows() * e.tokens));
  evidence const queries{
      window_queries{text.window(layer, layers, length, Window == 0 ? length : Window)}};
  require(score(cpu{}, plan, view, queries, score_view{scores.data(), e.tokens}, scratch));
  for (auto row = scores.begin(); row != scores.end(); row += e.kv_heads * e.tokens)
    std::rotate(row, row + e.tokens, row + e.kv_heads * e.tokens);
  return scores;
}

/// One scorer at one budget. Every head keeps its own choice; all heads of a layer keep one; each
/// keeps the next head's, which is as varied and meant for another.
template <auto Scorer, index_t Window>
void add_choices(std::vector<method>& list, std::string const& name, double fraction,
                 model_shape const& s) {
  auto const add = [&](char const* what, auto make, session_options options = {.window = Window}) {
    list.push_back(entry(name + what, family::evicted, make, options));
    if (*what != 0) list.back().against = name;
  };
  row_group const heads{.sequences = 1, .kv_heads = s.kv_heads};
  add("", [=](index_t t) { return pipeline{Scorer, keep(fraction, t)}; });
  add(", layer's mean", [=](index_t t) {
    return pipeline{shared{Scorer, heads, reduce::mean}, keep(fraction, t)};
  });
  add(", layer's maximum", [=](index_t t) {
    return pipeline{shared{Scorer, heads, reduce::maximum}, keep(fraction, t)};
  });
  add(", next head's",
      [=](index_t t) {
        return pipeline{given_scores{}, keep(fraction, t)};
      },
      {.scores = next_heads_scores<Scorer, Window>});
}

}  // namespace

std::vector<method> head_methods(model const& m, bool bytes) {
  constexpr snapkv of_bytes{{.window = 32, .pool = snapkv_pool(true)}},
      of_words{{.window = 32, .pool = snapkv_pool(false)}};
  std::vector<method> list{entry("exact f16", family::exact, [](index_t) { return dense<f16>{}; })};
  auto const& s = m.shape();
  for (auto [percent, fraction] : {std::pair{"50 %", 0.5}, {"25 %", 0.25}, {"12.5 %", 0.125}}) {
    auto const name = std::string("SnapKV ") + percent;
    if (bytes)
      add_choices<of_bytes, 32>(list, name, fraction, s);
    else
      add_choices<of_words, 32>(list, name, fraction, s);
    snapkv const snap = bytes ? of_bytes : of_words;
    list.push_back(entry(name + ", AdaKV", family::evicted, [=](index_t t) {
      return pipeline{snap, adakv{{.budget = budget_for(fraction, t), .kv_heads = s.kv_heads}}};
    }));
    list.back().against = name;
  }
  add_choices<h2o<>{}, 0>(list, "H2O 25 %", 0.25, s);
  add_choices<random_scores{}, 32>(list, "Random 25 %", 0.25, s);
  return list;
}

}  // namespace example
