// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/kvzip.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <kvslim/score/kvzip.hpp>

using namespace kvslim;

namespace {

constexpr probe_stretch both[] = {{0, 40, 6, 32}, {40, 44, 38, 32}};
constexpr slice<probe_stretch const> golden_parts{both, 2};

/// The golden file: 4 query heads over 2 KV heads, 70 tokens, 84 probes.
struct given {
  golden g{"kvzip"};
  std::vector<float> q = g.floats("q"), own = g.floats("own"), k = g.floats("k");

  [[nodiscard]] auto view() const { return dense_cache(k.data(), k.data(), extents{1, 2, 70, 16}); }
  [[nodiscard]] auto evidence() const {
    return kvslim::evidence{probes{dense_rows<host_space, float const>(q.data(), {1, 4, 84, 16}),
                                   dense_rows<host_space, float const>(own.data(), {1, 2, 84, 16}),
                                   golden_parts}};
  }
};

/// Probes of every sequence and head, with keys of their own.
template <class T>
struct probing {
  data::shape shape;
  index_t count;
  std::vector<T> q, own;

  probing(data::shape const& s, index_t n) : shape(s), count(n) {
    std::mt19937 engine(5);
    std::normal_distribution<float> normal;
    auto const fill = [&](std::vector<T>& x, index_t heads) {
      for (index_t i = 0; i < s.sequences * heads * n * s.head_dim; ++i)
        x.push_back(from_float<T>(data::rounded(normal(engine))));
    };
    fill(q, s.q_heads());
    fill(own, s.kv_heads);
  }
  [[nodiscard]] auto queries() const {
    return dense_rows<host_space, T const>(
        q.data(), {shape.sequences, shape.q_heads(), count, shape.head_dim});
  }
  [[nodiscard]] auto keys() const {
    return dense_rows<host_space, T const>(
        own.data(), {shape.sequences, shape.kv_heads, count, shape.head_dim});
  }
  [[nodiscard]] probes<> all(bool with_keys, std::vector<probe_stretch> const& parts) const {
    return {queries(),
            with_keys ? rows<>(keys()) : rows<>{},
            {parts.data(), static_cast<index_t>(parts.size())}};
  }
  [[nodiscard]] std::vector<double> expected(data::cache const& c, index_t r, index_t n,
                                             bool with_keys, std::vector<probe_stretch> parts,
                                             kvzip::options const& opt) const {
    index_t const s = r / shape.kv_heads, h = r % shape.kv_heads;
    if (parts.empty()) parts.push_back({0, count, 0, n});
    auto const row = [&](auto const& rows, index_t head, index_t t) {
      std::vector<double> x;
      for (index_t d = 0; d < shape.head_dim; ++d)
        x.push_back(static_cast<double>(to_float(rows.row(s, head, t)[d])));
      return x;
    };
    std::vector<reference::repetition> passes;
    for (auto const& part : parts) {
      reference::repetition pass{{},
                                 {},
                                 static_cast<std::size_t>(part.first_token),
                                 static_cast<std::size_t>(part.first_token + part.tokens)};
      for (index_t g = 0; g < shape.group; ++g) {
        pass.queries.emplace_back();
        for (index_t i = 0; i < part.queries; ++i)
          pass.queries.back().push_back(row(queries(), h * shape.group + g, part.first_query + i));
      }
      for (index_t i = 0; i < part.queries && with_keys; ++i)
        pass.own.push_back(row(keys(), h, part.first_query + i));
      passes.push_back(pass);
    }
    return reference::kvzip(passes, oracle::keys(c, s, h, n), static_cast<std::size_t>(opt.sinks),
                            opt.squared);
  }
};

void agree(double x, double expected, double most) {
  if (std::isinf(expected))
    REQUIRE(x == static_cast<double>(ops::largest_float));
  else
    REQUIRE(std::abs(x - expected) <= tolerance::accumulated * std::max(1.0, most));
}

}  // namespace

