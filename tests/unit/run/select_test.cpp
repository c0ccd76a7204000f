// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// select(): which tokens stay, as a public keep set; score() by rank.

#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/policies.hpp"

using namespace kvslim;

namespace {

/// A keep set in memory of exactly the planned size.
template <class Policy>
struct chosen {
  using plan_type = decltype(make_plan(std::declval<Policy const&>(), extents{}));
  plan_type plan;
  data::buffer memory, scratch;
  keep_set keep;
  status result;

  template <class View, class Evidence = evidence<>>
  chosen(Policy const& policy, View const& view, Evidence const& evidence = {})
      : plan(make_plan(policy, view.extents())),
        memory(plan.keep_bytes()),
        scratch(plan.select_bytes()),
        keep(plan.keep(memory)),
        result(select(cpu{}, plan, view, evidence, keep, scratch)) {}

  [[nodiscard]] std::vector<index_t> cells(index_t r) const {
    return {keep.cells + keep.begins[r], keep.cells + keep.begins[r + 1]};
  }
  [[nodiscard]] std::vector<index_t> ranks(index_t r) const {
    return {keep.ranks + keep.begins[r], keep.ranks + keep.begins[r + 1]};
  }
  [[nodiscard]] bool intact() const { return memory.intact() && scratch.intact(); }
};

data::shape const shape{.sequences = 2, .kv_heads = 2, .tokens = 50, .head_dim = 8};

std::vector<float> tied_scores(std::size_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::vector<float> x(n);
  for (float& y : x) y = static_cast<float>(engine() % 20);  // many ties
  return x;
}
std::vector<double> row_of(std::vector<float> const& scores, index_t r, index_t tokens) {
  auto const from = scores.begin() + r * tokens;
  return {from, from + tokens};
}

}  // namespace

TEST_CASE("cells in any order, with padding anywhere, are the same text", "[select]") {
  data::cache const c(shape);
  data::cache moved({.sequences = 2, .kv_heads = 2, .tokens = 60, .head_dim = 8});
  std::mt19937 engine(3);
  std::vector<std::int32_t> positions(120, -5);
  std::vector<std::uint8_t> valid(120, 0);
  std::vector<index_t> cell_of(100);
  for (index_t s = 0; s < 2; ++s) {  // 50 tokens scattered over 60 cells
    std::vector<index_t> cells(60);
    for (index_t i = 0; i < 60; ++i) cells[static_cast<std::size_t>(i)] = i;
    std::shuffle(cells.begin(), cells.end(), engine);
    for (index_t t = 0; t < 50; ++t) {
      index_t const cell = cells[static_cast<std::size_t>(t)];
      cell_of[static_cast<std::size_t>(s * 50 + t)] = cell;
      positions[static_cast<std::size_t>(s * 60 + cell)] = static_cast<std::int32_t>(2 * t + 7);
      valid[static_cast<std::size_t>(s * 60 + cell)] = 1;
      for (index_t h = 0; h < 2; ++h)
        for (index_t d = 0; d < 8; ++d)
          moved.k[static_cast<std::size_t>(moved.cell(s, h, cell) * 8 + d)] = c.key(s, h, t, d);
    }
  }
  for (float& x : moved.v) x = 1.0f;
  auto view = moved.view();
  view.positions = positions.data();
  view.valid = valid.data();
  auto const same = [&](auto const& policy) {
    chosen const plain(policy, c.view()), scattered(policy, view);
    REQUIRE(scattered.result.ok());
    CHECK(scattered.intact());
    for (index_t r = 0; r < 4; ++r) {
      CHECK(scattered.ranks(r) == plain.ranks(r));
      std::vector<index_t> expected;
      for (index_t t : plain.ranks(r))
        expected.push_back(cell_of[static_cast<std::size_t>(r / 2 * 50 + t)]);
      CHECK(scattered.cells(r) == expected);
    }
  };
  same(pipeline{knorm{}, top_k{{.budget = 20, .sinks = 3, .recent = 5}}});
  same(pipeline{streaming_llm{}, top_k{{.budget = 20}}});
  same(pipeline{knorm{}, top_k{{.budget = 20}}, kvmerger{{.threshold = 0.5f}}});
  same(pipeline{knorm{}, policies::contested{}});
  same(pipeline{knorm{}, top_k{{.budget = 20, .sinks = 2}}, policies::ladder{}});
}

TEST_CASE("equal positions stand in the order of their cells", "[select]") {
  data::cache const c({.kv_heads = 1, .tokens = 6, .head_dim = 8});
  std::int32_t const positions[] = {4, 2, 4, 2, 0, 4};
  auto view = c.view();
  view.positions = positions;
  std::vector<float> const scores(6, 1.0f);  // by cell
  chosen const x(pipeline{given_scores{}, top_k{{.budget = 4}}}, view,
                 evidence{token_scores<>{scores.data()}});
  CHECK(x.cells(0) == std::vector<index_t>{4, 1, 3, 0});
}

