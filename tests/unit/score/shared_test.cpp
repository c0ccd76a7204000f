// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"

using namespace kvslim;

namespace {

std::vector<float> tied_scores(std::size_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::vector<float> x(n);
  for (float& y : x) y = static_cast<float>(engine() % 20);  // many ties
  return x;
}

}  // namespace

TEST_CASE("rows that share a scorer keep one set", "[select][shared]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .tokens = 50, .head_dim = 8});
  auto const scores = tied_scores(200, 9);
  evidence const ev{token_scores<>{scores.data()}};
  auto const combined = [&](reduce how, std::vector<index_t> const& rows) {
    std::vector<double> out(50, how == reduce::maximum ? -1.0 : 0.0);
    for (std::size_t t = 0; t < 50; ++t)
      for (index_t r : rows) {
        double const x = scores[static_cast<std::size_t>(r) * 50 + t];
        out[t] = how == reduce::maximum ? std::max(out[t], x) : out[t] + x;
      }
    return out;
  };
  for (reduce how : {reduce::mean, reduce::sum, reduce::maximum}) {
    auto const kept = [&](row_group rows) {
      return data::kept_by(pipeline{shared{given_scores{}, rows, how}, top_k{{.budget = 12}}},
                           c.view(), ev);
    };
    auto const heads = kept({1, 2}), layers = kept({2, 1}), all = kept({2, 2});
    REQUIRE((heads.size() == 4 && layers.size() == 4 && all.size() == 4));
    for (std::size_t r = 0; r < 4; ++r) {
      auto const s = static_cast<index_t>(r / 2), h = static_cast<index_t>(r % 2);
      CHECK(heads[r] == reference::keep(combined(how, {s * 2, s * 2 + 1}), 12, 0, 0));
      CHECK(layers[r] == reference::keep(combined(how, {h, 2 + h}), 12, 0, 0));
      CHECK(all[r] == reference::keep(combined(how, {0, 1, 2, 3}), 12, 0, 0));
    }
  }
}

TEST_CASE("a row that shares with nobody keeps what it would keep", "[shared]") {
  data::cache const c({.sequences = 2, .kv_heads = 3, .group = 8, .tokens = 90, .head_dim = 80});
  evidence const ev{window_queries{c.queries(16)}};
  top_k const keep{{.budget = 30, .sinks = 2, .recent = 3}};
  for (reduce how : {reduce::mean, reduce::sum, reduce::maximum}) {
    CHECK(data::kept_by(pipeline{shared{knorm{}, {}, how}, keep}, c.view()) ==
          data::kept_by(pipeline{knorm{}, keep}, c.view()));
    CHECK(data::kept_by(pipeline{shared{snapkv{{.window = 16}}, {1, 1}, how}, keep}, c.view(),
                        ev) == data::kept_by(pipeline{snapkv{{.window = 16}}, keep}, c.view(), ev));
  }
}

TEST_CASE("heads share by the mean or the maximum of bulk scores, in cells of any order",
          "[shared][snapkv]") {
  data::cache const c({.sequences = 2, .kv_heads = 4, .group = 2, .tokens = 100, .head_dim = 32});
  data::shuffled const other(c, 13);
  evidence const ev{window_queries{c.queries(16)}};
  snapkv const snap{{.window = 16, .pool = 3}};
  auto const own = data::scores_by(pipeline{snap}, c.view(), ev);
  REQUIRE(own.size() == 8 * 100);
  for (reduce how : {reduce::mean, reduce::maximum}) {
    pipeline const policy{shared{snap, {.sequences = 1, .kv_heads = 4}, how},
                          top_k{{.budget = 40, .recent = 16}}};
    auto const kept = data::kept_by(policy, c.view(), ev);
    REQUIRE(kept.size() == 8);
    CHECK(kept == data::kept_by(policy, other.view(), ev));
    for (std::size_t s = 0; s < 2; ++s) {
      std::vector<double> score(100, 0.0);
      for (std::size_t t = 0; t < 100; ++t)
        for (std::size_t h = 0; h < 4; ++h) {
          double const x = own[(s * 4 + h) * 100 + t];
          score[t] = how == reduce::maximum ? std::max(score[t], x) : score[t] + x;
        }
      for (std::size_t h = 0; h < 4; ++h)
        CHECK(kept[s * 4 + h] == reference::keep(score, 40, 0, 16));
    }
  }
}

