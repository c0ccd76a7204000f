// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/adakv.hpp"
#include "support/catch.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

namespace {

reference::reduce theirs(reduce how) {
  return how == reduce::mean  ? reference::reduce::mean
         : how == reduce::sum ? reference::reduce::sum
                              : reference::reduce::maximum;
}

}  // namespace

TEST_CASE("snapkv's scores match the reference, heads reduced after pooling or before",
          "[snapkv]") {
  for (index_t group : {1, 2, 4, 8}) {
    data::cache const c(
        {.sequences = 2, .kv_heads = 2, .group = group, .tokens = 90, .head_dim = 32});
    for (bool reduce_first : {false, true})
      for (auto kind : {pooling::average, pooling::maximum})
        for (auto heads : {reduce::mean, reduce::maximum, reduce::sum}) {
          auto const got = data::scores_by(pipeline{snapkv{{.window = 16,
                                                            .pool = 5,
                                                            .kind = kind,
                                                            .heads = heads,
                                                            .reduce_first = reduce_first}}},
                                           c.view(), evidence{window_queries{c.queries(16)}});
          REQUIRE(got.size() == 4 * 90);
          for (index_t r = 0; r < 4; ++r) {
            auto const q = oracle::window(c, r / 2, r % 2, 16);
            auto const k = oracle::keys(c, r / 2, r % 2);
            bool const largest = kind == pooling::maximum;
            auto const expected = reduce_first
                                      ? reference::window_score(q, k, 5, largest, theirs(heads))
                                      : reference::snapkv(q, k, 5, largest, theirs(heads));
            for (std::size_t t = 0; t < expected.size(); ++t)
              REQUIRE(std::abs(got[static_cast<std::size_t>(r) * 90 + t] - expected[t]) <=
                      tolerance::accumulated);
          }
        }
  }
}

TEST_CASE("snapkv takes the model's own scale and soft cap", "[snapkv]") {
  data::cache const c({.kv_heads = 2, .group = 3, .tokens = 77, .head_dim = 80});
  for (logit_rule const rule : {logit_rule{.scale = 0.3f}, logit_rule{0.5f, 2.5f}}) {
    auto const got = data::scores_by(pipeline{snapkv{{.window = 9, .logit = rule}}}, c.view(),
                                     evidence{window_queries{c.queries(9)}});
    for (index_t h = 0; h < 2; ++h) {
      auto const expected = reference::snapkv(
          oracle::window(c, 0, h, 9), oracle::keys(c, 0, h), 5, false, reference::reduce::mean,
          static_cast<double>(rule.scale), static_cast<double>(rule.soft_cap));
      for (std::size_t t = 0; t < expected.size(); ++t)
        REQUIRE(std::abs(got[static_cast<std::size_t>(h) * 77 + t] - expected[t]) <=
                tolerance::accumulated);
    }
  }
}

TEST_CASE("queries may lie in memory that the caller writes to", "[snapkv]") {
  data::cache const c({.tokens = 100, .head_dim = 16});
  index_t const heads = c.shape.q_heads();
  std::vector<float> q(c.q.begin(), c.q.begin() + heads * 8 * 16);
  rows_shape const shape{1, heads, 8, 16};
  auto const policy = pipeline{snapkv{{.window = 8}}, top_k{{.budget = 30}}};
  auto const writable =
      data::kept_by(policy, c.view(), evidence{window_queries{dense_rows(q.data(), shape)}});
  REQUIRE(writable.size() == 2);
  CHECK(writable ==
        data::kept_by(policy, c.view(),
                      evidence{window_queries{dense_rows(std::as_const(q).data(), shape)}}));
}

