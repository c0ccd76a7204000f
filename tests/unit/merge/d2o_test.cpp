// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// D2O at the end of the prompt: the authors' merged rows, the reference's with either weights, and
// what it lets go; then a life with a threshold that runs on.

#include "reference/d2o.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

namespace {

std::vector<float> some_scores(index_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<float> uniform;
  std::vector<float> s(static_cast<std::size_t>(n));
  for (float& x : s) x = uniform(engine);
  return s;
}

template <class Packed>
double row_error(Packed const& packed, index_t r, reference::d2o_rows const& expected) {
  double worst = 0, most = 1e-30;
  if (packed.raw_row(r).slots != std::ssize(expected.k)) return 1e9;
  for (std::size_t i = 0; i < expected.k.size(); ++i) {
    auto const slot = static_cast<index_t>(i);
    auto const compare = [&](double got, double wanted) {
      worst = std::max(worst, std::abs(got - wanted));
      most = std::max(most, std::abs(wanted));
    };
    for (std::size_t d = 0; d < expected.k[i].size(); ++d)
      compare(packed.key(r, slot, static_cast<index_t>(d)), expected.k[i][d]);
    for (std::size_t d = 0; d < expected.v[i].size(); ++d)
      compare(packed.value(r, slot, static_cast<index_t>(d)), expected.v[i][d]);
  }
  return worst / most;
}

}  // namespace

TEST_CASE("d2o makes the authors' rows", "[d2o]") {
  golden const g("d2o");
  index_t const heads = 3, tokens = 50, dim = 16, kept = 20;
  auto const k = g.floats("k"), v = g.floats("v"), score = g.floats("score");
  auto const view = dense_cache(
      k.data(), v.data(), {.sequences = 1, .kv_heads = heads, .tokens = tokens, .head_dim = dim});
  data::compressed const run(
      pipeline{given_scores{}, top_k{{.budget = kept, .sinks = 4, .recent = 9}}, d2o{},
               dense<float>{}},
      view, evidence{token_scores<>{score.data()}});
  REQUIRE(run.result.ok());
  for (index_t h = 0; h < heads; ++h) {
    reference::d2o_rows expected;
    for (index_t i = 0; i < kept; ++i) {
      auto const at = (h * kept + i) * dim;
      expected.k.emplace_back(g["keys"].begin() + at, g["keys"].begin() + at + dim);
      expected.v.emplace_back(g["values"].begin() + at, g["values"].begin() + at + dim);
    }
    CHECK(row_error(run.packed, h, expected) <= tolerance::accumulated);
  }
}

TEST_CASE("d2o matches the reference", "[d2o]") {
  data::cache const c(
      {.sequences = 3, .kv_heads = 4, .tokens = 80, .head_dim = 80, .value_dim = 32});
  auto const scores = some_scores(12 * 80, 7);
  std::int32_t const lengths[] = {80, 29, 80};
  for (bool const softmax : {false, true})
    for (index_t const heads : {4, 1}) {
      auto view = c.view();
      view.lengths = lengths;
      d2o const merger{{.weights = softmax ? d2o_weights::softmax : d2o_weights::counted,
                        .filter = heads == 1 ? fold_filter::mean : fold_filter::places}};
      data::compressed const run(
          pipeline{given_scores{}, top_k{{.budget = 25, .sinks = 1, .recent = 6}}, merger,
                   dense<float>{}},
          view, evidence{token_scores<>{scores.data()}});
      REQUIRE(run.result.ok());
      CHECK(run.intact());
      for (index_t first = 0; first < 12; first += heads) {
        std::vector<reference::matrix> k, v;
        std::vector<std::vector<std::size_t>> kept;
        for (index_t r = first; r < first + heads; ++r) {
          k.push_back(oracle::keys(c, r / 4, r % 4, lengths[r / 4]));
          v.push_back(oracle::values(c, r / 4, r % 4, lengths[r / 4]));
          kept.emplace_back();
          for (index_t t : run.kept(r / 4, r % 4))
            kept.back().push_back(static_cast<std::size_t>(t));
        }
        auto const expected = reference::d2o(k, v, kept, softmax);
        for (index_t r = first; r < first + heads; ++r)
          CHECK(row_error(run.packed, r, expected[static_cast<std::size_t>(r - first)]) <=
                tolerance::accumulated);
      }
      CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
    }
}