TEST_CASE("kvzip's scores and kept sets are the authors'", "[kvzip]") {
  given const x;
  auto const scores = data::scores_by(pipeline{kvzip{{.sinks = 6}}}, x.view(), x.evidence());
  auto const fewer = data::scores_by(pipeline{kvzip{{.sinks = 4}}}, x.view(), x.evidence());
  REQUIRE(scores.size() == 140);
  auto const kept =
      data::kept_by(pipeline{kvzip{{.sinks = 6}}, top_k{{.budget = 30}}}, x.view(), x.evidence());
  REQUIRE(kept.size() == 2);
  for (std::size_t h = 0; h < 2; ++h) {
    for (std::size_t t = 0; t < 70; ++t) {
      agree(scores[h * 70 + t], t < 6 ? INFINITY : x.g["score"][h * 64 + t - 6], 1.0);
      agree(fewer[h * 70 + t], t < 4 ? INFINITY : x.g["score_kvpress"][h * 70 + t], 1.0);
    }
    std::vector<index_t> expected{0, 1, 2, 3, 4, 5};
    for (std::size_t i = 0; i < 24; ++i)
      expected.push_back(static_cast<index_t>(x.g["kept"][h * 24 + i]));
    CHECK(kept[h] == expected);
  }
}

TEST_CASE("kvzip matches the reference in any order of cells", "[kvzip]") {
  struct {
    data::shape shape;
    std::vector<probe_stretch> parts;
    kvzip::options opt;
  } const cases[] = {
      {{.group = 1, .head_dim = 64}, {}, {}},
      {{.group = 4, .head_dim = 80}, {{0, 70, 3, 30}, {70, 75, 40, 60}}, {.sinks = 3}},
      {{.group = 8, .head_dim = 128}, {{5, 10, 20, 7}, {80, 65, 27, 0}, {60, 1, 27, 90}}, {}},
      {{.group = 2, .head_dim = 6}, {{0, 145, 2, 80}}, {.sinks = 7, .squared = true}},
      {{.group = 3, .head_dim = 48}, {{0, 0, 0, 80}, {3, 130, 80, 9}}, {.sinks = 0}},
  };
  for (auto [shape, parts, opt] : cases) {
    shape.sequences = 4;
    shape.tokens = 80;
    data::cache const c(shape, static_cast<unsigned>(shape.head_dim));
    std::vector<index_t> const lengths{80, 33, 3, 0};
    data::shuffled const ragged(c, 21, lengths);
    probing<bf16> const probe(shape, 145);  // 64, 64 and 17
    for (bool const with_keys : {true, false})
      for (bool const squared : {opt.squared, !opt.squared}) {
        kvzip::options const now{.sinks = opt.sinks, .squared = squared};
        evidence const ev{probe.all(with_keys, parts)};
        auto const scores = data::scores_by(pipeline{kvzip{now}}, ragged.view(), ev);
        REQUIRE(scores.size() == 8 * 101);
        auto const kept = data::kept_by(pipeline{kvzip{now}, top_k{{.budget = 20, .recent = 2}}},
                                        ragged.view(), ev);
        REQUIRE(kept.size() == 8);
        for (index_t r = 0; r < 8; ++r) {
          index_t const n = lengths[static_cast<std::size_t>(r / 2)];
          auto const expected = probe.expected(c, r, n, with_keys, parts, now);
          double most = 0;
          for (double const y : expected) most = std::isinf(y) ? most : std::max(most, y);
          for (index_t t = 0; t < 101; ++t)
            agree(scores[static_cast<std::size_t>(r * 101 + t)],
                  t < n ? expected[static_cast<std::size_t>(t)] : 0.0, most);
          CHECK(kept[static_cast<std::size_t>(r)] == reference::keep(expected, 20, 0, 2));
        }
      }
  }
}

TEST_CASE("kvzip's probes may have any type", "[kvzip]") {
  data::cache const c({.tokens = 40, .head_dim = 16});
  probing<float> const a(c.shape, 70);
  probing<bf16> const b(c.shape, 70);  // the same values
  std::vector<probe_stretch> const parts{{3, 60, 5, 30}};
  CHECK(data::scores_by(pipeline{kvzip{}}, c.view(), evidence{a.all(true, parts)}) ==
        data::scores_by(pipeline{kvzip{}}, c.view(), evidence{b.all(true, parts)}));
}

TEST_CASE("kvzip of one query over all tokens is that query's attention", "[kvzip]") {
  data::cache const c({.kv_heads = 1, .group = 1, .tokens = 50, .head_dim = 16});
  auto const scores =
      data::scores_by(pipeline{kvzip{{.sinks = 0}}}, c.view(), evidence{probes{c.queries(1)}});
  auto const p = reference::weights(oracle::window(c, 0, 0, 1)[0][0], oracle::keys(c, 0, 0), 50);
  for (std::size_t t = 0; t < 50; ++t) CHECK(std::abs(scores[t] - p[t]) <= tolerance::accumulated);
}

