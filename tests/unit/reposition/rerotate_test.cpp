// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

namespace {

/// Keys that a model rotated to the given positions, and what they were before.
struct moved_keys {
  data::cache raw, c;

  moved_keys(data::shape const& s, rope const& r, std::vector<std::int32_t> const& positions)
      : raw(s), c(raw) {
    for (index_t row = 0; row < s.rows(); ++row)
      for (index_t t = 0; t < s.tokens; ++t)
        ops::rotate(r, s.head_dim, positions[static_cast<std::size_t>(t)],
                    c.k.data() + (row * s.tokens + t) * s.head_dim);
  }
  /// How far a stored key is from its raw one rotated to `position` by the reference.
  [[nodiscard]] double error(auto const& packed, rope const& r, index_t row, index_t slot,
                             index_t source, double position) const {
    auto const& s = raw.shape;
    std::vector<double> key;
    for (index_t d = 0; d < s.head_dim; ++d)
      key.push_back(raw.key(row / s.kv_heads, row % s.kv_heads, source, d));
    auto const expected = reference::rope(
        key, r.base, static_cast<std::size_t>(r.rotated(s.head_dim)), r.interleaved, position);
    double worst = 0;
    for (index_t d = 0; d < s.head_dim; ++d)
      worst = std::max(worst,
                       std::abs(packed.key(row, slot, d) - expected[static_cast<std::size_t>(d)]));
    return worst / std::sqrt(reference::dot(expected, expected));
  }
};

std::vector<std::int32_t> counted(index_t n) {
  std::vector<std::int32_t> x(static_cast<std::size_t>(n));
  std::iota(x.begin(), x.end(), 0);
  return x;
}

}  // namespace

TEST_CASE("rerotated keys equal keys freshly rotated at their new positions",
          "[streaming_llm][rerotate]") {
  rope const ropes[] = {{.base = 10000.0f, .interleaved = true},
                        {.base = 500000.0f},
                        {.base = 10000.0f, .dims = 24},
                        {.base = 10000.0f, .dims = 24, .interleaved = true}};
  for (index_t dim : {64, 80})
    for (rope const& r : ropes) {
      moved_keys const text({.kv_heads = 2, .tokens = 80, .head_dim = dim}, r, counted(80));
      data::compressed const run(
          pipeline{streaming_llm{}, top_k{{.budget = 30}}, rerotate{r}, dense<float>{}},
          text.c.view());
      REQUIRE(run.result.ok());
      CHECK(run.intact());
      for (index_t row = 0; row < 2; ++row) {
        CHECK(run.packed.next_position(0, row) == 30);
        CHECK(run.kept(0, row).back() == 29);
        for (index_t i = 0; i < 30; ++i) {
          index_t const source = i < 4 ? i : 80 - 30 + i;
          CHECK(text.error(run.packed, r, row, i, source, static_cast<double>(i)) <=
                2 * tolerance::accumulated);
        }
      }
    }
}

TEST_CASE("what is turned back is the cell's own position, wherever it lies", "[rerotate]") {
  rope const r{};
  index_t const n = 50;
  auto positions = counted(n);
  for (auto& p : positions) p = 3 * p + 1000;  // gaps, and far from zero
  std::mt19937 engine(2);
  std::shuffle(positions.begin(), positions.end(), engine);
  moved_keys const text({.sequences = 2, .kv_heads = 2, .tokens = n, .head_dim = 32}, r, positions);
  std::vector<std::int32_t> both = positions;
  both.insert(both.end(), positions.begin(), positions.end());
  auto view = text.c.view();
  view.positions = both.data();
  data::compressed const run(
      pipeline{streaming_llm{{.sinks = 2}}, top_k{{.budget = 12}}, rerotate{r}, dense<float>{}},
      view);
  REQUIRE(run.result.ok());
  std::vector<index_t> cells(static_cast<std::size_t>(n));  // in the order of the text
  for (index_t t = 0; t < n; ++t)
    cells[static_cast<std::size_t>((positions[static_cast<std::size_t>(t)] - 1000) / 3)] = t;
  for (index_t row = 0; row < 4; ++row) {
    CHECK(run.packed.next_position(row / 2, row % 2) == 12);
    for (index_t i = 0; i < 12; ++i) {
      auto const source = cells[static_cast<std::size_t>(i < 2 ? i : n - 12 + i)];
      CHECK(text.error(run.packed, r, row, i, source, static_cast<double>(i)) <=
            2 * tolerance::accumulated);
    }
  }
}

TEST_CASE("keys that are in their places already are stored bit for bit", "[rerotate]") {
  data::cache const c({.tokens = 40, .head_dim = 48});
  for (index_t budget : {40, 100}) {
    data::compressed const run(
        pipeline{knorm{}, top_k{{.budget = budget}}, rerotate{}, dense<float>{}}, c.view());
    REQUIRE(run.result.ok());
    for (index_t h = 0; h < 2; ++h)
      for (index_t t = 0; t < 40; ++t)
        for (index_t d = 0; d < 48; ++d) REQUIRE(run.packed.key(h, t, d) == c.key(0, h, t, d));
  }
}

