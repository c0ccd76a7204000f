// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/duo_attention.hpp"
#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"

#include <kvslim/select/head_classes.hpp>

using namespace kvslim;

namespace {

std::vector<std::uint8_t> classes(std::vector<float> const& gates, index_t streaming) {
  std::vector<std::uint8_t> out(gates.size());
  auto const n = static_cast<index_t>(out.size());
  REQUIRE(head_classes_by_gate({gates.data(), n}, streaming, {out.data(), n}).ok());
  return out;
}

std::vector<std::uint8_t> bytes(std::vector<double> const& x) { return {x.begin(), x.end()}; }

/// The authors' sparsity in whole heads, in hundredths to be exact.
index_t streaming_of(index_t percent, index_t heads) {
  if (percent <= 0) return 0;
  if (percent >= 100) return heads;
  index_t const scaled = percent * (heads - 1);
  return scaled / 100 + (scaled % 100 != 0 ? 1 : 0);
}

/// What a streaming head keeps of n tokens.
std::vector<index_t> ends(index_t n, index_t sinks, index_t recent) {
  std::vector<index_t> kept;
  for (index_t t = 0; t < n; ++t)
    if (t < sinks || t >= n - recent) kept.push_back(t);
  return kept;
}

}  // namespace

TEST_CASE("head_classes_by_gate makes the authors' classes and kvpress's", "[head_classes]") {
  golden const g("duo_attention");
  auto const gates = g.floats("gates");
  for (index_t percent : {0, 25, 50, 60, 90, 100}) {
    auto const mine = classes(gates, streaming_of(percent, 12));
    CHECK(mine == bytes(g["retrieval_" + std::to_string(percent)]));
    auto const whole = reference::duo_retrieval(g["gates"], static_cast<double>(percent) / 100.0);
    CHECK(mine == std::vector<std::uint8_t>(whole.begin(), whole.end()));
  }
  CHECK(classes(gates, 5) == bytes(g["kvpress_retrieval"]));
  CHECK(classes({0.5f, 0.5f, 0.5f, 0.1f}, 2) == std::vector<std::uint8_t>{1, 1, 0, 0});
}

TEST_CASE("head_classes keep what kvpress keeps", "[head_classes]") {
  golden const g("duo_attention");
  auto const table = bytes(g["kvpress_retrieval"]);
  data::cache const c({.sequences = 3, .kv_heads = 4, .group = 1, .tokens = 40, .head_dim = 8});
  head_classes<> const quota{{.retrieval = table.data(),
                              .layers = 3,
                              .kv_heads = 4,
                              .retrieval_heads = 7,
                              .sinks = 3,
                              .recent = 9}};
  auto const policy = pipeline{streaming_llm{}, quota};
  data::kept_sets expected;
  auto at = g["kvpress_kept"].begin();
  for (double n : g["kvpress_length"]) {
    expected.emplace_back(at, at + static_cast<std::ptrdiff_t>(n));
    at += static_cast<std::ptrdiff_t>(n);
  }
  CHECK(data::kept_by(policy, c.view()) == expected);
  CHECK(make_plan(policy, c.shape.extents()).total_kept() == 7 * 40 + 5 * 12);
  CHECK(data::kept_by(policy, data::shuffled(c, 13).view()) == expected);
}

TEST_CASE("a streaming head holds the authors' tokens while decoding, a retrieval head all",
          "[head_classes][life]") {
  golden const g("duo_attention");
  std::vector<std::uint8_t> const table{1, 0};
  data::cache const c({.kv_heads = 2, .group = 1, .tokens = 52, .head_dim = 8});
  data::text_of const text{c.k.data(), c.k.data(), 2, 2, 52, 8};
  pipeline const policy{streaming_llm{}, head_classes<>{{.retrieval = table.data(),
                                                         .kv_heads = 2,
                                                         .retrieval_heads = 1,
                                                         .sinks = 3,
                                                         .recent = 9}}};
  data::evicting life(policy, text.prompt(40), evidence<>{}, 12);
  REQUIRE(life.run.result.ok());
  auto at = g["kept"].begin();
  for (index_t t = 40; t <= 52; ++t) {
    CHECK(life.held(0, 1) == std::vector<index_t>(at, at + 12));
    CHECK(life.held(0, 0).size() == static_cast<std::size_t>(t));
    at += 12;
    if (t < 52) REQUIRE(life.step(text.keys(t, 1), text.keys(t, 1), text.queries(t, 1)).ok());
  }
  CHECK(life.intact());
}

