// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/kvcrush.hpp"

#include "reference/adakv.hpp"
#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"

#include <kvslim/keep/kvcrush.hpp>

using namespace kvslim;

namespace {

struct anchor_name {
  char const* name;
  code_anchor ours;
  reference::anchor theirs;
};
constexpr anchor_name anchors[] = {
    {"mean", code_anchor::mean, reference::anchor::mean},
    {"inv_mean", code_anchor::inverse_mean, reference::anchor::inverse_mean},
    {"alternate", code_anchor::alternating, reference::anchor::alternating},
    {"zeros", code_anchor::zeros, reference::anchor::zeros},
    {"ones", code_anchor::ones, reference::anchor::ones}};

/// Scores [head][token] of one sequence, as the reference takes them; the window's are 0.
std::vector<std::vector<double>> scores_of(data::cache const& c, index_t s, index_t n,
                                           index_t window) {
  std::vector<std::vector<double>> score;
  for (index_t h = 0; h < c.shape.kv_heads; ++h) {
    score.push_back(reference::window_score(oracle::window(c, s, h, window),
                                            oracle::keys(c, s, h, n), 1, false,
                                            reference::reduce::mean));
    score.back().resize(static_cast<std::size_t>(n), 0.0);
  }
  return score;
}

}  // namespace

TEST_CASE("kvcrush keeps what the port to vLLM keeps", "[kvcrush]") {
  golden const g("kvcrush");
  auto const q = g.floats("q"), k = g.floats("k");
  data::text_of const text{nullptr, k.data(), 0, 3, 96, 16};
  evidence const seen{window_queries{dense_rows(q.data(), {1, 6, 8, 16})}};
  std::vector<std::vector<double>> score;
  for (std::size_t h = 0; h < 3; ++h) {
    std::vector<reference::matrix> heads(2);
    reference::matrix keys;
    for (std::size_t t = 0; t < 96; ++t) {
      auto const from = k.begin() + static_cast<std::ptrdiff_t>((h * 96 + t) * 16);
      keys.emplace_back(from, from + 16);
    }
    for (std::size_t i = 0; i < 16; ++i) {
      auto const from = q.begin() + static_cast<std::ptrdiff_t>((h * 16 + i) * 16);
      heads[i / 8].emplace_back(from, from + 16);
    }
    score.push_back(reference::window_score(heads, keys, 1, false, reference::reduce::mean));
    score.back().resize(96, 0.0);
  }
  for (auto const& anchor : {anchors[0], anchors[1], anchors[2]})
    for (index_t page : {1, 4}) {
      auto const kept = data::kept_by(
          pipeline{snapkv{{.window = 8, .pool = 1}}, top_k{{.budget = 44, .sinks = 4}},
                   kvcrush{{.page = page, .anchor = anchor.ours, .spaced = spacing::ends}}},
          text.prompt(96), seen);
      auto const name = "kept_" + std::string(anchor.name) + "_" + std::to_string(page);
      auto const run = [&](bool as_first_head) {
        return reference::kvcrush(score, 4, 8, 32, 0.25, static_cast<std::size_t>(page),
                                  anchor.theirs, reference::spacing::ends, as_first_head);
      };
      auto const port = run(true), expected = run(false);
      REQUIRE(kept.size() == 3);
      for (index_t h = 0; h < 3; ++h) {
        auto const row = static_cast<std::size_t>(h);
        std::vector<index_t> const theirs(g[name].begin() + h * 44, g[name].begin() + (h + 1) * 44);
        REQUIRE(port[row] == theirs);  // with tokens that the port keeps twice
        if (h == 0) CHECK(kept[row] == theirs);
        CHECK(kept[row] == expected[row]);
        CHECK(kept[row].size() == 44);
      }
    }
}

