// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// LOOK-M: the authors' merged rows, the reference's, and what folding anywhere in a row must keep.

#include "reference/lookm.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

namespace {

constexpr float hidden = -std::numeric_limits<float>::infinity();

std::vector<float> some_scores(index_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<float> uniform;
  std::vector<float> s(static_cast<std::size_t>(n));
  for (float& x : s) x = uniform(engine);
  return s;
}

/// The largest difference of a row's stored K and V from what they should be, over their largest.
template <class Packed>
double row_error(Packed const& packed, index_t r, reference::matrix const& k,
                 reference::matrix const& v) {
  double worst = 0, most = 1e-30;
  if (packed.raw_row(r).slots != std::ssize(k)) return 1e9;
  for (std::size_t i = 0; i < k.size(); ++i) {
    auto const slot = static_cast<index_t>(i);
    for (std::size_t d = 0; d < k[i].size(); ++d) {
      worst = std::max(worst, std::abs(packed.key(r, slot, static_cast<index_t>(d)) - k[i][d]));
      most = std::max(most, std::abs(k[i][d]));
    }
    for (std::size_t d = 0; d < v[i].size(); ++d) {
      worst = std::max(worst, std::abs(packed.value(r, slot, static_cast<index_t>(d)) - v[i][d]));
      most = std::max(most, std::abs(v[i][d]));
    }
  }
  return worst / most;
}

std::vector<std::size_t> kept_of(auto const& run, index_t s, index_t h) {
  std::vector<std::size_t> out;
  for (index_t t : run.kept(s, h)) out.push_back(static_cast<std::size_t>(t));
  return out;
}

struct setting {
  lookm_merge merge;
  fold_filter filter;
  reference::lookm_kind kind;
  reference::lookm_filter expected;
};

constexpr setting settings[] = {
    {lookm_merge::averaged, fold_filter::none, reference::lookm_kind::averaged,
     reference::lookm_filter::none},
    {lookm_merge::pivotal, fold_filter::none, reference::lookm_kind::pivotal,
     reference::lookm_filter::none},
    {lookm_merge::weighted, fold_filter::places, reference::lookm_kind::weighted,
     reference::lookm_filter::places},
    {lookm_merge::weighted, fold_filter::mean, reference::lookm_kind::weighted,
     reference::lookm_filter::mean},
    {lookm_merge::normalized, fold_filter::none, reference::lookm_kind::normalized,
     reference::lookm_filter::none},
};

}  // namespace

TEST_CASE("lookm makes the authors' rows", "[lookm]") {
  golden const g("lookm");
  index_t const heads = 2, tokens = 60, dim = 16, kept = 22;
  auto const k = g.floats("k"), v = g.floats("v"), score = g.floats("score");
  auto const view = dense_cache(
      k.data(), v.data(), {.sequences = 1, .kv_heads = heads, .tokens = tokens, .head_dim = dim});
  struct {
    char const* name;
    lookm::options o;
  } const cases[] = {{"pivotal", {.merge = lookm_merge::pivotal}},
                     {"averaged", {.merge = lookm_merge::averaged}},
                     {"weighted", {.merge = lookm_merge::weighted, .filter = fold_filter::places}},
                     {"normalized", {.merge = lookm_merge::normalized}}};
  for (auto const& one : cases) {
    INFO(one.name);
    data::compressed const run(
        pipeline{given_scores{}, top_k{{.budget = kept, .sinks = 4, .recent = 8}}, lookm{one.o},
                 dense<float>{}},
        view, evidence{token_scores<>{score.data()}});
    REQUIRE(run.result.ok());
    auto const keys = g[std::string("keys_") + one.name],
               values = g[std::string("values_") + one.name];
    for (index_t h = 0; h < heads; ++h) {
      reference::matrix mine, other;
      for (index_t i = 0; i < kept; ++i) {
        CHECK(static_cast<double>(run.kept(0, h)[static_cast<std::size_t>(i)]) ==
              g["kept"][static_cast<std::size_t>(h * kept + i)]);
        auto const at = (h * kept + i) * dim;
        mine.emplace_back(keys.begin() + at, keys.begin() + at + dim);
        other.emplace_back(values.begin() + at, values.begin() + at + dim);
      }
      CHECK(row_error(run.packed, h, mine, other) <= tolerance::accumulated);
    }
  }
}

