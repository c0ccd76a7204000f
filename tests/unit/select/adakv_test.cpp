// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/adakv.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <kvslim/select/adakv.hpp>

using namespace kvslim;

namespace {

/// The authors' scores.
constexpr snapkv::options scored{
    .window = 8, .pool = 7, .kind = pooling::maximum, .reduce_first = true};

auto shared_by(index_t kv_heads, index_t budget, double alpha, safeguard how,
               snapkv::options const& scores = scored) {
  return pipeline{
      snapkv{scores},
      adakv{{.budget = budget, .kv_heads = kv_heads, .alpha = alpha, .safeguard = how}}};
}

/// Rows of a golden entry that lie one after the other.
data::kept_sets golden_sets(golden const& g, std::string const& of) {
  data::kept_sets sets;
  auto at = g["kept_" + of].begin();
  for (double n : g["length_" + of]) {
    sets.emplace_back(at, at + static_cast<std::ptrdiff_t>(n));
    at += static_cast<std::ptrdiff_t>(n);
  }
  return sets;
}

index_t total_of(data::kept_sets const& kept) {
  index_t total = 0;
  for (auto const& row : kept) total += static_cast<index_t>(row.size());
  return total;
}

}  // namespace

TEST_CASE("adakv's scores and kept sets are the authors'", "[adakv][snapkv]") {
  golden const g("adakv");
  auto const q = g.floats("q"), k = g.floats("k");
  data::text_of const text{nullptr, k.data(), 0, 3, 64, 16};
  evidence const seen{window_queries{dense_rows(q.data(), {1, 6, 8, 16})}};
  auto const scores = data::scores_by(pipeline{snapkv{scored}}, text.prompt(64), seen);
  for (std::size_t h = 0; h < 3; ++h)
    for (std::size_t t = 0; t < 56; ++t)
      REQUIRE(std::abs(scores[h * 64 + t] - g["score"][h * 56 + t]) <= tolerance::accumulated);
  auto const kept = [&](double alpha, snapkv::options const& with = scored) {
    return data::kept_by(shared_by(3, 24, alpha, safeguard::authors, with), text.prompt(64), seen);
  };
  CHECK(kept(0.0) == golden_sets(g, "0"));
  CHECK(kept(0.2) == golden_sets(g, "20"));
  CHECK(kept(0.5) == golden_sets(g, "50"));
  CHECK(kept(1.0) == golden_sets(g, "100"));
  auto largest = scored, averaged = scored;
  largest.heads = reduce::maximum;
  CHECK(kept(0.2, largest) == golden_sets(g, "20_max"));
  averaged.pool = 5;
  averaged.kind = pooling::average;
  CHECK(kept(0.2, averaged) == golden_sets(g, "20_avgpool"));
}

TEST_CASE("adakv over query heads that each have a copy of K is the authors' other mode",
          "[adakv]") {
  golden const g("adakv");
  auto const q = g.floats("q"), k = g.floats("k");
  std::vector<float> copies;
  for (index_t h = 0; h < 6; ++h)
    copies.insert(copies.end(), k.begin() + h / 2 * 64 * 16, k.begin() + (h / 2 + 1) * 64 * 16);
  data::text_of const text{nullptr, copies.data(), 0, 6, 64, 16};
  evidence const seen{window_queries{dense_rows(q.data(), {1, 6, 8, 16})}};
  CHECK(data::kept_by(shared_by(6, 24, 0.2, safeguard::authors), text.prompt(64), seen) ==
        golden_sets(g, "20_heads"));
}

TEST_CASE("adakv that pins is kvpress's", "[adakv]") {
  golden const g("adakv");
  auto const q = g.floats("q"), k = g.floats("k");
  data::text_of const text{nullptr, k.data(), 0, 3, 64, 16};
  evidence const seen{window_queries{dense_rows(q.data(), {1, 6, 8, 16})}};
  snapkv::options const with{.window = 8, .pool = 5};
  auto const scores = data::scores_by(pipeline{snapkv{with}}, text.prompt(64), seen);
  for (std::size_t h = 0; h < 3; ++h)
    for (std::size_t t = 0; t < 56; ++t)
      REQUIRE(std::abs(scores[h * 64 + t] - g["kvpress_score"][h * 56 + t]) <=
              tolerance::accumulated);
  for (int percent : {0, 20, 80, 100}) {
    auto const name = std::to_string(percent);
    data::kept_sets expected;
    auto at = g["kvpress_kept_" + name].begin();
    for (double n : g["kvpress_length_" + name]) {
      expected.emplace_back(at, at + static_cast<std::ptrdiff_t>(n));
      at += static_cast<std::ptrdiff_t>(n);
    }
    CHECK(data::kept_by(shared_by(3, 24, percent / 100.0, safeguard::pin, with), text.prompt(64),
                        seen) == expected);
  }
}

