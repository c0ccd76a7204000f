// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/chunked.hpp"

#include "reference/keydiff.hpp"
#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"

#include <kvslim/score/chunked.hpp>

using namespace kvslim;

namespace {

reference::matrix rows_of(reference::matrix const& all, std::size_t first, std::size_t count) {
  auto const begin = all.begin() + static_cast<std::ptrdiff_t>(first);
  return {begin, begin + static_cast<std::ptrdiff_t>(count)};
}

/// Short keys, and distinct ones, of one chunk.
std::vector<double> lengths(reference::matrix const& k) {
  std::vector<double> out;
  for (auto const& row : k) out.push_back(-std::sqrt(reference::dot(row, row)));
  return out;
}

}  // namespace

TEST_CASE("chunked keeps what kvpress keeps", "[golden][chunked]") {
  golden const g("chunked");
  auto const k = g.floats("k");
  auto const view = dense_cache(k.data(), k.data(), extents{1, 2, 70, 16});
  auto const same = [&](char const* name, auto const& scorer) {
    for (index_t const percent : {30, 62, 95}) {
      auto const& expected = g["kept_" + std::string(name) + "_" + std::to_string(percent)];
      auto const budget = std::ssize(expected) / 2;
      chunked const each{scorer, {.size = 16}};
      auto const kept = data::kept_by(pipeline{each, top_k{{.budget = budget}}}, view);
      REQUIRE(kept.size() == 2);
      for (index_t h = 0; h < 2; ++h) {
        INFO(name << " " << percent);
        CHECK(kept[static_cast<std::size_t>(h)] ==
              std::vector<index_t>(expected.begin() + h * budget,
                                   expected.begin() + (h + 1) * budget));
      }
      // The same without a budget.
      float const part = 1.0f - static_cast<float>(percent) / 100;
      CHECK(data::kept_by(pipeline{each, at_least{{.least = -part, .recent = 0}}}, view) == kept);
    }
  };
  same("knorm", knorm{});
  same("keydiff", keydiff{});
  same("curdkv", curdkv{{.sinks = 0, .kind = leverage::key}});
}

TEST_CASE("chunked matches the reference in any order of cells", "[chunked]") {
  for (index_t const size : {1, 7, 20, 64, 100}) {
    data::cache const c({.sequences = 4, .kv_heads = 3, .tokens = 60, .head_dim = 80},
                        static_cast<unsigned>(size));
    std::vector<index_t> const counts{60, 33, 1, 0};
    data::shuffled const ragged(c, 21, counts);
    for (double const part : {0.05, 0.4, 0.75, 1.0}) {
      auto const agrees = [&](auto const& scorer, auto const& theirs) {
        auto const least = static_cast<float>(-part);
        auto const kept = data::kept_by(
            pipeline{chunked{scorer, {.size = size}}, at_least{{.least = least, .recent = 0}}},
            ragged.view());
        REQUIRE(kept.size() == 12);
        for (index_t r = 0; r < 12; ++r) {
          auto const n = counts[static_cast<std::size_t>(r / 3)];
          auto const k = oracle::keys(c, r / 3, r % 3, n);
          CHECK(kept[static_cast<std::size_t>(r)] ==
                reference::chunked(k.size(), static_cast<std::size_t>(size), part,
                                   [&](std::size_t first, std::size_t count) {
                                     return theirs(rows_of(k, first, count));
                                   }));
        }
      };
      agrees(knorm{}, lengths);
      agrees(keydiff{}, [](auto const& k) { return reference::keydiff(k); });
    }
  }
}

TEST_CASE("chunked of one chunk is the scorer, and of any budget fair", "[chunked]") {
  data::cache const c({.kv_heads = 2, .tokens = 90, .head_dim = 16});
  auto const kept = [&](auto const& scorer, index_t budget) {
    return data::kept_by(pipeline{scorer, top_k{{.budget = budget}}}, c.view());
  };
  for (index_t const budget : {1, 17, 90}) {
    CHECK(kept(chunked{keydiff{}}, budget) == kept(keydiff{}, budget));
    CHECK(kept(chunked{lagkv{{.lag = 16}}, {.size = 90}}, budget) ==
          kept(lagkv{{.lag = 16}}, budget));
    CHECK(kept(chunked{chunked{knorm{}, {.size = 200}}}, budget) == kept(knorm{}, budget));
  }
  CHECK(data::contains(kept(chunked{knorm{}, {.size = 8}}, 40),
                       kept(chunked{knorm{}, {.size = 8}}, 39)));
  for (index_t const budget : {10, 37, 60})
    for (auto const& row : kept(chunked{keydiff{}, {.size = 10}}, budget))
      for (index_t chunk = 0; chunk < 9; ++chunk) {
        auto const in =
            std::count_if(row.begin(), row.end(), [&](index_t t) { return t / 10 == chunk; });
        CHECK((in == budget / 9 || in == budget / 9 + 1 || in * 9 == budget));
      }
  // Wrapped, wrapping, and in front of other stages.
  blend const both{chunked{knorm{}, {.size = 10}}, keydiff{}, {1.0f, 0.0f}};
  CHECK(kept(both, 30) == kept(chunked{knorm{}, {.size = 10}}, 30));
  auto const shared_sets = kept(shared{chunked{knorm{}, {.size = 10}}, {1, 2}}, 30);
  REQUIRE(shared_sets.size() == 2);
  CHECK(shared_sets[0] == shared_sets[1]);
}

TEST_CASE("chunked puts first what a scorer protects, reads scores by cell, and refuses",
          "[chunked]") {
  data::cache const c({.kv_heads = 1, .tokens = 20, .head_dim = 16});
  std::vector<float> scores(20);
  for (std::size_t i = 0; i < 20; ++i) scores[i] = static_cast<float>(i * 7 % 20);
  evidence const ev{token_scores<>{scores.data()}};
  auto const places = data::scores_by(pipeline{chunked{given_scores{}, {.size = 8}}}, c.view(), ev);
  REQUIRE(places.size() == 20);
  for (std::size_t t = 0; t < 20; ++t) {
    std::size_t const first = t / 8 * 8, n = std::min<std::size_t>(8, 20 - first);
    auto const place = std::count_if(scores.begin() + static_cast<std::ptrdiff_t>(first),
                                     scores.begin() + static_cast<std::ptrdiff_t>(first + n),
                                     [&](float x) { return x > scores[t]; });
    CHECK(places[t] ==
          (place == 0 ? 0.0f : -static_cast<float>(place + 1) / static_cast<float>(n)));
  }
  auto view = c.view();
  std::vector<std::uint8_t> valid(20, 1);
  valid[13] = valid[17] = 2;
  view.valid = valid.data();
  CHECK(data::kept_by(pipeline{chunked{knorm{}, {.size = 5}}, top_k{{.budget = 2}}}, view) ==
        data::kept_sets{{13, 17}});
  auto const result = [&](auto const& scorer) {
    return data::compressed(pipeline{scorer, top_k{{.budget = 4}}}, c.view(),
                            evidence{token_scores<>{}})
        .result.code;
  };
  CHECK(result(chunked{knorm{}, {.size = 3}}) == errc::ok);
  CHECK(result(chunked{knorm{}, {.size = 0}}) == errc::invalid_option);
  CHECK(result(chunked{lagkv{{.lag = 0}}}) == errc::invalid_option);
  CHECK(result(chunked{given_scores{}}) == errc::invalid_pointer);
}
