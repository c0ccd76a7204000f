// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Mergers by name: those that fold runs of neighbours, and those that assign.

#include "methods.hpp"

#include <kvslim/merge/cam.hpp>
#include <kvslim/merge/chelsea.hpp>
#include <kvslim/merge/compensation_token.hpp>
#include <kvslim/merge/d2o.hpp>
#include <kvslim/merge/kvmerger.hpp>
#include <kvslim/merge/lookm.hpp>

namespace example {

namespace {

/// One side of the two does not apply, and is never asked.
template <class Merger, bool Alone = !Merger::traits.assigns>
struct merger_of final : merger_method {
  Merger policy;

  static constexpr bool assigning = Merger::traits.assigns;
  [[nodiscard]] bool assigns() const override { return assigning; }
  [[nodiscard]] bool works_alone() const override { return Alone; }
  [[nodiscard]] kvslim::status check() const override { return policy.check(); }
  [[nodiscard]] bool mass_bias() const override { return policy.mass_bias(); }
  [[nodiscard]] bool grows() const override { return policy.grows(); }
  [[nodiscard]] kvslim::run_rule joins() const override {
    if constexpr (!assigning) return policy.joins();
    return {};
  }
  [[nodiscard]] float fact(kvslim::fold_member const& m) const override {
    if constexpr (!assigning) return policy.fact(m);
    return static_cast<float>(m.members);
  }
  [[nodiscard]] kvslim::fold_weights weigh(kvslim::fold_member const& m) const override {
    if constexpr (!assigning) return policy.weigh(m);
    return {m.sum, m.sum};
  }
  [[nodiscard]] bool folds_keys() const override {
    if constexpr (assigning) return policy.folds_keys();
    return true;
  }
  [[nodiscard]] index_t span() const override {
    if constexpr (assigning) return policy.span();
    return 1;
  }
  [[nodiscard]] index_t scratch_floats(kvslim::extents const& e) const override {
    if constexpr (assigning) return policy.scratch_floats(e);
    return e.head_dim;
  }
  [[nodiscard]] kvslim::status assign(kvslim::text<cache> const& text, kvslim::score_view scores,
                                      kvslim::fate const* fates, kvslim::folding const& out,
                                      float* scratch) const override {
    if constexpr (assigning)
      return policy.assign(kvslim::cpu{}, text, scores, fates, out, scratch);
    else
      return {kvslim::errc::unsupported, "kvslim_run: this merger folds runs"};
  }
  [[nodiscard]] kvslim::fold_share share(float strength) const override {
    if constexpr (assigning) return policy.share(strength);
    return {.key = strength};
  }
};

}  // namespace

table<merger_method> mergers() {
  table<merger_method> all;
  add<merger_of<kvslim::kvmerger>>(
      all, "kvmerger", "arXiv:2407.08454", "similar neighbours become one", [](auto& p) {
        return options{
            {"threshold", &p.opt.threshold, "cosine above which neighbours join (paper)"},
            {"sigma", &p.opt.sigma, "width of the Gaussian (paper); 0: from the mean distance"},
            {"recent", &p.opt.recent, "newest tokens that never merge, without a quota"},
            {"sinks", &p.opt.sinks, "first tokens that never merge, without a quota"},
            {"value_scale_n", &p.opt.value_scale_n, "the paper's factor on merged values"},
            {"mass_bias", &p.opt.mass_bias, "store the members' mass as a logit bias"}};
      });
  add<merger_of<kvslim::lookm>>(
      all, "lookm", "arXiv:2406.18139", "what goes joins its most alike kept token", [](auto& p) {
        return options{
            {"merge", choice(p.opt.merge, {"averaged", "pivotal", "weighted", "normalized"}),
             "how rows become one (paper: pivotal)"},
            {"filter", choice(p.opt.filter, {"none", "mean", "places"}),
             "what folds at all (authors, weighted: places)"},
            {"least", &p.opt.least, "lowest cosine that folds (authors: any)"},
            {"mass_bias", &p.opt.mass_bias, "store folded mass as a logit bias"}};
      });
  add<merger_of<kvslim::cam>>(
      all, "cam", "ICML 2024, CaM", "values of what goes are handed on, by chance", [](auto& p) {
        return options{
            {"window", &p.opt.window, "kept tokens that share one (authors)"},
            {"draws", &p.opt.draws, "all or nothing (authors); false: the expected part"},
            {"seed", &p.opt.seed, "of the draws"}};
      });
  add<merger_of<kvslim::compensation_token>>(
      all, "compensation_token", "arXiv:2407.15891", "the mean of all that goes is one token",
      [](auto& p) {
        return options{{"mass_bias", &p.opt.mass_bias,
                        "attends as often as tokens went (paper); false: once"}};
      });
  add<merger_of<kvslim::d2o>>(
      all, "d2o", "arXiv:2406.13035", "what is alike enough joins, the rest goes", [](auto& p) {
        return options{
            {"weights", choice(p.opt.weights, {"counted", "softmax"}),
             "of joining rows (authors: counted; paper: softmax)"},
            {"filter", choice(p.opt.filter, {"none", "mean", "places"}), "what joins (authors)"},
            {"least", &p.opt.least, "lowest cosine that joins (authors: any)"},
            {"mass_bias", &p.opt.mass_bias, "store folded mass as a logit bias"},
            {"running", &p.opt.running, "the threshold runs on while decoding: not in one run"},
            {"past", &p.opt.past, "of the last threshold in the next one (authors)"},
            {"present", &p.opt.present, "of the mean likeness in it (authors)"}};
      });
  add<merger_of<kvslim::chelsea, true>>(
      all, "chelsea", "arXiv:2506.11418", "halves of a chunk find each other", [](auto& p) {
        return options{{"chunk", &p.opt.chunk, "tokens among which partners are looked for"},
                       {"part", &p.opt.part, "of a chunk's half that joins"},
                       {"sinks", &p.opt.sinks, "first tokens, left alone"},
                       {"recent", &p.opt.recent, "newest tokens, left alone"},
                       {"mass_bias", &p.opt.mass_bias, "store the members' mass as a logit bias"}};
      });
  return all;
}

}  // namespace example