TEST_CASE("kvcrush keeps the authors' pages of scores summed over heads", "[kvcrush]") {
  golden const g("kvcrush_pages");
  auto const score = g.floats("score");
  data::cache const c({.kv_heads = 2, .tokens = 96, .head_dim = 8});
  // Two heads whose scores only together are the golden ones.
  std::vector<float> parts;
  for (std::size_t t = 0; t < 96; ++t) parts.push_back(t % 3 == 0 ? score[t] : 0.0f);
  for (std::size_t t = 0; t < 96; ++t) parts.push_back(t % 3 == 0 ? 0.0f : score[t]);
  for (std::string const name : {"random", "zeros", "ones", "mean", "alternating"}) {
    kvcrush::options options{.ratio = 0.29, .page = 4, .code_heads = 1};  // 4 of 14 pages
    options.anchor = name == "random"  ? code_anchor::given
                     : name == "zeros" ? code_anchor::zeros
                     : name == "ones"  ? code_anchor::ones
                     : name == "mean"  ? code_anchor::mean
                                       : code_anchor::alternating;
    for (std::size_t b = 0; b < 4; ++b)
      options.bits |= static_cast<std::uint64_t>(g["anchor_" + name][b]) << b;
    auto const kept = data::kept_by(pipeline{shared{given_scores{}, {.kv_heads = 2}, reduce::sum},
                                             top_k{{.budget = 56}}, kvcrush{options}},
                                    c.view(), evidence{token_scores<>{parts.data()}});
    std::vector<index_t> expected;
    for (index_t page = 0; page < 24; ++page) {
      auto const holds = [&](std::vector<double> const& list) {
        return std::find(list.begin(), list.end(), static_cast<double>(page)) != list.end();
      };
      if (!holds(g["evicted"]) || holds(g["kept_" + name]))
        for (index_t t = 0; t < 4; ++t) expected.push_back(page * 4 + t);
    }
    REQUIRE(expected.size() == 56);
    CHECK(kept == data::kept_sets(2, expected));
  }
}

TEST_CASE("kvcrush matches the reference for any group, page, anchor, length and order of cells",
          "[kvcrush]") {
  index_t const heads = 3, window = 6;
  for (index_t group : {1, 2, 4}) {
    data::cache const c(
        {.sequences = 2, .kv_heads = heads, .group = group, .tokens = 80, .head_dim = 16},
        static_cast<unsigned>(group));
    std::vector<index_t> const lengths{80, 53};
    data::shuffled const ragged(c, 13, lengths);
    evidence const seen{window_queries{c.queries(window)}};
    for (index_t budget : {9, 18, 37, 79, 80, 90})
      for (index_t page : {1, 3})
        for (double ratio : {0.0, 0.25, 0.6})
          for (auto const& anchor : anchors)
            for (auto spaced : {spacing::stride, spacing::ends}) {
              auto const kept = data::kept_by(
                  pipeline{
                      snapkv{{.window = window, .pool = 1}}, top_k{{.budget = budget, .sinks = 2}},
                      kvcrush{
                          {.ratio = ratio, .page = page, .anchor = anchor.ours, .spaced = spaced}}},
                  ragged.view(), seen);
              REQUIRE(kept.size() == 6);
              for (index_t s = 0; s < 2; ++s) {
                index_t const n = lengths[static_cast<std::size_t>(s)], room = budget - 8;
                auto const whole = static_cast<index_t>(static_cast<double>(room) * ratio);
                for (index_t h = 0; h < heads; ++h) {
                  auto const& row = kept[static_cast<std::size_t>(s * heads + h)];
                  REQUIRE(static_cast<index_t>(row.size()) <= std::min(budget, n));
                  if (budget >= n) {
                    CHECK(static_cast<index_t>(row.size()) == n);
                    continue;
                  }
                  // Below a page the reference, like the port, exceeds the budget.
                  if (ratio > 0.0 && whole < page) continue;
                  auto const expected = reference::kvcrush(
                      scores_of(c, s, n, window), 2, static_cast<std::size_t>(window),
                      static_cast<std::size_t>(room), ratio, static_cast<std::size_t>(page),
                      anchor.theirs,
                      spaced == spacing::stride ? reference::spacing::stride
                                                : reference::spacing::ends);
                  auto const& theirs = expected[static_cast<std::size_t>(h)];
                  // The reference may be asked for more representatives than there are pages.
                  if (std::adjacent_find(theirs.begin(), theirs.end()) == theirs.end())
                    CHECK(row == theirs);
                }
              }
            }
  }
}

TEST_CASE("representatives of candidates: the nearest always, as many as asked, spaced out",
          "[kvcrush]") {
  for (auto how : {spacing::stride, spacing::ends})
    for (index_t n = 0; n < 40; ++n)
      for (index_t count = 0; count < 45; ++count) {
        std::vector<index_t> places;
        for (index_t p = 0; p < n; ++p)
          if (ops::is_representative(how, p, n, count)) places.push_back(p);
        std::vector<index_t> expected;
        index_t const k = std::min(n, count);
        for (index_t i = 0; i < k; ++i)
          expected.push_back(how == spacing::stride ? i * (n / k)
                             : k == 1               ? 0
                                                    : i * (n - 1) / (k - 1));
        REQUIRE(places == expected);
      }
}