TEST_CASE("d2o folds some and lets go of others", "[d2o]") {
  // One head, two kept tokens along the axes; what goes is near the first, or between.
  data::cache c({.sequences = 1, .kv_heads = 1, .tokens = 4, .head_dim = 4});
  c.k = {1, 0, 0, 0, 0, 1, 0, 0, 2, 0.1f, 0, 0, 1, 1, 0, 0};
  c.v = {4, 0, 0, 0, 0, 4, 0, 0, 0, 0, 4, 0, 0, 0, 0, 4};
  float const scores[] = {9, 8, 1, 1};
  auto const with = [&](d2o const& merger) {
    return data::compressed(pipeline{given_scores{}, top_k{{.budget = 2}}, merger, dense<float>{}},
                            c.view(), evidence{token_scores<>{scores}});
  };
  auto const run = with(d2o{{.mass_bias = true}});
  REQUIRE(run.result.ok());
  double const u = 2 / std::sqrt(4.01);
  CHECK(std::abs(run.packed.value(0, 0, 0) - 2) < 1e-6);
  CHECK(std::abs(run.packed.value(0, 0, 2) - 2 * u) < 1e-6);
  CHECK(run.packed.value(0, 0, 3) == 0);  // below the mean
  CHECK(run.packed.value(0, 1, 1) == 4);
  CHECK(std::abs(run.packed.logit_bias(0, 0) - std::log(2.0f)) < 1e-6f);
  CHECK(run.packed.logit_bias(0, 1) == 0);
  // With nothing alike enough it is plain eviction, bit for bit.
  auto const none = with(d2o{{.least = 1.1f}});
  data::compressed const plain(pipeline{given_scores{}, top_k{{.budget = 2}}, dense<float>{}},
                               c.view(), evidence{token_scores<>{scores}});
  REQUIRE((none.result.ok() && plain.result.ok()));
  CHECK(data::bytes_of(none.packed) == data::bytes_of(plain.packed));
  CHECK(d2o{{.least = std::nanf("")}}.check().code == errc::invalid_option);
}

namespace {

/// What a row remembers.
template <class Packed>
ops::least_likeness remembered(Packed const& packed, index_t r) {
  ops::least_likeness x;
  void const* const words = packed.row_words(r);
  std::memcpy(&x, words, sizeof x);
  return x;
}

/// A cache that is compressed again whenever tokens have come, by scores of its slots.
template <class Policy>
struct running_life {
  Policy policy;
  index_t block;
  std::vector<float> scores;  // [rows, tokens of the prompt]
  std::vector<std::byte> bytes = {};
  kvslim::extents extent = {};
  plan_options options{.append_tokens = block, .draft_tokens = block};

  template <class View>
  status prompt(View const& view) {
    extent = view.extents();
    auto const plan = make_plan(policy, extent, options);
    std::vector<std::byte> scratch(plan.workspace_bytes());
    bytes.resize(plan.packed_bytes());
    return compress(cpu{}, plan, view, evidence{token_scores<>{scores.data()}},
                    packed_cache(plan, bytes), scratch);
  }
  [[nodiscard]] auto packed() { return packed_cache(make_plan(policy, extent, options), bytes); }
  status grow(rows<> const& k, rows<> const& v) {
    std::vector<std::byte> scratch(append_bytes(packed().layout()));
    return append(cpu{}, packed(), k, v, scratch);
  }
  template <class Next>
  status again(Next const& next) {
    auto const plan = make_plan(next, extent, options);
    std::vector<std::byte> to(plan.packed_bytes()), scratch(plan.workspace_bytes());
    auto const done = recompress(cpu{}, plan, packed(), packed_cache(plan, to), scratch,
                                 evidence{token_scores<>{scores.data()}});
    if (done) bytes = to;
    return done;
  }
};
template <class Policy>
running_life(Policy, index_t, std::vector<float>) -> running_life<Policy>;

auto running_d2o(index_t budget, index_t sinks, index_t recent, d2o const& merger) {
  return pipeline{given_scores{}, top_k{{.budget = budget, .sinks = sinks, .recent = recent}},
                  merger, dense<float>{}};
}

}  // namespace

