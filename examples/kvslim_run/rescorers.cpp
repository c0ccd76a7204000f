// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Every method that wraps a scorer: one add() each.

#include "methods.hpp"
#include "scores_by_rank.hpp"

#include <kvslim/run/select.hpp>
#include <kvslim/score/blend.hpp>
#include <kvslim/score/criticalkv.hpp>

namespace example {

namespace {

struct criticalkv_over_scores final : rescorer_method {
  kvslim::criticalkv_options policy;

  void rescore(problem const& p, scorer_method const&, ranked& scores,
               ranked const&) const override {
    if (!p.projection.given())
      throw refusal(name +
                    " reads output_projection [layers, query heads, value_dim, width], "
                    "which the file lacks");
    kvslim::pipeline const pipe{kvslim::criticalkv{scores_by_rank{scores}, policy}};
    auto const plan = kvslim::make_plan(pipe, p.data.extent, {.logit = p.logit});
    demand(plan.check());
    std::vector<float> out(scores.scores.size());
    std::vector<std::byte> scratch(plan.select_bytes() + plan.keep_bytes());
    kvslim::evidence const evidence{
        kvslim::output_projection{p.projection.newest(p.projection.tokens)}};
    demand(kvslim::score(kvslim::cpu{}, plan, p.data.view(), evidence,
                         kvslim::score_view{out.data(), p.data.extent.tokens}, scratch));
    scores.scores = std::move(out);
  }
};

struct blend_of_scores final : rescorer_method {
  kvslim::blend_options policy;

  [[nodiscard]] bool takes_two() const override { return true; }
  void rescore(problem const& p, scorer_method const&, ranked& scores,
               ranked const& other) const override {
    kvslim::pipeline const pipe{
        kvslim::blend{scores_by_rank{scores}, scores_by_rank{other}, policy}};
    auto const plan = kvslim::make_plan(pipe, p.data.extent, {.logit = p.logit});
    demand(plan.check());
    std::vector<float> out(scores.scores.size());
    std::vector<std::byte> scratch(plan.select_bytes() + plan.keep_bytes());
    demand(kvslim::score(kvslim::cpu{}, plan, p.data.view(), kvslim::evidence<>{},
                         kvslim::score_view{out.data(), p.data.extent.tokens}, scratch));
    scores = {std::move(out), plan.protected_recent(), {}};
  }
};

struct scorer_in_chunks final : rescorer_method {
  kvslim::chunked_options policy;

  void rescore(problem const& p, scorer_method const& scorer, ranked& scores,
               ranked const&) const override {
    scores = scorer.score_chunks(p, policy);
  }
};

}  // namespace

table<rescorer_method> rescorers() {
  table<rescorer_method> all;
  add<criticalkv_over_scores>(
      all, "criticalkv", "arXiv:2502.03805", "by the projected values' norm, in two stages",
      [](auto& p) {
        return options{{"budget", tokens_to{&p.budget}, "tokens that the quota keeps of a row"},
                       {"first_stage", &p.first_stage, "part that goes by the scores (kvpress)"},
                       {"epsilon", &p.epsilon, "added before scores are weighed (kvpress)"}};
      });
  add<blend_of_scores>(
      all, "blend", "-", "the weighted sum with another scorer's, \"other\"", [](auto& p) {
        return options{
            {"first", &p.first, "weight of the scorer"},
            {"second", &p.second, "weight of the other"},
            {"standard", &p.standard, "each row's scores less their mean, over their deviation"}};
      });
  add<scorer_in_chunks>(all, "chunked", "TACL 2024, FINCH",
                        "asked about one chunk at a time, evenly", [](auto& p) {
                          return options{{"size", &p.size, "tokens of a chunk (kvpress)"}};
                        });
  return all;
}

}  // namespace example