TEST_CASE("kvzip's heads may change places, biases hide and pins hold", "[kvzip]") {
  data::cache const c({.kv_heads = 3, .tokens = 50, .head_dim = 16});
  auto const other = data::reversed_heads(c);
  data::kept_sets fewer(3);
  for (index_t const budget : {1, 4, 5, 20, 49, 60}) {
    auto const policy = pipeline{kvzip{}, top_k{{.budget = budget}}};
    auto const kept = data::kept_by(policy, c.view(), evidence{probes{c.queries(64)}});
    CHECK(data::contains(kept, fewer));
    CHECK(data::reversed_heads(
              data::kept_by(policy, other.view(), evidence{probes{other.queries(64)}}), 3) == kept);
    fewer = kept;
  }
  auto view = c.view();
  std::vector<float> bias(50, 0.0f);
  bias[9] = -std::numeric_limits<float>::infinity();
  view.bias = bias.data();
  evidence const ev{probes{c.queries(64)}};
  CHECK(data::scores_by(pipeline{kvzip{}}, view, ev)[9] == 0.0f);
  std::fill(bias.begin(), bias.end(), -std::numeric_limits<float>::infinity());
  for (std::size_t t = 4; t < 50; ++t)
    CHECK(data::scores_by(pipeline{kvzip{}}, view, ev)[t] == 0.0f);
  view = c.view();
  std::vector<std::uint8_t> valid(50, 1);
  valid[13] = valid[27] = 2;
  view.valid = valid.data();
  CHECK(data::kept_by(pipeline{kvzip{}, top_k{{.budget = 2}}}, view, ev) ==
        data::kept_sets(3, {13, 27}));
}

TEST_CASE("kvzip refuses what it cannot use", "[kvzip]") {
  data::cache const c({.tokens = 12, .head_dim = 16});
  probing<float> probe(c.shape, 9);
  auto const by = [&](probes<> const& x, kvzip::options const& opt = {}) {
    return data::compressed(pipeline{kvzip{opt}, top_k{{.budget = 4}}}, c.view(), evidence{x})
        .result.code;
  };
  std::vector<probe_stretch> parts{{0, 4, 0, 6}, {4, 5, 6, 6}};
  auto const changed = [&](auto const& change) {
    auto x = probe.all(true, parts);
    change(x);
    return by(x);
  };
  CHECK(changed([](auto&) {}) == errc::ok);
  CHECK(by(probe.all(true, parts), {.sinks = -1}) == errc::invalid_option);
  CHECK(changed([](auto& x) { x.queries = {}; }) == errc::invalid_pointer);
  CHECK(changed([](auto& x) { x.queries.heads = 3; }) == errc::invalid_shape);
  CHECK(changed([](auto& x) { x.keys.heads = 1; }) == errc::invalid_shape);
  CHECK(changed([](auto& x) { x.keys.tokens = 8; }) == errc::invalid_shape);
  CHECK(changed([](auto& x) { x.stretches.data = nullptr; }) == errc::invalid_pointer);
  for (probe_stretch const& wrong :
       {probe_stretch{4, 6, 6, 6}, probe_stretch{-1, 5, 6, 6}, probe_stretch{4, -1, 6, 6},
        probe_stretch{4, 5, 5, 6}, probe_stretch{4, 5, 6, -1},
        probe_stretch{index_t{1} << 62, 5, 6, 6}, probe_stretch{4, 5, index_t{1} << 62, 6},
        probe_stretch{4, 5, 6, index_t{1} << 62}}) {
    parts[1] = wrong;
    CHECK(by(probe.all(true, parts)) == errc::invalid_shape);
  }
  parts[1] = {4, 5, 6, index_t{1} << 29};  // beyond the cache: nothing there
  CHECK(by(probe.all(true, parts)) == errc::ok);
  probe.own[3] = std::numeric_limits<float>::quiet_NaN();
  CHECK(by(probe.all(true, parts)) == errc::non_finite);
  CHECK(by(probe.all(false, parts)) == errc::ok);
  probe.q[3] = std::numeric_limits<float>::infinity();
  CHECK(by(probe.all(false, parts)) == errc::non_finite);
}