TEST_CASE("d2o's threshold runs on as the authors'", "[golden][d2o]") {
  golden const g("d2o");
  index_t const heads = 3, tokens = 50, dim = 16, held = 20, steps = 14;
  auto const k = g.floats("k"), v = g.floats("v"), more_k = g.floats("more_k"),
             more_v = g.floats("more_v"), scores = g.floats("scores");
  auto const view = dense_cache(
      k.data(), v.data(), {.sequences = 1, .kv_heads = heads, .tokens = tokens, .head_dim = dim});
  running_life life{running_d2o(held, 4, 9, {{.running = true, .past = 0.3f, .present = 0.7f}}), 1,
                    g.floats("score")};
  REQUIRE(life.prompt(view).ok());
  for (index_t step = 0; step <= steps; ++step) {
    for (index_t r = 0; r < heads; ++r) {
      auto const x = remembered(life.packed(), r);
      CHECK(x.times == step + 1);
      CHECK(std::abs(x.least - g["thresholds"][static_cast<std::size_t>(step)]) <=
            tolerance::accumulated);
    }
    if (step == steps) break;
    auto const next = [&](std::vector<float> const& x) {
      return rows_view<float const>{x.data() + step * dim,   1, heads, 1, dim,
                                    {0, steps * dim, dim, 1}};
    };
    REQUIRE(life.grow(next(more_k), next(more_v)).ok());
    for (index_t h = 0; h < heads; ++h)
      std::copy_n(scores.begin() + (step * heads + h) * (held + 1), held + 1,
                  life.scores.begin() + h * tokens);
    REQUIRE(life.again(life.policy).ok());
  }
  auto const packed = life.packed();
  for (index_t h = 0; h < heads; ++h) {
    reference::d2o_rows expected;
    for (index_t i = 0; i < held; ++i) {
      auto const at = (h * held + i) * dim;
      expected.k.emplace_back(g["last_keys"].begin() + at, g["last_keys"].begin() + at + dim);
      expected.v.emplace_back(g["last_values"].begin() + at, g["last_values"].begin() + at + dim);
    }
    CHECK(row_error(packed, h, expected) <= tolerance::accumulated);
  }
}

TEST_CASE("d2o's threshold runs on as the reference says, for layers and for rows", "[d2o]") {
  index_t const prompt = 50, block = 7, heads = 3;
  data::cache const c(
      {.sequences = 2, .kv_heads = heads, .tokens = 50 + 5 * 7, .head_dim = 80, .value_dim = 32});
  auto view = dense_cache(
      c.k.data(), c.v.data(),
      extents{
          .sequences = 2, .kv_heads = heads, .tokens = prompt, .head_dim = 80, .value_dim = 32});
  view.k.layout = {heads * 85 * 80, 85 * 80, 80, 1};
  view.v.layout = {heads * 85 * 32, 85 * 32, 32, 1};
  for (auto const filter : {fold_filter::places, fold_filter::mean}) {
    running_life life{running_d2o(20, 2, 5, {{.filter = filter, .running = true}}), block,
                      some_scores(6 * prompt, 5)};
    REQUIRE(life.prompt(view).ok());
    index_t const together = filter == fold_filter::places ? heads : 1;
    std::vector<reference::d2o_rows> rows(6);
    std::vector<std::vector<index_t>> positions(6);
    std::vector<reference::d2o_threshold> thresholds(6, {0.5, 0.5});
    index_t now = 0;
    auto const take = [&](index_t count) {
      for (index_t r = 0; r < 6; ++r)
        for (index_t t = now; t < now + count; ++t) {
          auto const at = static_cast<std::size_t>(r);
          positions[at].push_back(t);
          rows[at].k.emplace_back();
          rows[at].v.emplace_back();
          for (index_t d = 0; d < 80; ++d)
            rows[at].k.back().push_back(static_cast<double>(c.key(r / heads, r % heads, t, d)));
          for (index_t d = 0; d < 32; ++d)
            rows[at].v.back().push_back(static_cast<double>(c.value(r / heads, r % heads, t, d)));
        }
      now += count;
    };
    take(prompt);
    for (int step = 0; step < 6; ++step) {
      for (index_t first = 0; first < 6; first += together) {
        std::vector<reference::matrix> k, v;
        std::vector<std::vector<std::size_t>> kept;
        for (auto r = static_cast<std::size_t>(first);
             r < static_cast<std::size_t>(first + together); ++r) {
          k.push_back(rows[r].k);
          v.push_back(rows[r].v);
          kept.emplace_back();
          auto const held =
              data::held(life.packed(), first / heads, static_cast<index_t>(r) % heads);
          std::vector<index_t> left;
          for (std::size_t i = 0; i < positions[r].size(); ++i)
            if (std::binary_search(held.begin(), held.end(), positions[r][i])) {
              kept.back().push_back(i);
              left.push_back(positions[r][i]);
            }
          positions[r] = left;
        }
        auto& threshold = thresholds[static_cast<std::size_t>(first)];
        auto const expected = reference::d2o(k, v, kept, false, &threshold);
        for (index_t r = first; r < first + together; ++r) {
          rows[static_cast<std::size_t>(r)] = expected[static_cast<std::size_t>(r - first)];
          CHECK(row_error(life.packed(), r, rows[static_cast<std::size_t>(r)]) <=
                tolerance::accumulated);
          CHECK(remembered(life.packed(), r).times == step + 1);
          CHECK(std::abs(remembered(life.packed(), r).least - threshold.least) <=
                tolerance::accumulated);
        }
      }
      if (step == 5) break;
      auto const next = [&](std::vector<float> const& x, index_t dim) {
        return rows_view<float const>{
            x.data() + now * dim, 2, heads, block, dim, {heads * 85 * dim, 85 * dim, dim, 1}};
      };
      REQUIRE(life.grow(next(c.k, 80), next(c.v, 32)).ok());
      take(block);
      life.scores = some_scores(6 * prompt, static_cast<unsigned>(step) + 9);
      REQUIRE(life.again(life.policy).ok());
    }
  }
}

