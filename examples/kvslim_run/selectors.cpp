// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Every quota, keep rule, merger and repositioner: one add() each.

#include "methods.hpp"

#include <kvslim/keep/chunkkv.hpp>
#include <kvslim/keep/kvcrush.hpp>
#include <kvslim/ops/select.hpp>
#include <kvslim/reposition/rerotate.hpp>
#include <kvslim/select/adakv.hpp>
#include <kvslim/select/at_least.hpp>
#include <kvslim/select/cake.hpp>
#include <kvslim/select/coverage.hpp>
#include <kvslim/select/dynamickv.hpp>
#include <kvslim/select/head_classes.hpp>
#include <kvslim/select/head_table.hpp>
#include <kvslim/select/lukv.hpp>
#include <kvslim/select/one_budget.hpp>
#include <kvslim/select/pyramidkv.hpp>
#include <kvslim/select/top_k.hpp>
#include <kvslim/select/windowkv.hpp>

namespace example {

namespace {

template <class Quota>
struct quota_of final : quota_method {
  Quota policy;

  [[nodiscard]] bool reads_statistics() const override { return Quota::traits.statistics; }
  [[nodiscard]] kvslim::status check(kvslim::extents const& e) const override {
    return policy.check(e);
  }
  [[nodiscard]] kvslim::row_group group() const override { return policy.group(); }
  [[nodiscard]] index_t most(kvslim::extents const& e) const override { return policy.most(e); }
  [[nodiscard]] index_t total(kvslim::extents const& e) const override { return policy.total(e); }
  [[nodiscard]] kvslim::contest open(kvslim::extents const& e, index_t recent) const override {
    if constexpr (Quota::traits.contests) return policy.open(e, recent);
    return {};
  }
  void allocate(kvslim::slice<kvslim::row_facts const> facts,
                kvslim::slice<kvslim::quota> out) const override {
    policy.allocate(facts, out);
  }
};

/// What a pipeline without a keep rule does.
struct best_scores {
  [[nodiscard]] kvslim::status check(kvslim::extents const&) const { return {}; }
  [[nodiscard]] index_t scratch_bytes(kvslim::extents const& e) const {
    return e.rows() * e.tokens * 8;
  }
  kvslim::status keep(kvslim::cpu const& exec, kvslim::text<cache> const& text,
                      kvslim::score_view scores, kvslim::slice<kvslim::quota const> quotas,
                      kvslim::fate* fates, std::byte* scratch) const {
    auto* const keys = static_cast<std::uint64_t*>(static_cast<void*>(scratch));
    return kvslim::ops::keep_best(exec, text, scores, quotas, keys, fates);
  }
};

template <class Rule>
struct keep_of final : keep_method {
  Rule policy;

  [[nodiscard]] kvslim::status check(kvslim::extents const& e) const override {
    return policy.check(e);
  }
  [[nodiscard]] index_t scratch_bytes(kvslim::extents const& e) const override {
    return policy.scratch_bytes(e);
  }
  [[nodiscard]] kvslim::status keep(kvslim::text<cache> const& text, kvslim::score_view scores,
                                    kvslim::slice<kvslim::quota const> quotas, kvslim::fate* fates,
                                    std::byte* scratch) const override {
    return policy.keep(kvslim::cpu{}, text, scores, quotas, fates, scratch);
  }
};

template <class Mover>
struct mover_of final : mover_method {
  Mover policy;

