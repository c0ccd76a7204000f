// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Every method that wraps a scorer: one add() each.

#include "methods.hpp"
#include "scores_by_rank.hpp"

#include <kvslim/run/select.hpp>
#include <kvslim/score/criticalkv.hpp>

namespace example {

namespace {

struct criticalkv_over_scores final : rescorer_method {
  kvslim::criticalkv_options policy;

  void rescore(problem const& p, ranked& scores) const override {
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
  return all;
}

}  // namespace example