TEST_CASE("d2o's memory is the row's: stored, joined, emptied, or not there", "[d2o]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .tokens = 40, .head_dim = 16});
  auto const with = [](bool running) { return running_d2o(15, 1, 3, {{.running = running}}); };
  running_life life{with(true), 3, some_scores(4 * 40, 3)};
  running_life plain{with(false), 3, life.scores};
  REQUIRE(life.prompt(c.view()).ok());
  REQUIRE(plain.prompt(c.view()).ok());
  auto packed = life.packed();
  auto const none = plain.packed();
  // The first time it changes nothing but the bytes of the memory, padded to 64 a row.
  CHECK(packed.bytes() == none.bytes() + 4 * 64);
  CHECK(none.row_words(0) == nullptr);
  for (index_t r = 0; r < 4; ++r)
    for (index_t i = 0; i < 15; ++i)
      for (index_t d = 0; d < 16; ++d) CHECK(packed.key(r, i, d) == none.key(r, i, d));
  // Nothing leaves: the threshold stays.
  auto const before = remembered(packed, 1);
  CHECK(before.times == 1);
  REQUIRE(life.again(life.policy).ok());
  packed = life.packed();
  CHECK(remembered(packed, 1).times == 1);
  CHECK(remembered(packed, 1).least == before.least);
  // Saved, and back.
  std::vector<std::byte> saved(serialized_bytes(packed)), other(life.bytes.size());
  REQUIRE(serialize(packed, saved.data(), saved.size()).ok());
  packed_cache const reader(packed.layout(), other);
  REQUIRE(deserialize(saved.data(), saved.size(), reader).ok());
  CHECK(remembered(reader, 1).least == before.least);
  // A sequence that leaves forgets; one that joins remembers.
  REQUIRE(leave(reader, {.first_sequence = 0, .sequences = 1}).ok());
  CHECK(remembered(reader, 1).times == 0);
  CHECK(remembered(reader, 2).times == 1);
  std::vector<std::byte> scratch(append_bytes(reader.layout()));
  REQUIRE(join(cpu{}, packed, 1, reader, 0, scratch).ok());
  CHECK(remembered(reader, 1).least == remembered(packed, 3).least);
  // From a cache without memory it begins; into one, it ends.
  REQUIRE(life.again(with(false)).ok());
  life.policy = with(false);
  CHECK(life.packed().row_words(0) == nullptr);
  auto const k = c.queries(3);
  rows_view<float const> const three{k.data, 2, 2, 3, 16, k.layout};
  REQUIRE(life.grow(three, three).ok());
  REQUIRE(life.again(with(true)).ok());
  life.policy = with(true);
  CHECK(remembered(life.packed(), 0).times == 1);

  d2o const no_filter{{.filter = fold_filter::none, .running = true}};
  CHECK(no_filter.check().code == errc::invalid_option);
  CHECK(d2o{{.running = true, .past = 1.5f}}.check().code == errc::invalid_option);
  CHECK(d2o{{.running = true, .present = std::nanf("")}}.check().code == errc::invalid_option);
  auto layout = packed.layout();
  layout.sides[layout.find(side_kind::row_words)].unit = 1;  // of slots: no words of a row
  CHECK(layout.check().code == errc::invalid_option);
}