  [[nodiscard]] kvslim::status check(kvslim::extents const& e) const override {
    return policy.check(e);
  }
  [[nodiscard]] std::uint64_t fingerprint() const override { return policy.fingerprint(); }
  void move(float* key, index_t head_dim, std::int32_t from, std::int32_t to) const override {
    policy.move(key, head_dim, from, to);
  }
};

/// Entries of a table with one for each layer and head.
template <class Policy>
std::function<index_t()> of_heads(Policy& p) {
  return [&p] {
    index_t count = 0;
    return __builtin_mul_overflow(p.opt.layers, p.opt.kv_heads, &count) ? -1 : count;
  };
}

char const* const budget_note = "tokens kept per KV head, on average; protected ones count";

}  // namespace

table<quota_method> quotas() {
  table<quota_method> all;
  add<quota_of<kvslim::top_k>>(all, "top_k", "-", "a budget per head", [](auto& p) {
    return options{{"budget", tokens_to{&p.opt.budget}, "tokens kept per KV head"},
                   {"sinks", &p.opt.sinks, "first tokens, always kept"},
                   {"recent", &p.opt.recent, "newest tokens, always kept"}};
  });
  add<quota_of<kvslim::adakv>>(
      all, "adakv", "arXiv:2407.11550", "heads of a layer compete for a budget", [](auto& p) {
        return options{{"budget", tokens_to{&p.opt.budget}, budget_note},
                       {"kv_heads", heads_to{&p.opt.kv_heads}, "that share their budgets"},
                       {"alpha", &p.opt.alpha, "part that is shared evenly (authors, kvpress)"},
                       {"safeguard", choice(p.opt.safeguard, {"exact", "authors", "pin"}),
                        "how a head is kept from winning too little (pin: kvpress)"}};
      });
  add<quota_of<kvslim::pyramidkv>>(
      all, "pyramidkv", "arXiv:2406.02069", "more for lower layers", [](auto& p) {
        return options{
            {"budget", tokens_to{&p.opt.budget}, budget_note},
            {"layers", sequences_to{&p.opt.layers},
             "of the model: the file's sequences are layers"},
            {"kv_heads", heads_to{&p.opt.kv_heads}, "of a layer"},
            {"layer", &p.opt.layer, "that all sequences are of; -1: they are layers"},
            {"beta", &p.opt.beta, "the last layer's part of the mean is 1 / beta (authors)"},
            {"rule", choice(p.opt.rule, {"exact", "authors", "kvpress"}), "how budgets lie"},
            {"mean", &p.opt.mean, "kvpress: tokens * (1 - removed); 0: the budget"}};
      });
  add<quota_of<kvslim::one_budget>>(
      all, "one_budget", "-", "rows and layers compete for a budget", [](auto& p) {
        return options{{"budget", tokens_to{&p.opt.budget}, budget_note},
                       {"layers", sequences_to{&p.opt.rows.sequences}, "sequences that share it"},
                       {"kv_heads", heads_to{&p.opt.rows.kv_heads}, "that share it"},
                       {"sinks", &p.opt.sinks, "first tokens of every row, always kept"},
                       {"recent", &p.opt.recent, "newest tokens of every row, always kept"}};
      });
  add<quota_of<kvslim::head_table<>>>(
      all, "head_table", "arXiv:2410.19258", "a budget for each layer and head, from a table",
      [](auto& p) {
        return options{{"counts", list_to<std::int32_t>{&p.opt.counts, of_heads(p)},
                        "[layers * kv_heads] tokens kept, protected included"},
                       {"layers", sequences_to{&p.opt.layers}, "of the table"},
                       {"kv_heads", heads_to{&p.opt.kv_heads}, "of a layer"},
                       {"most", tokens_to{&p.opt.most}, "no count is larger"},
                       {"total", &p.opt.total, "no sum is; 0: not known"},
                       {"sinks", &p.opt.sinks, "first tokens of every row, kept first"},
                       {"recent", &p.opt.recent, "newest tokens of every row, kept next"},
                       {"whole_below", &p.opt.whole_below, "a prompt of fewer tokens is kept"}};
      });
  add<quota_of<kvslim::head_classes<>>>(
      all, "head_classes", "arXiv:2410.10819", "retrieval heads keep all, streaming heads the ends",
      [](auto& p) {
        return options{
            {"retrieval", list_to<std::uint8_t>{&p.opt.retrieval, of_heads(p)},
             "[layers * kv_heads], not 0: keeps everything"},
            {"layers", sequences_to{&p.opt.layers}, "of the table"},
            {"kv_heads", heads_to{&p.opt.kv_heads}, "of a layer"},
            {"retrieval_heads", &p.opt.retrieval_heads, "at most so many; -1: not known"},
            {"sinks", &p.opt.sinks, "of a streaming head (authors)"},
            {"recent", &p.opt.recent, "of a streaming head (authors)"},
            {"between", &p.opt.between, "its best others; 1: for compensation_token"}};
      });
  add<quota_of<kvslim::cake>>(
      all, "cake", "arXiv:2503.12491", "layers by how spread out and unsteady their attention is",
      [](auto& p) {
        return options{
            {"budget", tokens_to{&p.opt.budget}, budget_note},
            {"layers", sequences_to{&p.opt.layers},
             "of the model: the file's sequences are layers"},
            {"kv_heads", heads_to{&p.opt.kv_heads}, "of a layer"},
            {"tau_entropy", &p.opt.tau_entropy, "the entropy's root (authors: per model)"},
            {"tau_variance", &p.opt.tau_variance, "the variance's"},
            {"slack", &p.opt.slack, "longer prompts than budget + slack are cut (authors)"}};
      });
  add<quota_of<kvslim::dynamickv>>(
      all, "dynamickv", "arXiv:2412.14838", "layers compete for a budget", [](auto& p) {
        return options{
            {"budget", tokens_to{&p.opt.budget}, budget_note},
            {"layers", sequences_to{&p.opt.layers},
             "of the model: the file's sequences are layers"},
            {"kv_heads", heads_to{&p.opt.kv_heads}, "of a layer"},
            {"largest", &p.opt.largest, "a layer keeps at most so many times the mean (authors)"}};
      });
  add<quota_of<kvslim::coverage>>(
      all, "coverage", "arXiv:2410.08584", "a part of each row's score (ZipVL)", [](auto& p) {
        return options{{"part", &p.opt.part, "of the score (ZipVL, images and video)"},
                       {"budget", tokens_to{&p.opt.budget}, "at most so many per row; 0: all"},
                       {"sinks", &p.opt.sinks, "first tokens, always kept"},
                       {"recent", &p.opt.recent, "newest tokens, always kept"}};
      });
  add<quota_of<kvslim::at_least>>(
      all, "at_least", "arXiv:2506.05345", "what scores at least as much", [](auto& p) {
        return options{{"least", &p.opt.least, "lowest score that stays"},
                       {"budget", tokens_to{&p.opt.budget}, "at most so many per row; 0: all"},
                       {"sinks", &p.opt.sinks, "first tokens, always kept"},
                       {"recent", &p.opt.recent, "newest tokens, always kept (kvpress)"}};
      });
  add<quota_of<kvslim::lukv<>>>(
      all, "lukv", "arXiv:2602.08585", "a part of the prompt for each head, from a table",
      [](auto& p) {
        return options{{"removed", list_to<float>{&p.opt.removed, of_heads(p)},
                        "[layers * kv_heads] part of its tokens that a head drops"},
                       {"layers", sequences_to{&p.opt.layers}, "of the table"},
                       {"kv_heads", heads_to{&p.opt.kv_heads}, "of a layer"},
                       {"kept", &p.opt.kept, "no layer keeps more of its tokens"},
                       {"sinks", &p.opt.sinks, "first tokens, kept first (kvpress)"},
                       {"recent", &p.opt.recent, "newest tokens, kept next (kvpress)"}};
      });
  add<quota_of<kvslim::windowkv>>(
      all, "windowkv", "arXiv:2503.17922", "more whole windows for lower layers, for chunkkv",
      [](auto& p) {
        return options{
            {"budget", tokens_to{&p.opt.budget}, "tokens per head on average, without the newest"},
            {"layers", sequences_to{&p.opt.layers},
             "of the model: the file's sequences are layers"},
            {"kv_heads", heads_to{&p.opt.kv_heads}, "of a layer"},
            {"group_layers", &p.opt.group_layers, "layers that keep the same (authors)"},
            {"size", &p.opt.size, "tokens of a window (authors 8 to 32)"},
            {"beta", &p.opt.beta, "the last group's part (authors)"},
            {"recent", &p.opt.recent, "newest tokens, kept beside the budget (authors)"}};
      });
  return all;
}

table<keep_method> keep_rules() {
  table<keep_method> all;
  add<keep_of<best_scores>>(all, "best", "-", "the best scores (the default)", no_options);
  add<keep_of<kvslim::kvcrush>>(
      all, "kvcrush", "arXiv:2503.00022", "representatives of what would go", [](auto& p) {
        return options{
            {"ratio", &p.opt.ratio, "of the unprotected room, for representatives (port to vLLM)"},
            {"page", &p.opt.page, "tokens that stay or go together (paper)"},
            {"code_heads", &p.opt.code_heads, "heads whose bits make the codes; 0: all"},
            {"anchor",
             choice(p.opt.anchor,
                    {"alternating", "mean", "inverse_mean", "zeros", "ones", "given"}),
             "what distances are from (port to vLLM)"},
            {"spaced", choice(p.opt.spaced, {"stride", "ends"}), "(authors; port: ends)"},
            {"bits", &p.opt.bits, "of a given anchor, the lowest first"}};
      });
  add<keep_of<kvslim::chunkkv>>(all, "chunkkv", "arXiv:2502.00299", "whole chunks", [](auto& p) {
    return options{{"size", &p.opt.size, "tokens of a chunk (kvpress; paper 10 to 20)"}};
  });
  return all;
}

table<mover_method> movers() {
  table<mover_method> all;
  add<mover_of<kvslim::rerotate>>(
      all, "rerotate", "arXiv:2309.17453", "closes the gaps in positions", [](auto& p) {
        return options{{"base", &p.opt.base, "of the angles"},
                       {"dims", &p.opt.dims, "rotated channels; 0: all"},
                       {"interleaved", &p.opt.interleaved, "pairs (2i, 2i + 1)"}};
      });
  return all;
}

}  // namespace example