TEST_CASE("adakv matches the reference for any group, budget and safeguard", "[adakv]") {
  for (index_t group : {1, 2, 4}) {
    index_t const heads = 4, tokens = 96, window = 8;
    data::cache const c(
        {.sequences = 2, .kv_heads = heads, .group = group, .tokens = tokens, .head_dim = 32},
        static_cast<unsigned>(group));
    data::shuffled const other(c, 21);
    evidence const seen{window_queries{c.queries(window)}};
    for (index_t budget : {8, 9, 20, 41, 87, 88, 95, 96, 120})
      for (double alpha : {0.0, 0.2, 0.35, 0.7, 1.0})
        for (auto how : {safeguard::exact, safeguard::authors, safeguard::pin}) {
          auto const policy = shared_by(heads, budget, alpha, how);
          auto const kept = data::kept_by(policy, c.view(), seen);
          REQUIRE(kept.size() == 8);
          CHECK(kept == data::kept_by(policy, other.view(), seen));
          for (index_t s = 0; s < 2; ++s) {
            std::vector<std::vector<double>> score;
            for (index_t h = 0; h < heads; ++h)
              score.push_back(reference::window_score(oracle::window(c, s, h, window),
                                                      oracle::keys(c, s, h), 7, true,
                                                      reference::reduce::mean));
            auto const base = static_cast<std::size_t>(std::min(budget - window, tokens - window));
            std::vector<reference::indices> expected;
            if (how == safeguard::pin) {
              for (auto& head : score) head.resize(static_cast<std::size_t>(tokens), 2.0);
              expected = reference::adakv_pinned(
                  score, static_cast<std::size_t>(std::min(budget, tokens)), alpha);
            } else {
              auto const won = reference::adakv_winners(score, base);
              auto const shares =
                  budget > tokens  // the authors then compress nothing
                      ? won
                      : reference::adakv_interpolated(won, base, alpha, how == safeguard::exact);
              expected = reference::adakv_keep(score, shares, static_cast<std::size_t>(window));
            }
            for (index_t h = 0; h < heads; ++h)
              CHECK(kept[static_cast<std::size_t>(s * heads + h)] ==
                    expected[static_cast<std::size_t>(h)]);
          }
        }
  }
}

TEST_CASE("adakv conserves the total, keeps every window and the even part", "[adakv]") {
  index_t const heads = 5, tokens = 200, window = 8;
  data::cache const c({.kv_heads = heads, .group = 2, .tokens = tokens, .head_dim = 16}, 9);
  evidence const seen{window_queries{c.queries(window)}};
  for (index_t budget : {8, 23, 50, 111, 200})
    for (double alpha : {0.0, 0.1, 0.33, 0.9})
      for (auto how : {safeguard::exact, safeguard::pin}) {
        auto const kept = data::kept_by(shared_by(heads, budget, alpha, how), c.view(), seen);
        CHECK(total_of(kept) == heads * budget);
        for (auto const& row : kept) {
          auto const n = static_cast<index_t>(row.size());
          REQUIRE(n >= window);
          for (index_t w = 0; w < window; ++w)
            CHECK(row[static_cast<std::size_t>(n - window + w)] == tokens - window + w);
          auto const even = how == safeguard::exact ? budget - window : budget;
          CHECK(n >= static_cast<index_t>(alpha * static_cast<double>(even)));
        }
      }
}