TEST_CASE("kvcrush never exceeds a budget, and keeps protected and pinned tokens", "[kvcrush]") {
  data::cache const c({.kv_heads = 2, .tokens = 60, .head_dim = 8});
  std::vector<std::uint8_t> valid(60, 1);
  valid[20] = valid[33] = 2;
  auto view = c.view();
  view.valid = valid.data();
  for (index_t budget = 1; budget < 60; ++budget)
    for (index_t page : {1, 4, 7})
      for (double ratio : {0.0, 0.1, 1.0}) {
        auto const kept =
            data::kept_by(pipeline{knorm{}, top_k{{.budget = budget, .sinks = 3, .recent = 2}},
                                   kvcrush{{.ratio = ratio, .page = page}}},
                          view);
        REQUIRE(kept.size() == 2);
        auto const n = static_cast<index_t>(kept[0].size());
        REQUIRE(n <= budget);
        if (page == 1) REQUIRE(n == budget);
        if (budget >= 7)
          REQUIRE(n >= 7 + (budget - 7) / page * page - page);  // less than a page is lost twice
        if (budget >= 7) CHECK(data::contains(kept, data::kept_sets(2, {0, 1, 2, 20, 33, 58, 59})));
      }
}

TEST_CASE("kvcrush without representatives keeps the best", "[kvcrush]") {
  data::cache const c({.kv_heads = 2, .tokens = 60, .head_dim = 8});
  top_k const quota{{.budget = 20, .sinks = 1, .recent = 2}};
  CHECK(data::kept_by(pipeline{knorm{}, quota, kvcrush{{.ratio = 0.0}}}, c.view()) ==
        data::kept_by(pipeline{knorm{}, quota}, c.view()));
}

TEST_CASE("kvcrush's heads may change places where codes do not tell them apart", "[kvcrush]") {
  data::cache const c({.kv_heads = 4, .tokens = 60, .head_dim = 8});
  auto const other = data::reversed_heads(c);
  // The mean's and constant anchors give every head the same say; alternating bits do not.
  for (auto anchor : {code_anchor::mean, code_anchor::zeros, code_anchor::ones}) {
    auto const policy =
        pipeline{knorm{}, top_k{{.budget = 20}}, kvcrush{{.page = 2, .anchor = anchor}}};
    CHECK(data::reversed_heads(data::kept_by(policy, other.view()), 4) ==
          data::kept_by(policy, c.view()));
  }
}

TEST_CASE("kvcrush of one token, equal scores, empty rows, and heads of unlike length",
          "[kvcrush]") {
  auto const policy = pipeline{knorm{}, top_k{{.budget = 4}}, kvcrush{}};
  data::cache const one({.tokens = 1, .head_dim = 8});
  CHECK(data::kept_by(policy, one.view()) == data::kept_sets(2, {0}));
  data::cache equal({.tokens = 12, .head_dim = 8});
  std::fill(equal.k.begin(), equal.k.end(), 1.0f);
  // The first six are the better half: code 11, one bit from 01 as all others: the first of them.
  CHECK(data::kept_by(policy, equal.view()) == data::kept_sets(2, {0, 1, 2, 3}));
  data::cache const c({.sequences = 2, .tokens = 12, .head_dim = 8});
  data::shuffled const empty(c, 3, {0, 12});
  auto const kept = data::kept_by(policy, empty.view());
  REQUIRE(kept.size() == 4);
  CHECK(kept[0].empty());
  CHECK(kept[2].size() == 4);
  std::int32_t const lengths[] = {3, 12, 12, 7};
  auto view = c.view();
  view.lengths = row_lengths(lengths, 2, 1);
  for (index_t code_heads : {0, 1, 2}) {
    auto const unlike = data::kept_by(
        pipeline{knorm{}, top_k{{.budget = 4}}, kvcrush{{.code_heads = code_heads}}}, view);
    REQUIRE(unlike.size() == 4);
    for (std::size_t r = 0; r < 4; ++r)
      CHECK(static_cast<std::int32_t>(unlike[r].size()) == std::min(4, lengths[r]));
  }
}

TEST_CASE("kvcrush refuses what makes no sense", "[kvcrush]") {
  data::cache const c({.kv_heads = 4, .tokens = 50, .head_dim = 8});
  auto const code = [&](kvcrush::options const& options) {
    return make_plan(pipeline{knorm{}, top_k{{.budget = 9}}, kvcrush{options}}, c.shape.extents())
        .check()
        .code;
  };
  CHECK(code({}) == errc::ok);
  CHECK(code({.ratio = -0.1}) == errc::invalid_option);
  CHECK(code({.ratio = 1.1}) == errc::invalid_option);
  CHECK(code({.ratio = std::nan("")}) == errc::invalid_option);
  CHECK(code({.page = 0}) == errc::invalid_option);
  CHECK(code({.page = 1024}) == errc::ok);
  CHECK(code({.page = 1025}) == errc::invalid_option);
  CHECK(code({.code_heads = -1}) == errc::invalid_option);
  CHECK(code({.code_heads = 5}) == errc::invalid_option);
}