TEST_CASE("snapkv's kept sets match the reference and keep the window", "[snapkv]") {
  data::cache const c({.kv_heads = 2, .group = 4, .tokens = 300, .head_dim = 64});
  data::shuffled const other(c, 41);
  data::kept_sets fewer(2);
  for (index_t budget : {1, 32, 64, 100, 200, 300, 301}) {
    auto const policy =
        pipeline{snapkv{{.window = 32, .pool = 7}}, top_k{{.budget = budget, .sinks = 4}}};
    evidence const seen{window_queries{c.queries(32)}};
    auto const kept = data::kept_by(policy, c.view(), seen);
    for (index_t h = 0; h < 2; ++h) {
      auto score = reference::snapkv(oracle::window(c, 0, h, 32), oracle::keys(c, 0, h), 7, false,
                                     reference::reduce::mean);
      score.resize(300, 0.0);
      REQUIRE(kept.size() == 2);
      CHECK(kept[static_cast<std::size_t>(h)] == reference::keep(score, budget, 4, 32));
    }
    CHECK(data::contains(kept, fewer));
    CHECK(kept == data::kept_by(policy, other.view(), seen));
    fewer = kept;
  }
}

TEST_CASE("snapkv's query heads may change places in a group, and KV heads with theirs",
          "[snapkv]") {
  data::cache c({.kv_heads = 3, .group = 4, .tokens = 120, .head_dim = 32});
  auto const policy = pipeline{snapkv{{.window = 8}}, top_k{{.budget = 40}}};
  auto const kept = data::kept_by(policy, c.view(), evidence{window_queries{c.queries(8)}});
  REQUIRE(kept.size() == 3);
  auto const other = data::reversed_heads(c);
  CHECK(data::reversed_heads(
            data::kept_by(policy, other.view(), evidence{window_queries{other.queries(8)}}), 3) ==
        kept);
  auto const head = static_cast<std::ptrdiff_t>(data::cache::window * 32);
  for (index_t h = 0; h < 3; ++h)
    std::rotate(c.q.begin() + 4 * h * head, c.q.begin() + (4 * h + 1) * head,
                c.q.begin() + 4 * (h + 1) * head);
  CHECK(data::kept_by(policy, c.view(), evidence{window_queries{c.queries(8)}}) == kept);
}

TEST_CASE("snapkv of rows no longer than the window, of one token, of equal scores", "[snapkv]") {
  data::cache const c({.sequences = 4, .group = 1, .tokens = 20, .head_dim = 8});
  data::shuffled const ragged(c, 3, {20, 8, 1, 0});
  auto const kept = data::kept_by(pipeline{snapkv{{.window = 8}}, top_k{{.budget = 4}}},
                                  ragged.view(), evidence{window_queries{c.queries(8)}});
  REQUIRE(kept.size() == 8);
  CHECK(kept[0] == std::vector<index_t>{16, 17, 18, 19});
  CHECK(kept[2] == std::vector<index_t>{4, 5, 6, 7});
  CHECK(kept[4] == std::vector<index_t>{0});
  CHECK(kept[6].empty());
  data::cache equal({.group = 1, .tokens = 20, .head_dim = 8});
  std::fill(equal.k.begin(), equal.k.end(), 1.0f);
  CHECK(data::kept_by(pipeline{snapkv{{.window = 2, .pool = 1}}, top_k{{.budget = 5}}},
                      equal.view(), evidence{window_queries{equal.queries(2)}}) ==
        data::kept_sets(2, {0, 1, 2, 18, 19}));
}

TEST_CASE("snapkv says what it lacks", "[snapkv]") {
  data::cache const c({.tokens = 20, .head_dim = 8});
  auto const code = [&](snapkv::options const& options, rows_view<float const> const& q) {
    return data::compressed(pipeline{snapkv{options}, top_k{{.budget = 4}}}, c.view(),
                            evidence{window_queries{q}})
        .result.code;
  };
  CHECK(code({.window = 8}, c.queries(8)) == errc::ok);
  CHECK(code({.window = 8}, c.queries(7)) == errc::invalid_shape);
  CHECK(code({.window = 8}, {}) == errc::invalid_pointer);
  CHECK(code({.window = 0}, c.queries(8)) == errc::invalid_option);
  CHECK(code({.window = 8, .pool = 4}, c.queries(8)) == errc::invalid_option);
  CHECK(code({.window = 8, .pool = -1}, c.queries(8)) == errc::invalid_option);
  CHECK(code({.window = 1 << 17}, c.queries(8)) == errc::invalid_option);
  CHECK(code({.window = 8, .logit = {-1.0f, 0.0f}}, c.queries(8)) == errc::invalid_option);
  CHECK(code({.window = 8, .logit = {0.0f, NAN}}, c.queries(8)) == errc::invalid_option);
}
