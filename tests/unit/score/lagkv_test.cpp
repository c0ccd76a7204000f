// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/lagkv.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <kvslim/score/lagkv.hpp>

using namespace kvslim;

namespace {

constexpr index_t sinks = 4, lag = 16;

/// K and V of the golden file: 2 heads, 103 tokens.
struct given {
  golden g{"lagkv"};
  std::vector<float> k = g.floats("k"), v = g.floats("v");

  [[nodiscard]] auto view(index_t tokens = 103) const {
    auto x = dense_cache(k.data(), v.data(), extents{1, 2, tokens, 16});
    x.k.layout = x.v.layout = {0, 103 * 16, 16, 1};
    return x;
  }
};

std::vector<double> reference_of(data::cache const& c, index_t r, index_t n,
                                 lagkv::options const& opt) {
  index_t const s = r / c.shape.kv_heads, h = r % c.shape.kv_heads;
  return reference::lagkv(oracle::keys(c, s, h, n), oracle::values(c, s, h, n),
                          static_cast<std::size_t>(opt.sinks), static_cast<std::size_t>(opt.lag),
                          static_cast<double>(opt.value_weight), opt.ranked);
}

}  // namespace

TEST_CASE("lagkv's scores are kvpress's", "[lagkv]") {
  given const x;
  auto const equal = [&](char const* name, lagkv::options const& opt, index_t tokens) {
    auto const scores = data::scores_by(pipeline{lagkv{opt}}, x.view(tokens));
    auto const& expected = x.g[name];
    REQUIRE(scores.size() == expected.size());
    for (std::size_t i = 0; i < scores.size(); ++i)
      REQUIRE(std::abs(scores[i] - expected[i]) <= tolerance::accumulated);
  };
  equal("score", {.sinks = sinks, .lag = lag}, 103);
  equal("score_across", {.sinks = sinks, .lag = lag, .ranked = false}, 103);
  equal("score_short", {.sinks = sinks, .lag = lag}, 35);
}

TEST_CASE("lagkv keeps what the authors keep of every partition", "[lagkv]") {
  given const x;
  for (int const weight : {0, 1, 3})
    for (int const percent : {25, 50}) {
      auto const& expected = x.g["kept_" + std::to_string(weight) + "_" + std::to_string(percent)];
      auto const each = static_cast<index_t>(expected.size()) / 2;
      CHECK(each == sinks + 5 * (lag * percent / 100) + 19);
      auto const kept = data::kept_by(
          pipeline{lagkv{{.sinks = sinks, .lag = lag, .value_weight = static_cast<float>(weight)}},
                   top_k{{.budget = each}}},
          x.view());
      REQUIRE(kept.size() == 2);
      for (index_t h = 0; h < 2; ++h)
        CHECK(kept[static_cast<std::size_t>(h)] ==
              std::vector<index_t>(expected.begin() + h * each, expected.begin() + (h + 1) * each));
    }
}

TEST_CASE("lagkv matches the reference in any order of cells", "[lagkv]") {
  for (index_t const dim : {48, 80})
    for (index_t const group : {1, 8}) {  // which no score depends on
      data::cache const c({.sequences = 3,
                           .kv_heads = 2,
                           .group = group,
                           .tokens = 90,
                           .head_dim = dim,
                           .value_dim = group == 1 ? 0 : 24},
                          static_cast<unsigned>(dim));
      std::vector<index_t> const lengths{90, 37, 5};
      data::shuffled const ragged(c, 21, lengths);
      for (lagkv::options const& opt : {lagkv::options{.sinks = 2, .lag = 8},
                                        lagkv::options{.sinks = 0, .lag = 5, .value_weight = 0.25f},
                                        lagkv::options{.sinks = 3, .lag = 30, .ranked = false}}) {
        auto const scores = data::scores_by(pipeline{lagkv{opt}}, ragged.view());
        REQUIRE(scores.size() == 6 * 111);
        for (index_t r = 0; r < 6; ++r) {
          index_t const n = lengths[static_cast<std::size_t>(r / 2)];
          auto const expected = reference_of(c, r, n, opt);
          for (index_t t = 0; t < 111; ++t)
            REQUIRE(std::abs(scores[static_cast<std::size_t>(r * 111 + t)] -
                             (t < n ? expected[static_cast<std::size_t>(t)] : 0.0)) <=
                    tolerance::accumulated);
        }
        for (index_t const budget : {1, 5, 40, 89, 200}) {
          auto const kept = data::kept_by(
              pipeline{lagkv{opt}, top_k{{.budget = budget, .sinks = 2, .recent = 2}}},
              ragged.view());
          REQUIRE(kept.size() == 6);
          for (index_t r = 0; r < 6 && opt.ranked; ++r)
            CHECK(kept[static_cast<std::size_t>(r)] ==
                  reference::keep(reference_of(c, r, lengths[static_cast<std::size_t>(r / 2)], opt),
                                  budget, 2, 2));
        }
      }
    }
}

