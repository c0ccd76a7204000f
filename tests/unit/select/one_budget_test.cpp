// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/adakv.hpp"
#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"

#include <kvslim/select/one_budget.hpp>

#include <algorithm>
#include <tuple>

using namespace kvslim;

namespace {

/// Positions that win when all rows of a group rank their scores together, beside those that are
/// kept anyway. Written from the definition: every candidate in one list, sorted.
data::kept_sets ranked_together(std::vector<float> const& scores, extents const& e,
                                index_t group_rows, index_t budget, index_t sinks, index_t recent) {
  data::kept_sets kept(static_cast<std::size_t>(e.rows()));
  for (index_t first = 0; first < e.rows(); first += group_rows) {
    std::vector<std::tuple<float, index_t, index_t>> all;
    for (index_t r = first; r < first + group_rows; ++r)
      for (index_t t = 0; t < e.tokens; ++t) {
        bool const fixed = t < sinks || t >= e.tokens - recent;
        if (fixed)
          kept[static_cast<std::size_t>(r)].push_back(t);
        else
          all.emplace_back(-scores[static_cast<std::size_t>(r * e.tokens + t)], r, t);
      }
    std::sort(all.begin(), all.end());
    auto const seats = static_cast<std::size_t>(group_rows * (budget - sinks - recent));
    for (std::size_t i = 0; i < std::min(seats, all.size()); ++i)
      kept[static_cast<std::size_t>(std::get<1>(all[i]))].push_back(std::get<2>(all[i]));
  }
  for (auto& row : kept) std::sort(row.begin(), row.end());
  return kept;
}

}  // namespace

TEST_CASE("one_budget within a layer is the authors' contest without a safeguard",
          "[one_budget][snapkv]") {
  golden const g("adakv");
  auto const q = g.floats("q"), k = g.floats("k");
  data::text_of const text{nullptr, k.data(), 0, 3, 64, 16};
  evidence const seen{window_queries{dense_rows(q.data(), {1, 6, 8, 16})}};
  snapkv const scorer{{.window = 8, .pool = 7, .kind = pooling::maximum, .reduce_first = true}};
  data::kept_sets expected;
  auto at = g["kept_0"].begin();
  for (double n : g["length_0"]) {
    expected.emplace_back(at, at + static_cast<std::ptrdiff_t>(n));
    at += static_cast<std::ptrdiff_t>(n);
  }
  CHECK(data::kept_by(pipeline{scorer, one_budget{{.budget = 24, .rows = {1, 3}}}}, text.prompt(64),
                      seen) == expected);
}

TEST_CASE("one_budget ranks all rows of a group together, layers included", "[one_budget]") {
  data::cache const c({.sequences = 4, .kv_heads = 3, .tokens = 150, .head_dim = 32}, 11);
  for (row_group const rows : {row_group{2, 3}, row_group{4, 3}, row_group{4, 1}, row_group{1, 1}})
    for (index_t const budget : {20, 40, 150, 400}) {
      one_budget const quota{{.budget = budget, .rows = rows, .sinks = 3, .recent = 5}};
      auto const kept = data::kept_by(pipeline{knorm{}, quota}, c.view());
      if (rows.kv_heads == 3 || rows.size() == 1) {
        auto const scores = data::scores_by(pipeline{knorm{}, quota}, c.view());
        CHECK(kept == ranked_together(scores, c.shape.extents(), rows.size(), budget, 3, 5));
      }
      index_t total = 0;
      for (auto const& row : kept) total += static_cast<index_t>(row.size());
      CHECK(total == 12 * std::min<index_t>(budget, 150));
    }
}

TEST_CASE("one_budget refuses what it cannot hand out", "[one_budget]") {
  extents const e{4, 3, 100, 16};
  auto const of = [&](one_budget::options const& o) {
    return make_plan(pipeline{knorm{}, one_budget{o}}, e).check().code;
  };
  CHECK(of({.budget = 0}) == errc::invalid_option);
  CHECK(of({.budget = std::numeric_limits<index_t>::max()}) == errc::invalid_option);
  CHECK(of({.budget = 8, .rows = {0, 1}}) == errc::invalid_option);
  CHECK(of({.budget = 8, .rows = {std::numeric_limits<index_t>::max(), 2}}) ==
        errc::invalid_option);
  CHECK(of({.budget = 8, .sinks = -1}) == errc::invalid_option);
  CHECK(of({.budget = 8, .rows = {3, 3}}) == errc::invalid_shape);
  CHECK(of({.budget = 8, .rows = {4, 3}}) == errc::ok);
}