TEST_CASE("union over the layers of one view keeps one set, by the mean of all scores",
          "[shared]") {
  data::cache const c(
      {.sequences = 4, .tokens = 64, .head_dim = 16});  // two sequences of two layers
  auto const scores = data::scores_by(pipeline{knorm{}}, c.view());
  row_group const layers{.sequences = 2, .kv_heads = 2};
  auto const kept =
      data::kept_by(pipeline{shared{knorm{}, layers}, top_k{{.budget = 16, .sinks = 2}}}, c.view());
  REQUIRE(kept.size() == 8);
  for (std::size_t g = 0; g < 2; ++g) {
    std::vector<std::pair<double, index_t>> order;
    for (index_t t = 2; t < 64; ++t) {
      double sum = 0;
      for (std::size_t r = 0; r < 4; ++r)
        sum -= scores[(g * 4 + r) * 64 + static_cast<std::size_t>(t)];
      order.emplace_back(sum, t);
    }
    std::sort(order.begin(), order.end());
    std::vector<index_t> expected{0, 1};
    for (std::size_t i = 0; i < 14; ++i) expected.push_back(order[i].second);
    std::sort(expected.begin(), expected.end());
    for (std::size_t r = 4 * g; r < 4 * g + 4; ++r) CHECK(kept[r] == expected);
  }
  row_group const wrong{.sequences = 3, .kv_heads = 2};
  CHECK(data::compressed(pipeline{shared{knorm{}, wrong}, top_k{{.budget = 16}}}, c.view())
            .result.code == errc::invalid_shape);
}

TEST_CASE("union over layers in separate views is one reduction of their scores",
          "[shared][given_scores]") {
  data::cache const a({.tokens = 64, .head_dim = 16}, 1), b({.tokens = 64, .head_dim = 16}, 2);
  auto sum = data::scores_by(pipeline{knorm{}}, a.view());
  auto const more = data::scores_by(pipeline{knorm{}}, b.view());
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += more[i];
  auto const policy = pipeline{shared{given_scores{}, {.kv_heads = 2}}, top_k{{.budget = 16}}};
  evidence const given{token_scores<>{sum.data()}};
  auto const first = data::kept_by(policy, a.view(), given);
  REQUIRE(first.size() == 2);
  CHECK(first == data::kept_by(policy, b.view(), given));
  CHECK(first[0] == first[1]);
}

TEST_CASE("a shared score counts only rows that hold the token", "[regression][shared]") {
  // Head 1 has five tokens of eight. Of the last three, head 0's are its worst by norm: a missing
  // token counted as 0 would make them the best.
  index_t const D = 4;
  std::vector<float> k(static_cast<std::size_t>(2 * 8 * D)), v(k.size(), 1.0f);
  for (index_t h = 0; h < 2; ++h)
    for (index_t t = 0; t < 8; ++t)
      for (index_t d = 0; d < D; ++d)
        k[static_cast<std::size_t>((h * 8 + t) * D + d)] = t < 5 ? 1.0f + 0.1f * float(t) : 9.0f;
  std::int32_t const lengths[] = {8, 5};
  auto view = dense_cache(k.data(), v.data(), {1, 2, 8, D});
  view.lengths = {lengths, 2, 1};
  data::compressed const c(pipeline{shared{knorm{}, {1, 2}}, top_k{{.budget = 4}}}, view);
  REQUIRE(c.result.ok());
  CHECK(c.kept(0, 0) == std::vector<index_t>{0, 1, 2, 3});
  CHECK(c.kept(0, 1) == std::vector<index_t>{0, 1, 2, 3});
  // A group that does not divide the view says so; it does not quietly mean something smaller.
  auto const plan = make_plan(pipeline{shared{knorm{}, {2, 2}}, top_k{{.budget = 4}}}, view.extent);
  CHECK(plan.check().code == errc::invalid_shape);
  CHECK(plan.workspace_bytes() == 0);
}

TEST_CASE("a row without tokens takes no part", "[shared]") {
  data::cache const c({.kv_heads = 3, .tokens = 20, .head_dim = 16});
  std::int32_t const lengths[] = {20, 0, 20};
  auto view = c.view();
  view.lengths = {lengths, 3, 1};
  for (reduce how : {reduce::mean, reduce::sum, reduce::maximum}) {
    auto const kept =
        data::kept_by(pipeline{shared{knorm{}, {.kv_heads = 3}, how}, top_k{{.budget = 7}}}, view);
    REQUIRE(kept.size() == 3);
    CHECK(kept[0].size() == 7);
    CHECK(kept[1].empty());
    CHECK(kept[0] == kept[2]);
  }
}

TEST_CASE("rows that share a set let the same tokens go", "[evict][shared]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .group = 1, .tokens = 40, .head_dim = 8});
  data::evicting decode(
      pipeline{shared{knorm{}, {.sequences = 1, .kv_heads = 2}}, top_k{{.budget = 25}}}, c.view(),
      evidence<>{});
  REQUIRE(decode.run.result.ok());
  std::mt19937 engine(11);
  std::normal_distribution<float> normal;
  for (int i = 0; i < 60; ++i) {
    std::vector<float> k(4 * 8), v(4 * 8);
    for (float& x : k) x = data::rounded(normal(engine));
    for (float& x : v) x = data::rounded(normal(engine));
    rows_shape const shape{2, 2, 1, 8};
    REQUIRE(decode.step(dense_rows(k.data(), shape), dense_rows(v.data(), shape), {}).ok());
    for (index_t s : {0, 1}) REQUIRE(decode.held(s, 0) == decode.held(s, 1));
  }
  CHECK(decode.intact());
  CHECK(decode.held(0, 0) != decode.held(1, 0));
  CHECK(decode.run.packed.tokens(1, 1) == 25);
}
