// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/cake.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"

#include <kvslim/score/cake_scores.hpp>
#include <kvslim/select/cake.hpp>

using namespace kvslim;

namespace {

data::kept_sets golden_sets(golden const& g, std::string const& name, std::size_t heads) {
  data::kept_sets sets;
  auto at = g["kept_" + name].begin();
  for (double n : g["length_" + name])
    for (std::size_t h = 0; h < heads; ++h) {
      sets.emplace_back(at, at + static_cast<std::ptrdiff_t>(n));
      at += static_cast<std::ptrdiff_t>(n);
    }
  return sets;
}

}  // namespace

TEST_CASE("cake keeps the authors' tokens in every layer, plain or cascading", "[cake]") {
  golden const g("cake");
  auto const q = g.floats("q"), k = g.floats("k");
  auto const view = dense_cache(k.data(), k.data(), extents{4, 2, 96, 16});
  evidence const seen{window_queries{dense_rows(q.data(), {4, 4, 8, 16})}};
  cake const quota{{.budget = 24,
                    .layers = 4,
                    .kv_heads = 2,
                    .tau_entropy = 1.6,
                    .tau_variance = 0.4,
                    .slack = 8}};
  auto const kept = data::kept_by(pipeline{cake_scores{{.window = 8}}, quota}, view, seen);
  CHECK(kept == golden_sets(g, "plain", 2));
  CHECK(kept == golden_sets(g, "cascading", 2));
}

TEST_CASE("cake corrects its layers' shares as the authors do", "[cake]") {
  golden const g("cake");
  auto at = g["cases"].begin(), expected = g["case_budgets"].begin();
  while (at != g["cases"].end()) {
    auto const layers = static_cast<index_t>(at[0]), all = static_cast<index_t>(at[1]),
               limit = static_cast<index_t>(at[2]);
    std::vector<double> const share(at + 3, at + 3 + layers);
    std::vector<row_facts> facts(share.size());
    std::vector<quota> quotas(share.size());
    for (std::size_t l = 0; l < share.size(); ++l)
      facts[l] = {.tokens = limit + 5, .recent = 5, .stated = {static_cast<float>(share[l]), 1.0f}};
    // A budget that makes the total what the case says, if it is a multiple of the layers.
    if (all % layers == 0) {
      cake const quota{{.budget = all / layers + 5, .layers = layers, .slack = 0}};
      quota.allocate({facts.data(), layers}, {quotas.data(), layers});
      auto const mine = reference::cake_budgets(share, all, limit);
      bool const whole = limit + 5 <= all / layers + 5;
      for (std::size_t l = 0; l < share.size(); ++l) {
        index_t const authors =
            std::min(static_cast<index_t>(expected[static_cast<std::ptrdiff_t>(l)]), limit);
        CHECK(quotas[l].count == (whole ? limit : authors) + 5);
        CHECK(mine[l] == authors);
      }
    }
    at += 3 + layers;
    expected += layers;
  }
}

TEST_CASE("cake matches the reference for any group, length and order of cells", "[cake]") {
  index_t const layers = 3, window = 8;
  for (index_t group : {1, 4, 8}) {
    data::cache const c(
        {.sequences = 2 * layers, .kv_heads = 2, .group = group, .tokens = 90, .head_dim = 16},
        static_cast<unsigned>(group));
    std::vector<index_t> const lengths{90, 90, 90, 47, 47, 47};  // two requests
    data::shuffled const ragged(c, 17, lengths);
    for (index_t budget : {10, 24, 40, 70}) {
      cake const quota{{.budget = budget,
                        .layers = layers,
                        .kv_heads = 2,
                        .tau_entropy = 1.3,
                        .tau_variance = 0.7,
                        .slack = 3}};
      auto const kept = data::kept_by(pipeline{cake_scores{{.window = window}}, quota},
                                      ragged.view(), evidence{window_queries{c.queries(window)}});
      REQUIRE(kept.size() == 12);
      for (index_t request = 0; request < 2; ++request) {
        index_t const n = lengths[static_cast<std::size_t>(request * layers)];
        std::vector<double> preference;
        std::vector<reference::cake_row> rows;
        for (index_t l = 0; l < layers; ++l) {
          double entropy = 0, variance = 0;
          for (index_t h = 0; h < 2; ++h) {
            index_t const s = request * layers + l;
            rows.push_back(reference::cake_scores(oracle::window(c, s, h, window),
                                                  oracle::keys(c, s, h, n), 5, 200.0));
            entropy += rows.back().entropy;
            variance += rows.back().variance;
          }
          preference.push_back(std::pow(entropy, 1 / 1.3) * std::pow(variance, 1 / 0.7));
        }
        auto const budgets =
            reference::cake_budgets(preference, layers * (budget - window), n - window);
        for (std::size_t i = 0; i < 6; ++i) {
          auto score = rows[i].score;
          score.resize(static_cast<std::size_t>(n), 0.0);
          CHECK(kept[static_cast<std::size_t>(request) * 6 + i] ==
                reference::keep(score, n <= budget + 3 ? n : budgets[i / 2] + window, 0, window));
        }
      }
    }
  }
}

TEST_CASE("cake of short, empty and flat layers", "[cake]") {
  data::cache c({.sequences = 2, .kv_heads = 2, .group = 1, .tokens = 40, .head_dim = 8});
  auto const policy = pipeline{cake_scores{{.window = 4}},
                               cake{{.budget = 10, .layers = 2, .kv_heads = 2, .slack = 4}}};
  evidence const seen{window_queries{c.queries(4)}};
  auto const sizes = [&](std::vector<index_t> const& lengths) {
    std::vector<std::size_t> n;
    for (auto const& row : data::kept_by(policy, data::shuffled(c, 3, lengths).view(), seen))
      n.push_back(row.size());
    return n;
  };
  CHECK(sizes({0, 0}) == std::vector<std::size_t>{0, 0, 0, 0});
  CHECK(sizes({14, 14}) == std::vector<std::size_t>{14, 14, 14, 14});
  CHECK(sizes({3, 3}) == std::vector<std::size_t>{3, 3, 3, 3});
  auto const cut = sizes({15, 15});
  REQUIRE(cut.size() == 4);
  CHECK(cut[0] + cut[2] == 20);
  CHECK(cut[0] == cut[1]);
  // Keys that are all zero: nothing varies, layers share evenly.
  std::fill(c.k.begin(), c.k.end(), 0.0f);
  CHECK(sizes({40, 40}) == std::vector<std::size_t>{10, 10, 10, 10});
}

TEST_CASE("cake refuses what makes no sense", "[cake]") {
  extents const e{4, 2, 50, 8};
  auto const code = [&](cake::options const& o) {
    return make_plan(pipeline{cake_scores{}, cake{o}}, e).check().code;
  };
  cake::options const good{.budget = 20, .layers = 4, .kv_heads = 2};
  CHECK(code(good) == errc::ok);
  auto bad = good;
  bad.budget = 0;
  CHECK(code(bad) == errc::invalid_option);
  bad = good;
  bad.slack = -1;
  CHECK(code(bad) == errc::invalid_option);
  bad = good;
  bad.tau_entropy = 0.0;
  CHECK(code(bad) == errc::invalid_option);
  bad = good;
  bad.tau_variance = std::nan("");
  CHECK(code(bad) == errc::invalid_option);
  bad = good;
  bad.layers = 2000;
  CHECK(code(bad) == errc::invalid_option);
  bad = good;
  bad.layers = 3;
  CHECK(code(bad) == errc::invalid_shape);
}
