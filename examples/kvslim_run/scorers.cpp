// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Every scorer: one add() each.

#include "methods.hpp"

#include <kvslim/run/select.hpp>
#include <kvslim/score/cake_scores.hpp>
#include <kvslim/score/corm.hpp>
#include <kvslim/score/curdkv.hpp>
#include <kvslim/score/expected_attention.hpp>
#include <kvslim/score/fastkvzip.hpp>
#include <kvslim/score/finch.hpp>
#include <kvslim/score/given_scores.hpp>
#include <kvslim/score/h2o.hpp>
#include <kvslim/score/keydiff.hpp>
#include <kvslim/score/knorm.hpp>
#include <kvslim/score/kvzip.hpp>
#include <kvslim/score/lagkv.hpp>
#include <kvslim/score/laq.hpp>
#include <kvslim/score/lazy_eviction.hpp>
#include <kvslim/score/qfilters.hpp>
#include <kvslim/score/random_scores.hpp>
#include <kvslim/score/roco.hpp>
#include <kvslim/score/scissorhands.hpp>
#include <kvslim/score/snapkv.hpp>
#include <kvslim/score/streaming_llm.hpp>
#include <kvslim/score/tova.hpp>

namespace example {

namespace {

/// Whether a scorer reads a kind of evidence.
template <class Need, class List>
inline constexpr bool listed = false;
template <class Need, class... Needs>
inline constexpr bool listed<Need, kvslim::needs_list<Needs...>> = (std::same_as<Need, Needs> ||
                                                                    ...);

template <class Scorer>
struct scorer_of final : scorer_method {
  using needs = typename kvslim::detail::traits_of<Scorer>::needs;
  Scorer policy;

  [[nodiscard]] bool states_statistics() const override { return Scorer::traits.states; }
  [[nodiscard]] ranked score(problem const& p) const override { return score_by(p, policy); }
  [[nodiscard]] ranked score_chunks(problem const& p, kvslim::chunked_options how) const override {
    if constexpr (kvslim::detail::asks_chunks<Scorer>)
      return score_by(p, kvslim::chunked{policy, how});
    else
      throw refusal("chunked cannot ask " + name + ", which remembers or reads queries");
  }

