// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/adakv.hpp"
#include "reference/headkv.hpp"
#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"

#include <kvslim/select/head_table.hpp>

using namespace kvslim;

namespace {

std::vector<std::int32_t> counts_of(std::vector<double> const& importance,
                                    headkv_options const& options) {
  std::vector<std::int32_t> out(importance.size());
  auto const n = static_cast<index_t>(out.size());
  REQUIRE(headkv_counts({importance.data(), n}, options, {out.data(), n}).ok());
  return out;
}

head_table<>::options table_of(std::vector<std::int32_t> const& counts, index_t layers,
                               index_t kv_heads) {
  return {.counts = counts.data(),
          .layers = layers,
          .kv_heads = kv_heads,
          .most = *std::max_element(counts.begin(), counts.end()),
          .total = std::accumulate(counts.begin(), counts.end(), index_t{0})};
}

}  // namespace

TEST_CASE("headkv_counts are the authors' capacities", "[head_table]") {
  golden const g("headkv");
  auto const& importance = g["importance"];
  auto at = g["case_capacity"].begin();
  for (std::size_t i = 0; i < g["cases"].size(); i += 3) {
    headkv_options const o{.budget = static_cast<index_t>(g["cases"][i]),
                           .window = 8,
                           .beta = g["cases"][i + 1] / 1000,
                           .temperature = g["cases"][i + 2] / 1000};
    auto const expected = reference::headkv_capacities(
        importance, static_cast<double>(o.budget - 8), o.beta, o.temperature);
    std::size_t head = 0;
    for (auto const n : counts_of(importance, o)) {
      CHECK(n - 8 == static_cast<std::int32_t>(*at++));
      CHECK(n - 8 == expected[head++]);
    }
  }
}

TEST_CASE("head_table keeps the authors' tokens of every head", "[head_table][snapkv]") {
  golden const g("headkv");
  auto const q = g.floats("q"), k = g.floats("k");
  auto const view = dense_cache(k.data(), k.data(), extents{2, 3, 64, 16});
  evidence const seen{window_queries{dense_rows(q.data(), {2, 3, 8, 16})}};
  auto const counts =
      counts_of(g["importance"], {.budget = 24, .window = 8, .beta = 1.2, .temperature = 1.5});
  auto options = table_of(counts, 2, 3);
  snapkv const scores{{.window = 8, .pool = 7, .kind = pooling::maximum}};
  data::kept_sets expected;
  auto at = g["kept"].begin();
  for (double n : g["length"]) {
    expected.emplace_back(at, at + static_cast<std::ptrdiff_t>(n));
    at += static_cast<std::ptrdiff_t>(n);
  }
  CHECK(data::kept_by(pipeline{scores, head_table<>{options}}, view, seen) == expected);
  // One layer in a view of its own has its part of the table.
  auto second = options;
  second.counts += 3;
  second.layers = 1;
  second.total = 0;
  auto const rows = dense_cache(k.data() + 3 * 64 * 16, k.data(), extents{1, 3, 64, 16});
  evidence const its{window_queries{dense_rows(q.data() + 3 * 8 * 16, {1, 3, 8, 16})}};
  CHECK(data::kept_by(pipeline{scores, head_table<>{second}}, rows, its) ==
        data::kept_sets(expected.begin() + 3, expected.end()));
  // A prompt below the mean budget stays whole.
  options.whole_below = 65;
  CHECK(data::kept_by(pipeline{scores, head_table<>{options}}, view, seen)[4].size() == 64);
  options.whole_below = 64;
  CHECK(data::kept_by(pipeline{scores, head_table<>{options}}, view, seen) == expected);
}

TEST_CASE("head_table matches the reference for any group, length and order of cells",
          "[head_table]") {
  index_t const layers = 2, heads = 2, window = 8;
  std::vector<std::int32_t> const counts{60, 9, 24, 8};
  for (index_t group : {1, 4, 8})
    for (index_t dim : {16, 80}) {
      data::cache const c({.sequences = 2 * layers,
                           .kv_heads = heads,
                           .group = group,
                           .tokens = 90,
                           .head_dim = dim},
                          static_cast<unsigned>(group));
      std::vector<index_t> const lengths{90, 90, 47, 47};  // two requests
      data::shuffled const ragged(c, 17, lengths);
      auto const kept = data::kept_by(pipeline{snapkv{{.window = window, .reduce_first = true}},
                                               head_table<>{table_of(counts, layers, heads)}},
                                      ragged.view(), evidence{window_queries{c.queries(window)}});
      REQUIRE(kept.size() == 8);
      for (index_t r = 0; r < 8; ++r) {
        index_t const s = r / heads, n = lengths[static_cast<std::size_t>(s)];
        auto score = reference::window_score(oracle::window(c, s, r % heads, window),
                                             oracle::keys(c, s, r % heads, n), 5, false,
                                             reference::reduce::mean);
        score.resize(static_cast<std::size_t>(n), 0.0);
        CHECK(kept[static_cast<std::size_t>(r)] ==
              reference::keep(score, counts[static_cast<std::size_t>(r % 4)], 0, window));
      }
    }
}