TEST_CASE("lookm matches the reference, ragged, biased and in cells of any order", "[lookm]") {
  data::cache const c(
      {.sequences = 2, .kv_heads = 4, .tokens = 90, .head_dim = 80, .value_dim = 48});
  auto const scores = some_scores(8 * 90, 3);
  auto const weights = some_scores(8 * 90, 4);
  std::vector<float> biases;
  for (float x : weights) biases.push_back(4 * x - 2);
  std::int32_t const lengths[] = {90, 31};
  for (auto const& one : settings)
    for (bool const biased : {false, true})
      for (float const least : {-1.0f, 0.2f}) {
        auto view = c.view();
        view.lengths = lengths;
        if (biased) {
          view.bias = {biases.data(), 4 * 90, 90};
        }
        data::compressed const run(
            pipeline{
                given_scores{}, top_k{{.budget = 20, .sinks = 2, .recent = 5}},
                lookm{
                    {.merge = one.merge, .filter = one.filter, .least = least, .mass_bias = true}},
                dense<float>{}},
            view, evidence{token_scores<>{scores.data()}}, {.biases = biased});
        REQUIRE(run.result.ok());
        CHECK(run.intact());
        for (index_t s = 0; s < 2; ++s) {
          std::vector<reference::matrix> k, v;
          std::vector<std::vector<std::size_t>> kept;
          reference::matrix mass;
          for (index_t h = 0; h < 4; ++h) {
            k.push_back(oracle::keys(c, s, h, lengths[s]));
            v.push_back(oracle::values(c, s, h, lengths[s]));
            kept.push_back(kept_of(run, s, h));
            REQUIRE(kept.back().size() == 20);
            mass.emplace_back();
            for (index_t t = 0; t < lengths[s]; ++t)
              mass.back().push_back(
                  biased ? std::exp(static_cast<double>(
                               biases[static_cast<std::size_t>((s * 4 + h) * 90 + t)]))
                         : 1.0);
          }
          auto const expected = reference::lookm(k, v, kept, one.kind, one.expected,
                                                 static_cast<double>(least), mass);
          for (index_t h = 0; h < 4; ++h) {
            auto const& row = expected[static_cast<std::size_t>(h)];
            CHECK(row_error(run.packed, s * 4 + h, row.k, row.v) <= tolerance::accumulated);
            for (std::size_t i = 0; i < row.mass.size(); ++i)
              CHECK(std::abs(run.packed.logit_bias(s * 4 + h, static_cast<index_t>(i)) -
                             std::log(row.mass[i])) <= tolerance::accumulated);
          }
        }
        CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
      }
}

TEST_CASE("lookm in shuffled cells with padding stores the same", "[lookm]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .tokens = 70, .head_dim = 32});
  data::shuffled const mixed(c, 13, {70, 44});
  auto ordered = c.view();
  std::int32_t const lengths[] = {70, 44};
  ordered.lengths = lengths;
  for (auto const& one : settings) {
    pipeline const policy{knorm{}, top_k{{.budget = 24, .recent = 4}},
                          lookm{{.merge = one.merge, .filter = one.filter}}, dense<float>{}};
    data::compressed const a(policy, ordered), b(policy, mixed.view());
    REQUIRE(a.result.ok());
    REQUIRE(b.result.ok());
    for (index_t r = 0; r < 4; ++r)
      for (index_t i = 0; i < 24; ++i)
        for (index_t d = 0; d < 32; ++d) {
          CHECK(a.packed.key(r, i, d) == b.packed.key(r, i, d));
          CHECK(a.packed.value(r, i, d) == b.packed.value(r, i, d));
        }
  }
}

TEST_CASE("folding nothing is plain eviction, bit for bit", "[lookm]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .tokens = 100, .head_dim = 64});
  top_k const keep{{.budget = 30, .sinks = 2, .recent = 5}};
  data::compressed const plain(pipeline{knorm{}, keep, int_per_token<4>{}}, c.view());
  REQUIRE(plain.result.ok());
  for (auto const& one : settings) {
    data::compressed const run(
        pipeline{knorm{}, keep, lookm{{.merge = one.merge, .filter = one.filter, .least = 1.5f}},
                 int_per_token<4>{}},
        c.view());
    REQUIRE(run.result.ok());
    CHECK(data::bytes_of(run.packed) == data::bytes_of(plain.packed));
  }
}