 private:
  template <class Policy>
  [[nodiscard]] ranked score_by(problem const& p, Policy const& by) const {
    auto const view = p.data.view();
    kvslim::pipeline const pipe{by};
    auto const plan = kvslim::make_plan(pipe, view.extents(), {.logit = p.logit});
    ranked out{
        std::vector<float>(static_cast<std::size_t>(view.extents().rows() * view.extents().tokens)),
        plan.protected_recent(),
        {}};
    if constexpr (Policy::traits.states)
      out.statistics.resize(static_cast<std::size_t>(view.extents().rows()));
    std::vector<std::byte> scratch(plan.select_bytes() + plan.keep_bytes());
    kvslim::score_view const to{out.scores.data(), view.extents().tokens,
                                out.statistics.empty() ? nullptr : out.statistics.data()};
    demand(kvslim::score(kvslim::cpu{}, plan, view, evidence_of(p), to, scratch));
    return out;
  }
  /// Everything that the file has; what this scorer reads must be there.
  [[nodiscard]] auto evidence_of(problem const& p) const {
    auto const rows = [&]<class Need>(Need, queries const& q, char const* tensor) {
      if (listed<Need, needs> && !q.given())
        throw refusal(name + " reads " + tensor + ", which the file lacks");
      return q.newest(q.tokens);
    };
    if (listed<kvslim::needs_token_scores, needs> && p.given.empty())
      throw refusal(name + " reads scores [B, KV heads, tokens], which the file lacks");
    using namespace kvslim;
    bool const moments = listed<needs_query_statistics, needs>;
    if (moments && !p.covariance.given())
      throw refusal(name +
                    " reads query_covariance [layers, query heads, head_dim, head_dim], "
                    "which the file lacks");
    queries const& own = p.probe_keys;
    auto const gate = [&](queries const& q, char const* tensor) {
      return rows(needs_gate_weights{}, q, tensor);
    };
    return evidence{
        window_queries<>{window_of(p)},
        token_scores<>{p.given.data()},
        query_filters<>{
            rows(needs_query_filters{}, p.filters, "query_filters [layers, KV heads, head_dim]")},
        raw_queries<>{
            rows(needs_raw_queries{}, p.raw, "raw_queries [B, query heads, tokens, head_dim]")},
        query_statistics<>{
            rows(needs_query_statistics{}, p.mean, "query_mean [layers, query heads, head_dim]"),
            p.covariance.newest(p.covariance.tokens)},
        probes<>{rows(needs_probes{}, p.probes, "probes [B, query heads, probes, head_dim]"),
                 own.given() ? kvslim::rows<>(own.newest(own.tokens)) : kvslim::rows<>{},
                 {p.probe_stretches.data(), std::ssize(p.probe_stretches)}},
        hidden_states<>{rows(needs_hidden_states{}, p.hidden, "hidden [B, tokens, width]")},
        gate_weights<>{gate(p.gate_query, "gate_query [layers, query heads, dim, width]"),
                       gate(p.gate_query_bias, "gate_query_bias [layers, query heads, dim]"),
                       gate(p.gate_query_gain, "gate_query_gain [layers, 1, dim]"),
                       gate(p.gate_key, "gate_key [layers, KV heads, dim, width]"),
                       gate(p.gate_key_gain, "gate_key_gain [layers, 1, dim]"),
                       gate(p.gate_sinks, "gate_sinks [layers, KV heads, sinks, dim]"),
                       gate(p.gate_offset, "gate_offset [layers, KV heads, query heads of each]")}};
  }
  /// All queries of the file, or as many of the newest as the scorer's window.
  [[nodiscard]] kvslim::rows_view<float const> window_of(problem const& p) const {
    if constexpr (!listed<kvslim::needs_window_queries, needs>) return {};
    if (!p.window.given())
      throw refusal(name + " reads q [B, query heads, window, head_dim], which the file lacks");
    index_t n = p.window.tokens;
    if constexpr (requires { policy.opt.window; }) {
      auto const fits = [&](index_t count) {
        if (count > p.window.tokens)
          throw refusal(name + "'s window is " + std::to_string(count) + ", but q has " +
                        std::to_string(p.window.tokens) + " queries only");
        return count;
      };
      n = fits(policy.opt.window);
      if constexpr (requires { policy.opt.pseudo; }) n = fits(n + fits(policy.opt.pseudo));
    }
    return p.window.newest(n < 1 ? p.window.tokens : n);  // the library refuses n < 1
  }
};

template <class Scorer, class Describe>
void add_scorer(table<scorer_method>& all, char const* name, char const* source, char const* what,
                Describe const& describe) {
  add<scorer_of<Scorer>>(all, name, source, what, describe);
}

std::vector<std::string> const reductions{"mean", "sum", "maximum"};

}  // namespace

table<scorer_method> scorers() {
  table<scorer_method> all;
  add_scorer<kvslim::streaming_llm>(
      all, "streaming_llm", "arXiv:2309.17453", "sinks and the newest", [](auto& p) {
        return options{{"sinks", &p.opt.sinks, "first tokens (authors)"}};
      });
  add_scorer<kvslim::knorm>(all, "knorm", "arXiv:2406.11430", "short keys", no_options);
  add_scorer<kvslim::snapkv>(
      all, "snapkv", "arXiv:2404.14469", "attention of the last queries, pooled", [](auto& p) {
        return options{
            {"window", &p.opt.window, "newest queries that vote, always kept (authors)"},
            {"pool", &p.opt.pool, "pooling kernel, odd (authors)"},
            {"kind", choice(p.opt.kind, {"average", "maximum"}), "pooling (authors)"},
            {"heads", choice(p.opt.heads, reductions), "of a KV head's query heads (kvpress)"},
            {"reduce_first", &p.opt.reduce_first, "reduce before pooling, as AdaKV and PyramidKV"},
            {"scale", &p.opt.logit.scale, "of q . k; 0: 1 / sqrt(head_dim) (authors)"},
            {"soft_cap", &p.opt.logit.soft_cap, "of scaled logits, of the model; 0: none"}};
      });
  add_scorer<kvslim::keydiff>(
      all, "keydiff", "arXiv:2504.15364", "unlike the mean key", [](auto& p) {
        return options{
            {"unit_keys", &p.opt.unit_keys, "average directions, not keys (paper, kvpress)"}};
      });
  add_scorer<kvslim::lagkv>(
      all, "lagkv", "arXiv:2504.04704", "channels that spread beyond what follows", [](auto& p) {
        return options{
            {"sinks", &p.opt.sinks, "first tokens, not scored (kvpress; authors' code 16)"},
            {"lag", &p.opt.lag, "tokens of a partition (kvpress; paper 128 to 1024)"},
            {"value_weight", &p.opt.value_weight, "of V's score relative to K's (authors)"},
            {"ranked", &p.opt.ranked, "false: compare across partitions (kvpress)"}};
      });
  auto const h2o_options = [](auto& p) {
    return options{{"per_query", &p.opt.per_query, "divide by the queries that see it (kvpress)"}};
  };
  add_scorer<kvslim::h2o<>>(all, "h2o", "arXiv:2306.14048",
                            "attention received so far, mean over query heads", h2o_options);
  add_scorer<kvslim::h2o<kvslim::reduce::maximum>>(all, "h2o_maximum", "arXiv:2306.14048",
                                                   "attention received so far, best query head",
                                                   h2o_options);
  add_scorer<kvslim::tova>(all, "tova", "arXiv:2401.06104",
                           "attention of the last query (theirs: shared by a layer's heads)",
                           no_options);
  add_scorer<kvslim::lazy_eviction>(
      all, "lazy_eviction", "arXiv:2506.15969", "how soon, after its longest pause, it is needed",
      [](auto& p) {
        return options{
            {"threshold", &p.opt.threshold, "a query that pays as much attends (authors)"},
            {"offset", &p.opt.offset, "in the first term's exponent (authors; paper 0)"}};
      });
  add_scorer<kvslim::corm>(all, "corm", "arXiv:2404.15949",
                           "how long ago a query paid a fair share", no_options);
  add_scorer<kvslim::laq>(
      all, "laq", "arXiv:2505.20334",
      "attention of the last queries and of drafted ones, which end q", [](auto& p) {
        return options{{"window", &p.opt.window, "newest tokens, always kept (authors; 0: LAQ)"},
                       {"pseudo", &p.opt.pseudo, "drafted queries (authors)"},
                       {"pool", &p.opt.pool, "pooling kernel, odd (authors)"},
                       {"kind", choice(p.opt.kind, {"average", "maximum"}), "pooling (authors)"},
                       {"heads", choice(p.opt.heads, reductions), "of a KV head's query heads"}};
      });
  add_scorer<kvslim::finch>(
      all, "finch", "TACL 2024", "attention of the question's queries", [](auto& p) {
        return options{
            {"window", &p.opt.window, "tokens of the question, always kept"},
            {"normalized", &p.opt.normalized, "by the tokens that a query sees (paper, kvpress)"}};
      });
  add_scorer<kvslim::curdkv>(
      all, "curdkv", "arXiv:2509.15038", "norms of key and value within a stretch", [](auto& p) {
        return options{
            {"sinks", &p.opt.sinks, "first tokens: they score 1 (kvpress)"},
            {"window", &p.opt.window, "tokens whose norms are compared; 0: all (kvpress)"},
            {"kind", choice(p.opt.kind, {"product", "key", "value", "average"}),
             "of K's and V's share (kvpress)"}};
      });
  add_scorer<kvslim::roco>(
      all, "roco", "arXiv:2402.06262", "mean attention, of what does not vary most", [](auto& p) {
        return options{
            {"budget", tokens_to{&p.opt.budget}, "tokens that the quota keeps of a row"},
            {"recent_part", &p.opt.recent_part, "of it, narrows what may go (authors)"},
            {"sinks", &p.opt.sinks, "first tokens, which never go (authors' prompts: 4)"},
            {"last", &p.opt.last, "newest tokens, which never go (authors)"}};
      });
  add_scorer<kvslim::scissorhands<>>(all, "scissorhands", "arXiv:2305.17118",
                                     "how often the last 256 queries paid it its share",
                                     no_options);
  add_scorer<kvslim::kvzip>(
      all, "kvzip", "arXiv:2505.23416", "attention of a pass that repeats the text", [](auto& p) {
        return options{{"sinks", &p.opt.sinks, "first tokens, always kept (kvpress)"},
                       {"squared", &p.opt.squared, "sum of squares, not the maximum"}};
      });
  add_scorer<kvslim::fastkvzip>(
      all, "fastkvzip", "arXiv:2601.17668", "a trained gate on hidden states", [](auto& p) {
        return options{
            {"sinks", &p.opt.sinks, "first tokens, always kept (kvpress)"},
            {"recent_part", &p.opt.recent_part, "of a row: newest tokens, always kept (authors)"},
            {"window", &p.opt.window, "newest tokens of a long row, always kept (authors)"},
            {"long_row", &p.opt.long_row, "tokens from which a row is long (kvpress)"}};
      });
  add_scorer<kvslim::qfilters>(all, "qfilters", "arXiv:2503.02812",
                               "against the direction of a head's queries", no_options);
  auto const expected_options = [](auto& p) {
    return options{{"base", &p.opt.rotation.base, "of the model's RoPE"},
                   {"dims", &p.opt.rotation.dims, "rotated channels; 0: all"},
                   {"interleaved", &p.opt.rotation.interleaved, "pairs (2i, 2i + 1)"},
                   {"scaling", &p.opt.scaling, "attention factor inside keys (YaRN, LongRoPE)"},
                   {"future", &p.opt.future, "positions that queries may come from (kvpress)"},
                   {"sinks", &p.opt.sinks, "first tokens, always kept (kvpress)"},
                   {"covariance", &p.opt.covariance, "false: the mean alone (kvpress)"},
                   {"value_norm", &p.opt.value_norm, "multiply by ||v|| (kvpress)"},
                   {"epsilon", &p.opt.epsilon, "added before (kvpress)"}};
  };
  add_scorer<kvslim::expected_attention<>>(all, "expected_attention", "arXiv:2510.00636",
                                           "attention that later queries will pay, by raw_queries",
                                           expected_options);
  add_scorer<kvslim::expected_attention<kvslim::needs_query_statistics>>(
      all, "expected_attention_stored", "arXiv:2510.00636",
      "likewise, by query_mean and query_covariance", expected_options);
  add_scorer<kvslim::cake_scores>(
      all, "cake_scores", "arXiv:2503.12491", "attention and how it varies", [](auto& p) {
        return options{{"window", &p.opt.window, "newest queries that vote, always kept (authors)"},
                       {"pool", &p.opt.pool, "average pooling, odd (authors)"},
                       {"gamma", &p.opt.gamma, "weight of the variance (authors)"}};
      });
  add_scorer<kvslim::given_scores>(all, "given_scores", "-", "the file's scores", no_options);
  add_scorer<kvslim::random_scores>(all, "random_scores", "-", "chance, a baseline to beat",
                                    [](auto& p) {
                                      return options{{"seed", &p.opt.seed, "of the hash"}};
                                    });
  return all;
}

}  // namespace example