TEST_CASE("head_table plans for the sum of its counts, and rows of 0 keep nothing",
          "[head_table]") {
  std::vector<std::int32_t> const counts{100, 0, 7, 13};
  data::cache const c({.sequences = 4, .kv_heads = 2, .tokens = 120, .head_dim = 8});
  auto options = table_of(counts, 2, 2);
  auto const plan = make_plan(pipeline{knorm{}, head_table<>{options}}, c.shape.extents());
  CHECK(plan.most_kept() == 100);
  CHECK(plan.total_kept() == 240);
  options.total = 0;
  CHECK(make_plan(pipeline{knorm{}, head_table<>{options}}, c.shape.extents()).total_kept() == 800);
  auto const kept = data::kept_by(pipeline{knorm{}, head_table<>{options}}, c.view());
  REQUIRE(kept.size() == 8);
  for (std::size_t r = 0; r < 8; ++r)
    CHECK(kept[r].size() == static_cast<std::size_t>(counts[r % 4]));
  // Pins, sinks and the newest count.
  options.sinks = 3;
  options.recent = 5;
  data::shuffled pinned(c, 9);
  for (auto& v : pinned.valid) v = v == 1 && &v - pinned.valid.data() < 4 ? 2 : v;
  auto const held = data::kept_by(pipeline{knorm{}, head_table<>{options}}, pinned.view());
  REQUIRE(held.size() == 8);
  CHECK(held[2].size() == 7);
  CHECK(held[1].empty());
}

TEST_CASE("head_table holds its counts while decoding", "[head_table][life]") {
  std::vector<std::int32_t> const counts{30, 12, 20, 25};
  data::cache const c({.sequences = 2, .kv_heads = 2, .group = 1, .tokens = 60, .head_dim = 16});
  auto options = table_of(counts, 2, 2);
  options.sinks = 2;
  options.recent = 4;
  data::evicting life(pipeline{knorm{}, head_table<>{options}}, c.view(), evidence<>{}, 40);
  REQUIRE(life.run.result.ok());
  data::cache const next({.sequences = 2, .kv_heads = 2, .group = 1, .tokens = 40, .head_dim = 16},
                         5);
  for (index_t t = 0; t < 40; ++t) {
    auto const at = [&](std::vector<float> const& x) {
      return rows_view<float const>{x.data() + t * 16, 2, 2, 1, 16, {2 * 40 * 16, 40 * 16, 16, 1}};
    };
    REQUIRE(life.step(at(next.k), at(next.v), at(next.k)).ok());
    for (index_t r = 0; r < 4; ++r) {
      auto const held = life.held(r / 2, r % 2);
      REQUIRE(held.size() == static_cast<std::size_t>(counts[static_cast<std::size_t>(r)]));
      CHECK((held[0] == 0 && held[1] == 1));
      CHECK(held[held.size() - 4] == 57 + t);
    }
  }
  CHECK(life.intact());
}

TEST_CASE("head_table and headkv_counts refuse what makes no sense", "[head_table]") {
  std::vector<std::int32_t> counts{30, 12, 20, 25};
  extents const e{4, 2, 50, 8};
  auto const code = [&](head_table<>::options const& o) {
    return make_plan(pipeline{knorm{}, head_table<>{o}}, e).check().code;
  };
  auto const good = table_of(counts, 2, 2);
  CHECK(code(good) == errc::ok);
  auto bad = good;
  bad.counts = nullptr;
  CHECK(code(bad) == errc::invalid_pointer);
  bad = good;
  bad.most = 29;
  CHECK(code(bad) == errc::invalid_option);
  bad = good;
  bad.total = 86;
  CHECK(code(bad) == errc::invalid_option);
  bad = good;
  bad.most = 0;
  CHECK(code(bad) == errc::invalid_option);
  bad = good;
  bad.layers = std::numeric_limits<index_t>::max();
  CHECK(code(bad) == errc::invalid_option);
  bad = good;
  bad.sinks = -1;
  CHECK(code(bad) == errc::invalid_option);
  bad = good;
  bad.layers = 1;
  bad.kv_heads = 4;
  CHECK(code(bad) == errc::invalid_shape);
  bad = good;
  bad.layers = 3;
  bad.total = 0;
  std::vector<std::int32_t> const six(6, 3);
  bad.counts = six.data();
  CHECK(code(bad) == errc::invalid_shape);  // four sequences are no requests of three layers
  counts[1] = -1;
  CHECK(code(good) == errc::invalid_option);

  std::vector<double> x{1.0, 2.0};
  std::vector<std::int32_t> out{7, 7};
  auto const refused = [&](headkv_options const& o) {
    return headkv_counts({x.data(), 2}, o, {out.data(), 2}).code;
  };
  CHECK(refused({.budget = 8}) == errc::invalid_option);
  CHECK(refused({.budget = 20, .beta = 0.9}) == errc::invalid_option);
  CHECK(refused({.budget = 20, .temperature = 0.0}) == errc::invalid_option);
  CHECK(refused({.budget = 20, .temperature = 1e9}) == errc::invalid_option);
  CHECK(headkv_counts({x.data(), 2}, {.budget = 20}, {out.data(), 1}).code == errc::invalid_shape);
  x[1] = -1.0;
  CHECK(refused({.budget = 20}) == errc::invalid_option);
  x = {0.0, 0.0};
  CHECK(refused({.budget = 20}) == errc::invalid_option);
  x[0] = INFINITY;
  CHECK(refused({.budget = 20}) == errc::invalid_option);
  CHECK(out == std::vector<std::int32_t>{7, 7});
}