TEST_CASE("folding twice loses no attention mass", "[lookm]") {
  data::cache const c({.sequences = 1, .kv_heads = 2, .tokens = 120, .head_dim = 32});
  auto const mass = [](auto const& packed, index_t r) {
    double sum = 0;
    for (index_t i = 0; i < packed.raw_row(r).slots; ++i)
      sum += std::exp(static_cast<double>(packed.logit_bias(r, i)));
    return sum;
  };
  for (auto const merge : {lookm_merge::averaged, lookm_merge::pivotal}) {
    pipeline const once{knorm{}, top_k{{.budget = 60}}, lookm{{.merge = merge, .mass_bias = true}},
                        dense<float>{}};
    pipeline const again{knorm{}, top_k{{.budget = 17}}, lookm{{.merge = merge, .mass_bias = true}},
                         dense<float>{}};
    data::compressed const first(once, c.view());
    REQUIRE(first.result.ok());
    for (index_t r = 0; r < 2; ++r)
      CHECK(std::abs(mass(first.packed, r) - 120) <= 120 * tolerance::accumulated);
    auto const plan = make_plan(again, {1, 2, 60, 32});
    data::buffer storage(plan.packed_bytes()), scratch(plan.workspace_bytes());
    packed_cache const second(plan, storage);
    REQUIRE(recompress(cpu{}, plan, first.packed, second, scratch).ok());
    CHECK(scratch.intact());
    for (index_t r = 0; r < 2; ++r) {
      CHECK(second.raw_row(r).slots == 17);
      CHECK(std::abs(mass(second, r) - 120) <= 120 * tolerance::accumulated);
    }
    // Values are means of what was folded: their masses keep the sum of all values.
    if (merge != lookm_merge::averaged) continue;
    for (index_t r = 0; r < 2; ++r)
      for (index_t d = 0; d < 32; ++d) {
        double now = 0, all = 0, size = 0;
        for (index_t i = 0; i < 17; ++i)
          now += std::exp(static_cast<double>(second.logit_bias(r, i))) *
                 static_cast<double>(second.value(r, i, d));
        for (index_t t = 0; t < 120; ++t) {
          all += static_cast<double>(c.value(0, r, t, d));
          size += std::abs(static_cast<double>(c.value(0, r, t, d)));
        }
        CHECK(std::abs(now - all) <= size * tolerance::accumulated);
      }
  }
}

TEST_CASE("lookm at the edges", "[lookm]") {
  data::cache c({.sequences = 2, .kv_heads = 1, .tokens = 12, .head_dim = 4});
  lookm const merger{{.merge = lookm_merge::averaged, .mass_bias = true}};
  auto const with = [&](index_t budget, auto const& view, plan_options o = {}) {
    return data::compressed(pipeline{streaming_llm{}, top_k{{.budget = budget, .recent = budget}},
                                     merger, dense<float>{}},
                            view, evidence<>{}, o);
  };
  SECTION("all equal tokens become one") {
    std::fill(c.k.begin(), c.k.end(), 2.0f);
    std::fill(c.v.begin(), c.v.end(), -3.0f);
    auto const run = with(1, c.view());
    REQUIRE(run.result.ok());
    CHECK(run.packed.key(1, 0, 2) == 2.0f);
    CHECK(run.packed.value(1, 0, 2) == -3.0f);
    CHECK(std::abs(run.packed.logit_bias(1, 0) - std::log(12.0f)) < 1e-6f);
  }
  SECTION("nothing kept, and nothing evicted") {
    auto const view = c.view();
    data::compressed const none(
        pipeline{knorm{}, at_least{{.least = 1e30f, .sinks = 0, .recent = 0}}, merger,
                 dense<float>{}},
        view);
    REQUIRE(none.result.ok());
    CHECK(none.packed.raw_row(0).slots == 0);
    auto const all = with(12, c.view());
    REQUIRE(all.result.ok());
    for (index_t t = 0; t < 12; ++t) CHECK(all.packed.key(1, t, 3) == c.key(1, 0, t, 3));
  }
  SECTION("an empty row and one of a single token") {
    std::int32_t const lengths[] = {0, 1};
    auto view = c.view();
    view.lengths = lengths;
    auto const run = with(3, view);
    REQUIRE(run.result.ok());
    CHECK(run.packed.raw_row(0).slots == 0);
    CHECK(run.packed.raw_row(1).slots == 1);
    CHECK(run.packed.logit_bias(1, 0) == 0.0f);
  }
  SECTION("zero keys join the first kept token") {
    for (std::size_t d = 0; d < 4; ++d) c.k[6 * 4 + d] = 0.0f;
    auto const run = with(4, c.view());
    REQUIRE(run.result.ok());
    for (index_t i = 0; i < 4; ++i) CHECK(std::isfinite(run.packed.key(0, i, 1)));
  }
  SECTION("hidden tokens neither join nor are joined") {
    std::vector<float> biases(24, 0.0f);
    biases[3] = biases[11] = hidden;  // one goes, one stays
    auto view = c.view();
    view.bias = biases.data();
    auto const run = with(3, view, {.biases = true});
    REQUIRE(run.result.ok());
    double sum = 0;
    for (index_t i = 0; i < 3; ++i)
      sum += std::exp(static_cast<double>(run.packed.logit_bias(0, i)));
    CHECK(std::abs(sum - 10) < 1e-5);
    CHECK(run.packed.logit_bias(0, 2) == hidden);
    CHECK(run.packed.key(0, 2, 1) == c.key(0, 0, 11, 1));
  }
  SECTION("options") {
    CHECK(lookm{{.least = std::nanf("")}}.check().code == errc::invalid_option);
    c.k[5] = std::nanf("");
    CHECK(with(3, c.view()).result.code == errc::non_finite);
  }
}