TEST_CASE("d2o's layers keep what the authors' keep", "[golden][d2o]") {
  golden const g("d2o");
  auto const attention = g.floats("attention");
  auto const& expected = g["unevenness"];
  auto const layers = static_cast<index_t>(expected.size()), heads = index_t{4};
  std::vector<double> uneven(expected.size());
  std::vector<reference::matrix> again(expected.size(), reference::matrix(4));
  for (index_t l = 0; l < layers; ++l) {
    auto& mine = uneven[static_cast<std::size_t>(l)];
    REQUIRE(d2o_unevenness({attention.data() + l * 160, 160}, heads, mine).ok());
    CHECK(std::abs(mine - expected[static_cast<std::size_t>(l)]) <= tolerance::accumulated);
    for (std::size_t h = 0; h < 4; ++h) {
      auto const from = attention.begin() + l * 160 + static_cast<std::ptrdiff_t>(h) * 40;
      again[static_cast<std::size_t>(l)][h].assign(from, from + 40);
    }
  }
  std::vector<d2o_budget> got(uneven.size());
  slice<double const> const all{uneven.data(), layers};
  slice<d2o_budget> const out{got.data(), layers};
  d2o_budget_options options{.best = 0.15, .recent = 0.1, .spares_ends = false};
  REQUIRE(d2o_budgets(all, 1000, options, out).ok());
  auto const naive = reference::d2o_layers(again, 1000, 0.15, 0.1);
  for (std::size_t l = 0; l < got.size(); ++l) {
    CHECK(got[l].best == static_cast<index_t>(g["best"][l]));
    CHECK(got[l].recent == static_cast<index_t>(g["recent"][l]));
    CHECK(got[l].best == naive[l].first);
    CHECK(got[l].recent == naive[l].second);
  }
  options.spares_ends = true;
  REQUIRE(d2o_budgets(all, 1000, options, out).ok());
  for (std::size_t l = 0; l < got.size(); ++l)
    CHECK((got[l].best == 1000 && got[l].recent == 0) == (l < 2 || l == 7));
  double const even[] = {0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3};
  REQUIRE(d2o_budgets({even, 7}, 1000, {.spares_ends = false}, {got.data(), 7}).ok());
  for (std::size_t l = 0; l < 7; ++l) CHECK((got[l].best == 100 && got[l].recent == 100));
  // Too small a part and too large a one.
  double const far[] = {0, 50, 50, 50};
  d2o_budget cut[4];
  REQUIRE(d2o_budgets({far, 4}, 1000, {.best = 0.5, .recent = 0.25, .spares_ends = false}, {cut, 4})
              .ok());
  CHECK(cut[0].best == 666);
  CHECK(cut[0].recent == 333);
  CHECK(cut[3].best == 6);
  CHECK(cut[3].recent == 3);
}

TEST_CASE("d2o's budgets say what they need", "[d2o]") {
  float const x[] = {1, 2, 3, 4, 5, std::nanf("")};
  double uneven = 7;
  CHECK(d2o_unevenness({x, 5}, 2, uneven).code == errc::invalid_shape);
  CHECK(d2o_unevenness({x, 2}, 2, uneven).code == errc::invalid_shape);
  CHECK(d2o_unevenness({x, 4}, 0, uneven).code == errc::invalid_shape);
  CHECK(d2o_unevenness({x, 6}, 2, uneven).code == errc::non_finite);
  CHECK(uneven == 7);
  REQUIRE(d2o_unevenness({x, 4}, 2, uneven).ok());
  CHECK(uneven == 0);  // heads of one variance
  double const bad[] = {0, std::nan("")};
  d2o_budget out[2] = {{3, 3}, {3, 3}};
  CHECK(d2o_budgets({bad, 2}, 10, {}, {out, 2}).code == errc::invalid_option);
  CHECK(d2o_budgets({bad, 1}, 10, {.best = -1.0}, {out, 1}).code == errc::invalid_option);
  CHECK(d2o_budgets({bad, 1}, 10, {.best = 0.0, .recent = 0.0}, {out, 1}).code ==
        errc::invalid_option);
  CHECK(d2o_budgets({bad, 1}, -1, {}, {out, 1}).code == errc::invalid_shape);
  CHECK(d2o_budgets({bad, 1}, 10, {}, {out, 2}).code == errc::invalid_shape);
  CHECK(out[0].best == 3);
}
