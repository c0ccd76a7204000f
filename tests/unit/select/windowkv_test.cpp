// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/windowkv.hpp"

#include "reference/adakv.hpp"
#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"

#include <kvslim/keep/chunkkv.hpp>
#include <kvslim/select/windowkv.hpp>

using namespace kvslim;

namespace {

/// The whole method.
auto whole(windowkv::options const& o) {
  return pipeline{shared{snapkv{{.window = o.recent, .pool = 1}},
                         row_group{o.group_layers, o.kv_heads}, reduce::mean, true},
                  windowkv{o}, chunkkv{{.size = o.size}}};
}

}  // namespace

TEST_CASE("windowkv keeps the authors' tokens in every layer", "[windowkv][chunkkv]") {
  golden const g("windowkv");
  auto const q = g.floats("q"), k = g.floats("k");
  auto const view = dense_cache(k.data(), k.data(), extents{6, 2, 90, 8});
  auto const kept =
      data::kept_by(whole({.budget = 24,
                           .layers = 6,
                           .kv_heads = 2,
                           .group_layers = 2,
                           .size = 6,
                           .beta = 7,
                           .recent = 8}),
                    view, evidence{window_queries{dense_rows(q.data(), {6, 4, 8, 8})}});
  REQUIRE(kept.size() == 12);
  auto at = g["kept"].begin();
  for (std::size_t l = 0; l < 6; ++l) {
    auto const n = static_cast<std::ptrdiff_t>(g["length"][l]);
    CHECK(kept[2 * l] == std::vector<index_t>(at, at + n));
    CHECK(kept[2 * l + 1] == kept[2 * l]);
    at += n;
  }
}

TEST_CASE("windowkv's budgets are the authors'", "[windowkv]") {
  golden const g("windowkv");
  auto length = g["case_lengths"].begin();
  for (auto at = g["cases"].begin(); at != g["cases"].end(); at += 7) {
    auto const number = [&](int i) { return static_cast<index_t>(at[i]); };
    windowkv const policy{{.budget = number(4),
                           .layers = number(0),
                           .group_layers = number(1),
                           .size = number(2),
                           .beta = number(5),
                           .recent = number(3)}};
    index_t const layers = number(0), tokens = number(6), prefix = tokens - number(3);
    extents const e{layers, 1, tokens, 8};
    REQUIRE(policy.check(e).ok());
    std::vector<row_facts> facts(static_cast<std::size_t>(layers));
    std::vector<quota> quotas(facts.size());
    for (auto& f : facts) f = {.tokens = tokens, .recent = number(3)};
    policy.allocate({facts.data(), layers}, {quotas.data(), layers});
    index_t total = 0;
    for (auto const& q : quotas) {
      // The authors' last window is shorter than the others, where it is among the kept.
      auto const authors = static_cast<index_t>(*length++);
      index_t const missing = detail::round_up(prefix, number(2)) - prefix;
      CHECK((q.count == authors || q.count == authors + missing));
      CHECK(q.count <= policy.most(e));
      total += q.count;
    }
    CHECK(total <= policy.total(e));
  }
}

TEST_CASE("windowkv matches the reference for any group, length and order of cells", "[windowkv]") {
  index_t const layers = 4, window = 8;
  for (index_t group : {1, 4, 8})
    for (index_t shared_layers : {1, 2, 4}) {
      data::cache const c(
          {.sequences = 2 * layers, .kv_heads = 2, .group = group, .tokens = 90, .head_dim = 16},
          static_cast<unsigned>(group));
      std::vector<index_t> const lengths{90, 90, 90, 90, 47, 47, 47, 47};  // two requests
      data::shuffled const ragged(c, 17, lengths);
      for (index_t size : {1, 7, 30})
        for (index_t budget : {9, 30, 60}) {
          auto const kept =
              data::kept_by(whole({.budget = budget,
                                   .layers = layers,
                                   .kv_heads = 2,
                                   .group_layers = shared_layers,
                                   .size = size,
                                   .beta = 5,
                                   .recent = window}),
                            ragged.view(), evidence{window_queries{c.queries(window)}});
          REQUIRE(kept.size() == 16);
          auto const budgets = reference::windowkv_budgets(layers, shared_layers, budget, 5);
          for (index_t s = 0; s < 2 * layers; ++s) {
            index_t const leader = s / shared_layers * shared_layers,
                          n = lengths[static_cast<std::size_t>(s)];
            std::vector<double> score(static_cast<std::size_t>(n - window), 0.0);
            for (index_t h = 0; h < 2; ++h) {
              auto const own = reference::window_score(oracle::window(c, leader, h, window),
                                                       oracle::keys(c, leader, h, n), 1, false,
                                                       reference::reduce::mean);
              for (std::size_t t = 0; t < own.size(); ++t) score[t] += own[t] / 2;
            }
            auto const expected = reference::windowkv_keep(
                score, budgets[static_cast<std::size_t>(s % layers)], size, window);
            CHECK(kept[static_cast<std::size_t>(2 * s)] == expected);
            CHECK(kept[static_cast<std::size_t>(2 * s + 1)] == expected);
          }
        }
    }
}