TEST_CASE("adakv's heads may change places, and a larger budget keeps more", "[adakv]") {
  data::cache const c({.kv_heads = 4, .group = 2, .tokens = 90, .head_dim = 16});
  auto const other = data::reversed_heads(c);
  for (auto how : {safeguard::authors, safeguard::pin}) {
    data::kept_sets fewer(4);
    for (index_t budget : {4, 8, 9, 20, 50, 90, 91}) {
      auto const policy = shared_by(4, budget, 0.5, how);
      auto const kept = data::kept_by(policy, c.view(), evidence{window_queries{c.queries(8)}});
      CHECK(data::contains(kept, fewer));
      CHECK(data::reversed_heads(
                data::kept_by(policy, other.view(), evidence{window_queries{other.queries(8)}}),
                4) == kept);
      fewer = kept;
    }
  }
}

TEST_CASE("adakv shares among what each row has", "[adakv]") {
  data::cache const c({.sequences = 4, .kv_heads = 3, .group = 2, .tokens = 60, .head_dim = 16});
  std::vector<index_t> const lengths{60, 31, 5, 0};
  data::shuffled const ragged(c, 7, lengths);
  for (auto how : {safeguard::exact, safeguard::authors, safeguard::pin}) {
    auto const kept = data::kept_by(shared_by(3, 20, 0.2, how), ragged.view(),
                                    evidence{window_queries{c.queries(8)}});
    REQUIRE(kept.size() == 12);
    index_t const drift = how == safeguard::authors ? 3 : 0;
    for (std::size_t s = 0; s < 4; ++s) {
      index_t const total = total_of({kept.begin() + static_cast<std::ptrdiff_t>(3 * s),
                                      kept.begin() + static_cast<std::ptrdiff_t>(3 * s + 3)});
      CHECK(std::abs(total - 3 * std::min<index_t>(20, lengths[s])) <= drift);
    }
  }
}

TEST_CASE("adakv of equal scores, of one token, and of budgets below the window", "[adakv]") {
  data::cache equal({.kv_heads = 3, .group = 1, .tokens = 40, .head_dim = 8});
  std::fill(equal.k.begin(), equal.k.end(), 1.0f);
  snapkv::options const plain{.window = 4, .pool = 1};
  evidence const seen{window_queries{equal.queries(4)}};
  // Every score ties: the earlier head wins all seats, and alpha gives the others theirs.
  auto const kept =
      data::kept_by(shared_by(3, 14, 0.5, safeguard::exact, plain), equal.view(), seen);
  REQUIRE(kept.size() == 3);
  CHECK(kept[0].size() == 4 + 20);
  CHECK(kept[1].size() == 4 + 5);
  CHECK(kept[2].size() == 4 + 5);
  for (auto how : {safeguard::exact, safeguard::authors, safeguard::pin})
    CHECK(data::kept_by(shared_by(3, 3, 0.2, how, plain), equal.view(), seen) ==
          data::kept_sets(3, {37, 38, 39}));
  data::cache const one({.kv_heads = 3, .tokens = 1, .head_dim = 8});
  CHECK(data::kept_by(shared_by(3, 3, 0.2, safeguard::exact, plain), one.view(),
                      evidence{window_queries{one.queries(4)}}) == data::kept_sets(3, {0}));
}

TEST_CASE("adakv goes before any scorer, and refuses what makes no sense", "[adakv]") {
  data::cache const c({.kv_heads = 4, .tokens = 50, .head_dim = 8});
  auto const kept =
      data::kept_by(pipeline{knorm{}, adakv{{.budget = 10, .kv_heads = 2}}}, c.view());
  CHECK(total_of({kept.begin(), kept.begin() + 2}) == 20);
  CHECK(total_of({kept.begin() + 2, kept.end()}) == 20);
  auto const code = [&](adakv::options const& options) {
    return make_plan(pipeline{knorm{}, adakv{options}}, c.shape.extents()).check().code;
  };
  CHECK(code({.budget = 10, .kv_heads = 4}) == errc::ok);
  CHECK(code({.budget = 0, .kv_heads = 4}) == errc::invalid_option);
  CHECK(code({.budget = 10, .kv_heads = 0}) == errc::invalid_option);
  CHECK(code({.budget = 10, .kv_heads = 3}) == errc::invalid_shape);
  CHECK(code({.budget = 10, .kv_heads = 4, .alpha = -0.1}) == errc::invalid_option);
  CHECK(code({.budget = 10, .kv_heads = 4, .alpha = 1.1}) == errc::invalid_option);
  CHECK(code({.budget = 10, .kv_heads = 4, .alpha = std::nan("")}) == errc::invalid_option);
}