TEST_CASE("pinned tokens come first, and count", "[select]") {
  data::cache const c(shape);
  std::vector<std::uint8_t> valid(100, 1);
  for (std::size_t t : {9u, 20u, 31u, 60u}) valid[t] = 2;
  auto view = c.view();
  view.valid = valid.data();
  auto const kept = [&](index_t budget, index_t sinks, index_t recent, index_t r) {
    chosen const x(pipeline{streaming_llm{{.sinks = 0}},
                            top_k{{.budget = budget, .sinks = sinks, .recent = recent}}},
                   view);
    REQUIRE(x.result.ok());
    return x.ranks(r);
  };
  CHECK(kept(5, 0, 0, 0) == std::vector<index_t>{9, 20, 31, 48, 49});
  CHECK(kept(5, 0, 0, 3) == std::vector<index_t>{10, 46, 47, 48, 49});
  CHECK(kept(5, 1, 1, 1) == std::vector<index_t>{0, 9, 20, 31, 49});
  CHECK(kept(4, 1, 1, 1) == std::vector<index_t>{0, 9, 20, 31});
  CHECK(kept(2, 1, 1, 1) == std::vector<index_t>{9, 20});
}

TEST_CASE("positions, lengths and validity may be each head's own", "[select]") {
  data::cache const c(shape);
  std::int32_t const lengths[] = {50, 30, 0, 41};
  std::vector<std::uint8_t> valid(200, 1);
  std::vector<std::int32_t> positions(200);
  for (std::size_t i = 0; i < 200; ++i) {
    positions[i] = static_cast<std::int32_t>(i / 50 == 1 ? 1000 - i : 3 * i);
    if (i / 50 == 0 && i % 2 == 1) valid[i] = 0;
    if (i == 55) valid[i] = 2;
  }
  auto view = c.view();
  view.lengths = {lengths, 2, 1};
  view.valid = {valid.data(), 100, 50};
  view.positions = {positions.data(), 100, 50};
  chosen const x(pipeline{streaming_llm{{.sinks = 0}}, top_k{{.budget = 4, .sinks = 1}}}, view);
  REQUIRE(x.result.ok());
  CHECK(x.cells(0) == std::vector<index_t>{0, 44, 46, 48});
  CHECK(x.cells(1) == std::vector<index_t>{29, 5, 1, 0});  // positions run backwards
  CHECK(x.cells(2).empty());
  CHECK(x.cells(3) == std::vector<index_t>{0, 38, 39, 40});
}

TEST_CASE("a threshold ends a row before its count does", "[select]") {
  data::cache const c({.kv_heads = 2, .tokens = 60, .head_dim = 16});
  std::vector<float> scores(120, 0.0f);
  for (std::size_t t = 0; t < 10; ++t) scores[3 * t] = 1.0f;
  for (std::size_t t = 60; t < 90; ++t) scores[t] = 1.0f;
  scores[7] = std::nanf("");
  pipeline const policy{given_scores{}, policies::above{.bound = 25}, int_per_token<8>{}};
  evidence const ev{token_scores<>{scores.data()}};
  chosen const x(policy, c.view(), ev);
  CHECK(x.keep.count(0) == 10);
  CHECK(x.ranks(0).back() == 27);
  CHECK(x.keep.count(1) == 25);
  data::compressed const run(policy, c.view(), ev);
  CHECK(run.packed.tokens(0, 0) == 10);
  CHECK(run.packed.tokens(0, 1) == 25);
  CHECK(run.packed.bytes() < run.plan.packed_bytes());  // ragged rows lie tightly
  CHECK(run.intact());
}

TEST_CASE("rows contest the seats of their group", "[select]") {
  data::cache const c(shape);
  for (index_t sure : {0, 3, 10}) {
    auto const scores = tied_scores(200, 5);
    chosen const x(pipeline{given_scores{}, policies::contested{.each = 10, .sure = sure}},
                   c.view(), evidence{token_scores<>{scores.data()}});
    REQUIRE(x.result.ok());
    for (index_t s = 0; s < 2; ++s) {
      // By hand: (score, row, rank) of both rows, the sure ones of each first.
      std::vector<std::pair<double, index_t>> open;
      std::vector<std::size_t> count(2, static_cast<std::size_t>(sure));
      for (index_t h = 0; h < 2; ++h) {
        auto const row = row_of(scores, s * 2 + h, 50);
        auto const first = reference::keep(row, sure, 0, 0);
        for (index_t t = 0; t < 50; ++t)
          if (std::find(first.begin(), first.end(), t) == first.end())
            open.emplace_back(-row[static_cast<std::size_t>(t)], h * 50 + t);
      }
      std::sort(open.begin(), open.end());
      for (std::size_t i = 0; i < 20 - 2 * static_cast<std::size_t>(sure); ++i)
        ++count[static_cast<std::size_t>(open[i].second / 50)];
      for (index_t h = 0; h < 2; ++h)
        CHECK(x.ranks(s * 2 + h) ==
              reference::keep(row_of(scores, s * 2 + h, 50),
                              static_cast<index_t>(count[static_cast<std::size_t>(h)]), 0, 0));
    }
  }
}