TEST_CASE("windowkv of short and empty rows, and pins", "[windowkv]") {
  data::cache const c({.sequences = 4, .kv_heads = 1, .group = 2, .tokens = 60, .head_dim = 8});
  std::vector<index_t> const lengths{60, 60, 3, 0};
  data::shuffled mixed(c, 5, lengths);
  windowkv::options const options{
      .budget = 20, .layers = 2, .group_layers = 1, .size = 5, .recent = 6};
  evidence const seen{window_queries{c.queries(6)}};
  auto const kept = data::kept_by(whole(options), mixed.view(), seen);
  REQUIRE(kept.size() == 4);
  CHECK(kept[2].size() == 3);
  CHECK(kept[3].empty());
  for (std::size_t cell = 0; cell < 65; ++cell)
    if (mixed.valid[cell] == 1 && mixed.positions[cell] == 21) mixed.valid[cell] = 2;
  auto const pinned = data::kept_by(whole(options), mixed.view(), seen);
  REQUIRE(pinned.size() == 4);
  CHECK(std::binary_search(pinned[0].begin(), pinned[0].end(), 21));
}

TEST_CASE("shared scores of a leading layer are its own", "[shared]") {
  data::cache const c({.sequences = 4, .kv_heads = 2, .group = 1, .tokens = 30, .head_dim = 8});
  std::vector<index_t> const lengths{20, 30, 30, 30};
  data::shuffled const ragged(c, 0, lengths);
  top_k const keep{{.budget = 5}};
  auto const alone =
      data::scores_by(pipeline{shared{knorm{}, row_group{1, 2}}, keep}, ragged.view());
  auto const led = data::scores_by(
      pipeline{shared{knorm{}, row_group{2, 2}, reduce::mean, true}, keep}, ragged.view());
  REQUIRE((alone.size() == 8 * 30 && led.size() == alone.size()));
  for (std::size_t r = 0; r < 8; ++r) {
    std::size_t const leader = r / 4 * 4;
    for (std::size_t t = 0; t < (r < 2 ? 20 : 30); ++t)
      CHECK(led[r * 30 + t] == (r < 4 && t >= 20 ? -INFINITY : alone[leader * 30 + t]));
  }
}

TEST_CASE("windowkv refuses what makes no sense", "[windowkv]") {
  extents const e{8, 2, 50, 8};
  auto const code = [&](windowkv::options const& o) {
    return make_plan(pipeline{knorm{}, windowkv{o}}, e).check().code;
  };
  windowkv::options const good{.budget = 20, .layers = 8, .kv_heads = 2, .group_layers = 4};
  CHECK(code(good) == errc::ok);
  auto bad = good;
  bad.budget = 0;
  CHECK(code(bad) == errc::invalid_option);
  bad = good;
  bad.group_layers = 3;
  CHECK(code(bad) == errc::invalid_option);
  bad = good;
  bad.beta = 3;
  CHECK(code(bad) == errc::invalid_option);
  bad = good;
  bad.size = 0;
  CHECK(code(bad) == errc::invalid_option);
  bad = good;
  bad.recent = -1;
  CHECK(code(bad) == errc::invalid_option);
  bad = good;
  bad.layers = 2000;
  CHECK(code(bad) == errc::invalid_option);
  bad = good;
  bad.layers = 6;
  bad.group_layers = 3;
  CHECK(code(bad) == errc::invalid_shape);
}