TEST_CASE("head_classes of ragged, short and empty rows, pins and other scorers",
          "[head_classes]") {
  std::vector<std::uint8_t> const table{0, 1, 1, 0};
  for (index_t group : {1, 4, 8}) {
    data::cache const c(
        {.sequences = 4, .kv_heads = 2, .group = group, .tokens = 50, .head_dim = 80});
    std::vector<index_t> const lengths{50, 50, 0, 7};
    data::shuffled ragged(c, 11, lengths);
    head_classes<> const quota{
        {.retrieval = table.data(), .layers = 2, .kv_heads = 2, .sinks = 4, .recent = 6}};
    auto const kept = data::kept_by(pipeline{snapkv{{.window = 6}}, quota}, ragged.view(),
                                    evidence{window_queries{c.queries(6)}});
    REQUIRE(kept.size() == 8);
    for (index_t r = 0; r < 8; ++r) {
      index_t const n = lengths[static_cast<std::size_t>(r / 2)];
      bool const whole = table[static_cast<std::size_t>(r % 4)] != 0;
      CHECK(kept[static_cast<std::size_t>(r)] == ends(n, whole ? n : 4, 6));
    }
    // A pinned token takes the place of the oldest of the window.
    for (std::size_t cell = 0; cell < 61; ++cell)
      if (ragged.valid[cell] == 1 && ragged.positions[cell] == 20) ragged.valid[cell] = 2;
    auto expected = ends(50, 4, 5);
    expected.insert(expected.begin() + 4, 20);
    CHECK(data::kept_by(pipeline{streaming_llm{}, quota}, ragged.view())[0] == expected);
  }
}

TEST_CASE("a streaming head of head_classes keeps its best others between the ends",
          "[head_classes]") {
  data::cache const c({.kv_heads = 2, .group = 1, .tokens = 30, .head_dim = 8});
  std::vector<std::uint8_t> const table{0, 1};
  std::vector<float> scores(60, 0.0f);
  scores[11] = scores[20] = 2.0f;
  scores[17] = 1.0f;
  head_classes<> const quota{{.retrieval = table.data(),
                              .kv_heads = 2,
                              .retrieval_heads = 1,
                              .sinks = 1,
                              .recent = 3,
                              .between = 2}};
  pipeline const policy{given_scores{}, quota};
  auto const kept = data::kept_by(policy, c.view(), evidence{token_scores<>{scores.data()}});
  CHECK(kept == data::kept_sets{{0, 11, 20, 27, 28, 29}, ends(30, 30, 0)});
  CHECK(make_plan(policy, c.shape.extents()).total_kept() == 36);
}

TEST_CASE("head_classes refuse what makes no sense", "[head_classes]") {
  std::vector<std::uint8_t> const table{1, 0, 1, 1};
  extents const e{4, 2, 50, 8};
  auto const code = [&](head_classes<>::options const& o) {
    return make_plan(pipeline{streaming_llm{}, head_classes<>{o}}, e).check().code;
  };
  head_classes<>::options const good{
      .retrieval = table.data(), .layers = 2, .kv_heads = 2, .retrieval_heads = 3};
  CHECK(code(good) == errc::ok);
  auto bad = good;
  bad.retrieval = nullptr;
  CHECK(code(bad) == errc::invalid_pointer);
  bad = good;
  bad.retrieval_heads = 2;
  CHECK(code(bad) == errc::invalid_option);
  bad.retrieval_heads = 5;
  CHECK(code(bad) == errc::invalid_option);
  bad = good;
  bad.sinks = bad.recent = 0;
  CHECK(code(bad) == errc::invalid_option);
  bad.recent = -1;
  CHECK(code(bad) == errc::invalid_option);
  bad.recent = 5;
  bad.between = -1;
  CHECK(code(bad) == errc::invalid_option);
  bad = good;
  bad.layers = 0;
  CHECK(code(bad) == errc::invalid_option);
  bad = good;
  bad.layers = 1;
  bad.kv_heads = 4;
  CHECK(code(bad) == errc::invalid_shape);

  std::vector<float> gates{0.1f, 0.2f};
  std::vector<std::uint8_t> out{7, 7};
  CHECK(head_classes_by_gate({gates.data(), 2}, 1, {out.data(), 1}).code == errc::invalid_shape);
  CHECK(head_classes_by_gate({gates.data(), 2}, 3, {out.data(), 2}).code == errc::invalid_option);
  gates[0] = std::nanf("");
  CHECK(head_classes_by_gate({gates.data(), 2}, 1, {out.data(), 2}).code == errc::invalid_option);
  CHECK(out == std::vector<std::uint8_t>{7, 7});
}