TEST_CASE("lagkv keeps pinned tokens before all others", "[lagkv]") {
  data::cache const c({.kv_heads = 1, .tokens = 60, .head_dim = 16});
  auto view = c.view();
  std::vector<std::uint8_t> valid(60, 1);
  valid[13] = valid[27] = 2;
  view.valid = valid.data();
  auto const kept =
      data::kept_by(pipeline{lagkv{{.sinks = 0, .lag = 8}}, top_k{{.budget = 2}}}, view);
  CHECK(kept == data::kept_sets{{13, 27}});
}

TEST_CASE("lagkv does not see where channels lie nor how wide they are", "[lagkv]") {
  data::cache const c({.tokens = 70, .head_dim = 16});
  auto const policy = pipeline{lagkv{{.sinks = 2, .lag = 8}}, top_k{{.budget = 36}}};
  auto const kept = data::kept_by(policy, c.view());
  data::cache moved = c;
  for (std::size_t i = 0; i < moved.k.size(); ++i) {
    auto const d = static_cast<float>(i % 16);
    moved.k[i] = moved.k[i] * (d < 8 ? 4.0f : 0.5f) + 16.0f;
    moved.v[i] = moved.v[i] * 0.25f;
  }
  CHECK(data::kept_by(policy, moved.view()) == kept);
}

TEST_CASE("lagkv's heads may change places, and a larger budget keeps more", "[lagkv]") {
  data::cache const c({.kv_heads = 3, .tokens = 70, .head_dim = 16});
  auto const other = data::reversed_heads(c);
  data::kept_sets fewer(3);
  for (index_t budget : {1, 6, 20, 50, 70, 71}) {
    auto const policy = pipeline{lagkv{{.sinks = 2, .lag = 8}}, top_k{{.budget = budget}}};
    auto const kept = data::kept_by(policy, c.view());
    CHECK(data::contains(kept, fewer));
    CHECK(data::reversed_heads(data::kept_by(policy, other.view()), 3) == kept);
    fewer = kept;
  }
}

TEST_CASE("lagkv where nothing varies, or beyond what floats hold", "[lagkv]") {
  data::cache c({.kv_heads = 1, .tokens = 40, .head_dim = 8});
  auto const policy = pipeline{lagkv{{.sinks = 0, .lag = 8}}};
  std::fill(c.k.begin(), c.k.end(), 0.5f);  // all channels are left out: V alone decides
  auto const half = data::scores_by(policy, c.view());
  auto const only =
      data::scores_by(pipeline{lagkv{{.sinks = 0, .lag = 8, .value_weight = 1e6f}}}, c.view());
  CHECK(half == only);

  std::fill(c.v.begin(), c.v.end(), -2.0f);  // equal tokens: the earlier rank higher
  auto const equal = data::scores_by(policy, c.view());
  for (index_t t = 0; t < 32; ++t)
    CHECK(equal[static_cast<std::size_t>(t)] == static_cast<float>(7 - t % 8) / 8.0f);

  for (std::size_t i = 0; i < c.k.size(); ++i)  // the next partition hardly varies, this one does
    c.k[i] = i / 64 % 2 == 0 ? (i % 3 == 0 ? 3e38f : -3e38f) : static_cast<float>(i % 5) * 1e-37f;
  for (float const x : data::scores_by(policy, c.view())) CHECK((x >= 0.0f && x <= 1.0f));
  std::fill(c.v.begin(), c.v.begin() + 8, std::numeric_limits<float>::quiet_NaN());
  auto const scores = data::scores_by(pipeline{lagkv{{.sinks = 0, .lag = 8, .ranked = false}}},
                                      c.view());  // V is checked where it is stored
  for (float const x : scores) CHECK((x >= 0.0f && x <= 1.0f));
}

TEST_CASE("lagkv of one token, of empty rows and of wrong options", "[lagkv]") {
  data::cache const one({.tokens = 1, .head_dim = 8});
  CHECK(data::kept_by(pipeline{lagkv{}, top_k{{.budget = 4}}}, one.view()) ==
        data::kept_sets{{0}, {0}});
  data::cache const c({.sequences = 2, .tokens = 12, .head_dim = 8});
  data::shuffled const empty(c, 3, {0, 12});
  auto const kept =
      data::kept_by(pipeline{lagkv{{.sinks = 1}}, top_k{{.budget = 4}}}, empty.view());
  REQUIRE(kept.size() == 4);
  CHECK(kept[0].empty());
  CHECK(kept[2] == std::vector<index_t>{0, 9, 10, 11});  // too short to score: sinks and the newest

  for (lagkv::options const& wrong :
       {lagkv::options{.sinks = -1}, lagkv::options{.lag = 0}, lagkv::options{.lag = 70000},
        lagkv::options{.value_weight = -1.0f},
        lagkv::options{.value_weight = std::numeric_limits<float>::quiet_NaN()},
        lagkv::options{.value_weight = std::numeric_limits<float>::infinity()}})
    CHECK(data::compressed(pipeline{lagkv{wrong}, top_k{{.budget = 4}}}, c.view()).result.code ==
          errc::invalid_option);
  data::cache bad({.tokens = 12, .head_dim = 8});
  bad.k[17] = std::numeric_limits<float>::infinity();
  CHECK(data::compressed(pipeline{lagkv{}, top_k{{.budget = 4}}}, bad.view()).result.code ==
        errc::non_finite);
}
