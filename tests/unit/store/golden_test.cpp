// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Kept indices must be the authors' exactly, values to 1e-5, through the whole of compress().
// Goldens of codes are beside their quantizers.

#include "support/golden.hpp"

#include "support/catch.hpp"
#include "support/data.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

namespace {

std::vector<index_t> indices(std::vector<double> const& x, std::size_t begin, std::size_t count) {
  std::vector<index_t> out;
  for (std::size_t i = begin; i < begin + count; ++i) out.push_back(static_cast<index_t>(x[i]));
  return out;
}

template <class Policy, class Evidence>
void check_kept(Policy const& policy, std::vector<float> const& k, Evidence const& ev,
                std::vector<double> const& kept, std::size_t budget) {
  auto const view = dense_cache(k.data(), k.data(), {1, 2, 96, 16});
  data::compressed const run(policy, view, ev);
  INFO(run.result.message);
  REQUIRE(run.result.ok());
  for (index_t h = 0; h < 2; ++h)
    CHECK(run.kept(0, h) == indices(kept, static_cast<std::size_t>(h) * budget, budget));
}

}  // namespace

TEST_CASE("snapkv keeps what the authors' code keeps", "[golden][snapkv]") {
  golden const g("snapkv_authors");
  auto const k = g.floats("k"), q = g.floats("q");
  auto const ev = evidence{window_queries{dense_rows(q.data(), {1, 2, 16, 16})}};
  check_kept(pipeline{snapkv{{.window = 16, .pool = 5}}, top_k{{.budget = 40}}}, k, ev, g["kept"],
             40);
}

TEST_CASE("snapkv's scores and kept sets are kvpress'", "[golden][snapkv]") {
  golden const g("snapkv");
  auto const k = g.floats("k"), q = g.floats("q");
  auto const ev = evidence{window_queries{dense_rows(q.data(), {1, 8, 16, 16})}};
  check_kept(pipeline{snapkv{{.window = 16, .pool = 5}}, top_k{{.budget = 48}}}, k, ev, g["kept"],
             48);
  auto const plan =
      make_plan(pipeline{snapkv{{.window = 16, .pool = 5}}, top_k{{.budget = 48}}}, {1, 2, 96, 16});
  std::vector<float> scores(2 * 96);
  data::buffer scratch(plan.select_bytes() + plan.keep_bytes());
  auto const view = dense_cache(k.data(), k.data(), {1, 2, 96, 16});
  REQUIRE(score(cpu{}, plan, view, ev, {scores.data(), 96}, scratch).ok());
  CHECK(scratch.intact());
  for (std::size_t h = 0; h < 2; ++h)
    for (std::size_t t = 0; t < 80; ++t)
      REQUIRE(std::abs(scores[h * 96 + t] - g["score"][h * 80 + t]) <= tolerance::accumulated);
}

TEST_CASE("knorm's scores and kept sets are kvpress'", "[golden][knorm]") {
  auto const k = golden("snapkv").floats("k");
  golden const g("knorm");
  check_kept(pipeline{knorm{}, top_k{{.budget = 48}}}, k, evidence<>{}, g["kept"], 48);
  auto const view = dense_cache(k.data(), k.data(), {1, 2, 96, 16});
  text<std::remove_const_t<decltype(view)>> const ordered{view};
  for (index_t h = 0; h < 2; ++h)
    for (index_t t = 0; t < 96; ++t)
      REQUIRE(std::abs(knorm{}.score(token_ref(ordered, 0, h, t)) -
                       g["score"][static_cast<std::size_t>(h * 96 + t)]) <= tolerance::accumulated);
}

TEST_CASE("streaming_llm keeps and rerotates what kvpress does",
          "[golden][streaming_llm][rerotate]") {
  auto const k = golden("snapkv").floats("k");
  golden const g("streaming_llm");
  check_kept(pipeline{streaming_llm{{.sinks = 4}}, top_k{{.budget = 48}}}, k, evidence<>{},
             g["kept"], 48);
  auto const view = dense_cache(k.data(), k.data(), {1, 2, 96, 16});
  data::compressed const run(pipeline{streaming_llm{}, top_k{{.budget = 48}},
                                      rerotate{{.base = 10000.0f}}, dense<float>{}},
                             view, evidence<>{});
  for (index_t h = 0; h < 2; ++h)
    for (index_t t = 0; t < 48; ++t)
      for (index_t d = 0; d < 16; ++d)
        REQUIRE(std::abs(run.packed.key(h, t, d) -
                         g["rerotated"][static_cast<std::size_t>((h * 48 + t) * 16 + d)]) <=
                tolerance::accumulated);
}