TEST_CASE("what lies apart by as much attends as before", "[rerotate]") {
  // A query at the cache's next position sees the newest tokens at the distances they had.
  rope const r{};
  index_t const n = 60, keep = 20, dim = 64;
  moved_keys const text({.kv_heads = 1, .tokens = n, .head_dim = dim}, r, counted(n));
  data::compressed const run(
      pipeline{streaming_llm{{.sinks = 0}}, top_k{{.budget = keep}}, rerotate{r}, dense<float>{}},
      text.c.view());
  REQUIRE(run.result.ok());
  std::vector<float> query(text.raw.q.begin(), text.raw.q.begin() + dim);
  auto const dots = [&](index_t position, auto const& key) {
    auto q = query;
    ops::rotate(r, dim, position, q.data());
    std::vector<double> out;
    for (index_t i = 0; i < keep; ++i) {
      double sum = 0;
      for (index_t d = 0; d < dim; ++d)
        sum += static_cast<double>(q[static_cast<std::size_t>(d)]) * key(i, d);
      out.push_back(sum);
    }
    return out;
  };
  auto const before =
      dots(n, [&](index_t i, index_t d) { return text.c.key(0, 0, n - keep + i, d); });
  auto const after = dots(run.packed.next_position(0),
                          [&](index_t i, index_t d) { return run.packed.key(0, i, d); });
  double scale = 0;
  for (double x : before) scale = std::max(scale, std::abs(x));
  for (std::size_t i = 0; i < before.size(); ++i)
    CHECK(std::abs(before[i] - after[i]) <= 2 * tolerance::accumulated * scale);
}

TEST_CASE("a moved cache goes on at its own next position", "[rerotate][append]") {
  data::cache const c({.tokens = 40, .head_dim = 32});
  data::compressed const run(
      pipeline{knorm{}, top_k{{.budget = 10}}, rerotate{}, int_per_token<8>{{.residual = 4}}},
      c.view(), {}, {.append_tokens = 3, .draft_tokens = 3});
  REQUIRE(run.result.ok());
  data::buffer scratch(append_bytes(run.packed.layout()));
  std::vector<float> const row(2 * 3 * 32, 0.5f);
  auto const rows = dense_rows(row.data(), {1, 2, 3, 32});
  REQUIRE(append(cpu{}, run.packed, rows, rows, scratch).ok());
  std::vector<index_t> expected(13);
  std::iota(expected.begin(), expected.end(), index_t{0});
  CHECK(run.kept(0, 0) == expected);
  CHECK(run.kept(0, 1) == expected);
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
}

TEST_CASE("heads of different lengths are moved to end at one position", "[rerotate]") {
  data::cache c({.sequences = 1, .kv_heads = 2, .group = 2, .tokens = 64, .head_dim = 32});
  std::vector<float> const scores(2 * 64, 0.0f);
  std::fill(c.k.begin(), c.k.begin() + 64 * 32, 1.0f);  // every key of head 0 is the same
  data::compressed const run(
      pipeline{given_scores{}, kvmerger{{.threshold = 0.7f}}, rerotate{}, dense<float>{}}, c.view(),
      evidence{token_scores<>{scores.data()}});
  REQUIRE(run.result.ok());
  index_t const longest = run.packed.tokens(0, 1);
  REQUIRE(run.packed.tokens(0, 0) < longest);
  for (index_t h = 0; h < 2; ++h) {
    CHECK(run.packed.next_position(0, h) == longest);
    CHECK(run.kept(0, h).back() == longest - 1);
  }
}

TEST_CASE("rows that merge to different lengths move to end at one position",
          "[regression][order][rerotate]") {
  data::cache const logical({2, 3, 1, 80, 32}, 5);
  data::compressed const c(
      pipeline{knorm{}, kvmerger{{.threshold = 0.5f}}, rerotate{}, int_per_token<8>{}},
      logical.view());
  REQUIRE(c.result.ok());
  for (index_t s = 0; s < 2; ++s) {
    index_t longest = 0, shortest = 1000;
    for (index_t h = 0; h < 3; ++h) {
      longest = std::max(longest, c.packed.tokens(s, h));
      shortest = std::min(shortest, c.packed.tokens(s, h));
    }
    CHECK(shortest < longest);  // or this test would not test it
    for (index_t h = 0; h < 3; ++h) {
      CHECK(c.packed.next_position(s, h) == longest);
      CHECK(c.packed.position(s, h, c.packed.tokens(s, h) - 1) == longest - 1);
    }
  }
}

TEST_CASE("sequences without tokens are moved nowhere", "[rerotate]") {
  data::cache const c({.sequences = 3, .tokens = 20, .head_dim = 16});
  std::int32_t const lengths[] = {20, 0, 1};
  auto view = c.view();
  view.lengths = lengths;
  data::compressed const run(pipeline{knorm{}, top_k{{.budget = 6}}, rerotate{}}, view);
  REQUIRE(run.result.ok());
  CHECK(run.packed.next_position(0) == 6);
  CHECK(run.packed.tokens(1, 0) == 0);
  CHECK(run.packed.next_position(1) == 0);
  CHECK(run.kept(2, 1) == std::vector<index_t>{0});
}

TEST_CASE("rerotate refuses odd and too many rotated channels, and bases that rotate nothing",
          "[rerotate]") {
  data::cache const c({.tokens = 20, .head_dim = 32});
  auto const outcome = [&](rope const& r) {
    data::compressed const run(pipeline{knorm{}, top_k{{.budget = 6}}, rerotate{r}}, c.view());
    CHECK((run.result.ok() || run.storage.untouched()));
    return run.result.code;
  };
  CHECK(outcome({.dims = 31}) == errc::invalid_option);
  CHECK(outcome({.dims = 34}) == errc::invalid_option);
  CHECK(outcome({.dims = -2}) == errc::invalid_option);
  CHECK(outcome({.base = 0.0f}) == errc::invalid_option);
  CHECK(outcome({.base = std::nanf("")}) == errc::invalid_option);
  CHECK(outcome({.dims = 32}) == errc::ok);
  CHECK(outcome({.dims = 2}) == errc::ok);
}