TEST_CASE("what a quota hands out beyond its total is cut, last row first", "[select]") {
  data::cache const c(shape);
  chosen const x(pipeline{knorm{}, policies::spendthrift{.each = 20, .may = 30}}, c.view());
  REQUIRE(x.result.ok());
  CHECK(x.keep.count(0) == 20);
  CHECK(x.keep.count(1) == 10);
  CHECK(x.keep.count(3) == 10);
  CHECK(x.plan.total_kept() == 60);
  CHECK(x.intact());
}

TEST_CASE("a keep rule decides among what is not protected", "[select]") {
  data::cache const c(shape);
  chosen const x(
      pipeline{knorm{}, top_k{{.budget = 8, .sinks = 2, .recent = 1}}, policies::ladder{}},
      c.view());
  REQUIRE(x.result.ok());
  CHECK(x.intact());
  CHECK(x.ranks(2) == std::vector<index_t>{0, 1, 39, 41, 43, 45, 47, 49});
}

TEST_CASE("scores come by rank, zero beyond a row", "[select]") {
  data::cache const c(shape);
  std::int32_t const lengths[] = {50, 20};
  std::vector<std::int32_t> positions(100);
  for (std::size_t i = 0; i < 100; ++i)
    positions[i] = static_cast<std::int32_t>(i < 50 ? 49 - i : i - 50);  // backwards first
  auto view = c.view();
  view.lengths = lengths;
  view.positions = positions.data();
  auto const given = tied_scores(200, 1);
  auto const plan = make_plan(pipeline{given_scores{}, top_k{{.budget = 3}}}, view.extents());
  data::buffer scratch(plan.select_bytes() + plan.keep_bytes());
  std::vector<float> out(4 * 50, 777.0f);
  evidence const ev{token_scores<>{given.data()}};
  REQUIRE(score(cpu{}, plan, view, ev, {out.data(), 50}, scratch).ok());
  CHECK(scratch.intact());
  for (std::size_t t = 0; t < 50; ++t) {
    CHECK(out[50 + t] == given[50 + 49 - t]);
    CHECK(out[100 + t] == (t < 20 ? given[100 + t] : 0.0f));
  }
  CHECK(score(cpu{}, plan, view, ev, {nullptr, 50}, scratch).code == errc::invalid_pointer);
  CHECK(score(cpu{}, plan, view, ev, {out.data(), 49}, scratch).code == errc::invalid_pointer);
  CHECK(score(cpu{}, plan, view, ev, {out.data(), 50}, {}).code == errc::invalid_pointer);
}

TEST_CASE("select refuses", "[select][bad_input]") {
  data::cache const c(shape);
  auto const plan = make_plan(pipeline{knorm{}, top_k{{.budget = 9}}}, c.shape.extents());
  data::buffer memory(plan.keep_bytes()), scratch(plan.select_bytes());
  auto const refused = [&](auto const& view, keep_set keep, workspace w) {
    auto const s = select(cpu{}, plan, view, evidence<>{}, keep, w);
    CHECK(std::string(s.message).rfind("kvslim: ", 0) == 0);
    CHECK(memory.untouched());
    return s.code;
  };
  auto const keep = plan.keep(memory);
  CHECK(plan.keep({memory.data(), memory.size() - 1}).begins == nullptr);
  CHECK(refused(c.view(), {}, scratch) == errc::invalid_pointer);
  auto cramped = keep;
  --cramped.room;
  CHECK(refused(c.view(), cramped, scratch) == errc::invalid_pointer);
  CHECK(refused(c.view(), keep, {}) == errc::invalid_pointer);
  CHECK(refused(c.view(), keep, {scratch.data(), scratch.size() - 1}) == errc::buffer_too_small);
  auto view = c.view();
  view.extent.tokens = 49;
  CHECK(refused(view, keep, scratch) == errc::invalid_shape);
  view = c.view();
  view.k.data = nullptr;
  CHECK(refused(view, keep, scratch) == errc::invalid_pointer);
  std::int32_t const long_row[] = {50, 51}, negative[] = {-1, 5};
  for (auto const* lengths : {long_row, negative}) {
    view = c.view();
    view.lengths = lengths;
    CHECK(refused(view, keep, scratch) == errc::invalid_shape);
  }
  std::vector<std::uint8_t> valid(100, 1);
  valid[70] = 3;
  view = c.view();
  view.valid = valid.data();
  CHECK(refused(view, keep, scratch) == errc::invalid_option);
  std::vector<float> bias(100, 0.0f);
  for (float x : {std::nanf(""), INFINITY}) {
    bias[99] = x;
    view = c.view();
    view.bias = bias.data();
    CHECK(refused(view, keep, scratch) == errc::non_finite);
  }
  data::cache poisoned(shape);
  poisoned.k[333] = std::nanf("");
  CHECK(refused(poisoned.view(), keep, scratch) == errc::non_finite);
}
