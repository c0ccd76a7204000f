// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// MiniCache: the directions, magnitudes and retained tokens of KVCache-Factory's code and of the
// reference, read where they lie.

#include "reference/minicache.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

namespace {

/// Neighbouring layers of random text: alike, but less so every seventh token.
data::cache layers(index_t sequences, index_t heads, index_t tokens, index_t dim,
                   index_t value_dim = 0) {
  data::cache c({.sequences = sequences,
                 .kv_heads = heads,
                 .tokens = tokens,
                 .head_dim = dim,
                 .value_dim = value_dim});
  std::mt19937 engine(5);
  std::normal_distribution<float> normal;
  auto const follow = [&](std::vector<float>& x, index_t wide) {
    auto const layer = static_cast<std::size_t>(heads * tokens * wide);
    for (std::size_t pair = 0; pair + layer < x.size(); pair += 2 * layer)
      for (std::size_t i = 0; i < layer; ++i) {
        float const noise = static_cast<index_t>(i) / wide % 7 == 3 ? 2.0f : 0.3f;
        x[pair + layer + i] = 1.5f * x[pair + i] + noise * normal(engine);
      }
  };
  follow(c.k, dim);
  follow(c.v, c.shape.value_width());
  return c;
}

/// Rows [first, first + n) of a matrix.
reference::matrix part(reference::matrix const& x, index_t first, index_t n) {
  return {x.begin() + first, x.begin() + first + n};
}

double relative(std::vector<double> const& got, std::vector<double> const& expected) {
  double error = 0, size = 1e-30;
  for (std::size_t d = 0; d < got.size(); ++d) {
    error += (got[d] - expected[d]) * (got[d] - expected[d]);
    size += expected[d] * expected[d];
  }
  return std::sqrt(error / size);
}

template <class Packed>
std::vector<double> key_of(Packed const& packed, index_t r, index_t t) {
  std::vector<double> x;
  for (index_t d = 0; d < packed.extents().head_dim; ++d) x.push_back(packed.key(r, t, d));
  return x;
}
template <class Packed>
std::vector<double> value_of(Packed const& packed, index_t r, index_t t) {
  std::vector<double> x;
  for (index_t d = 0; d < packed.extents().value_width(); ++d) x.push_back(packed.value(r, t, d));
  return x;
}

/// Every stored row is what the reference makes of its block; behind the last block it is exact.
template <class T, class Packed>
void check_rows(Packed const& packed, data::cache const& c, minicache<T> const& policy,
                double tolerance) {
  auto const& o = policy.opt;
  index_t const heads = c.shape.kv_heads, n = c.shape.tokens, coded = n - n % o.block;
  bool const layered = o.rows.sequences == 2;
  for (index_t r = 0; r < c.shape.rows(); ++r) {
    index_t const s = r / heads, h = r % heads;
    if ((layered ? s : h) % 2 != 0) continue;
    index_t const s2 = layered ? s + 1 : s, h2 = layered ? h : h + 1, r2 = s2 * heads + h2;
    for (bool const keys : {true, false}) {
      auto const a = keys ? oracle::keys(c, s, h) : oracle::values(c, s, h);
      auto const b = keys ? oracle::keys(c, s2, h2) : oracle::values(c, s2, h2);
      auto const got = [&](index_t row, index_t t) {
        return keys ? key_of(packed, row, t) : value_of(packed, row, t);
      };
      for (index_t first = 0; first < coded; first += o.block) {
        auto const expected =
            reference::minicache(part(a, first, o.block), part(b, first, o.block),
                                 static_cast<double>(o.retained), static_cast<double>(o.depth));
        for (index_t t = 0; t < o.block; ++t) {
          auto const at = static_cast<std::size_t>(t);
          CHECK(relative(got(r, first + t), expected.first[at]) <= tolerance);
          CHECK(relative(got(r2, first + t), expected.second[at]) <= tolerance);
        }
      }
      for (index_t t = coded; t < n; ++t) {
        CHECK(relative(got(r, t), a[static_cast<std::size_t>(t)]) <= tolerance);
        CHECK(relative(got(r2, t), b[static_cast<std::size_t>(t)]) <= tolerance);
      }
    }
  }
}

template <class T>
void check(data::cache const& c, minicache<T> const& policy, double tolerance) {
  data::compressed const run(policy, c.view(), evidence<>{}, {.append_tokens = 3});
  INFO(run.result.message);
  REQUIRE(run.result.ok());
  CHECK(run.intact());
  check_rows(run.packed, c, policy, tolerance);
  CHECK(oracle::attend_error(run.packed, c, 2) <= tolerance::attend);
}

}  // namespace

TEST_CASE("minicache stores what KVCache-Factory's code restores", "[minicache]") {
  golden const g("minicache");
  index_t const heads = 2, tokens = 96, dim = 8;
  data::cache c({.sequences = 2, .kv_heads = heads, .tokens = tokens, .head_dim = dim});
  auto const first = g.floats("previous"), second = g.floats("current");
  std::copy(first.begin(), first.end(), c.k.begin());
  std::copy(second.begin(), second.end(), c.k.begin() + std::ssize(first));
  c.v = c.k;
  struct {
    char const* name;
    index_t block;
    float retained;
  } const cases[] = {{"_96_5", 96, 0.05f}, {"_32_5", 32, 0.05f}, {"_32_30", 32, 0.3f}};
  for (auto const& one : cases) {
    INFO(one.name);
    minicache<float> const policy{{.retained = one.retained, .block = one.block}};
    data::compressed const run(policy, c.view(), evidence<>{});
    REQUIRE(run.result.ok());
    auto const previous = g[std::string("previous") + one.name],
               current = g[std::string("current") + one.name],
               retained = g[std::string("retained") + one.name];
    auto const each = static_cast<index_t>(retained.size()) / heads;
    for (index_t h = 0; h < heads; ++h)
      for (index_t t = 0; t < tokens; ++t) {
        auto const row = (h * tokens + t) * dim;
        std::vector<double> const a(previous.begin() + row, previous.begin() + row + dim);
        std::vector<double> const b(current.begin() + row, current.begin() + row + dim);
        // The token that is zero comes back at their floor, 1e-6, instead.
        bool const zero = h == 0 && t == 40;
        if (!zero) CHECK(relative(key_of(run.packed, h, t), a) <= tolerance::accumulated);
        CHECK(relative(key_of(run.packed, heads + h, t), b) <= tolerance::accumulated);
        CHECK(relative(value_of(run.packed, heads + h, t), b) <= tolerance::accumulated);
        auto const keys = run.packed.keys(h);
        bool const theirs =
            std::find(retained.begin() + h * each, retained.begin() + (h + 1) * each,
                      static_cast<double>(t)) != retained.begin() + (h + 1) * each;
        CHECK(keys.codec.retained(keys.block(t), keys.at(t % one.block, 1, t)) == theirs);
      }
  }
}

TEST_CASE("minicache matches the reference", "[minicache]") {
  check(layers(2, 2, 150, 32), minicache<float>{}, tolerance::accumulated);
  check(layers(4, 1, 70, 80, 48), minicache<float>{{.retained = 0.2f, .block = 32}},
        tolerance::accumulated);
  check(layers(2, 8, 64, 64), minicache<float>{{.depth = 0.25f}}, tolerance::accumulated);
  check(layers(1, 4, 100, 16), minicache<float>{{.block = 32, .rows = {1, 2}}},
        tolerance::accumulated);
  check(layers(2, 2, 150, 32), minicache<f16>{}, tolerance::f16_storage);
  check(layers(2, 1, 150, 5), minicache<f16>{{.retained = 0.3f, .block = 96}},
        tolerance::f16_storage);
  check(layers(2, 2, 40, 32), minicache<f16>{}, tolerance::f16_storage);  // no whole block
}

TEST_CASE("minicache keeps lengths, and equal layers as they are", "[minicache]") {
  auto c = layers(2, 2, 64, 32);
  data::compressed const run(minicache<float>{}, c.view(), evidence<>{});
  REQUIRE(run.result.ok());
  for (index_t r = 0; r < 4; ++r)
    for (index_t t = 0; t < 64; ++t) {
      auto const x = key_of(run.packed, r, t);
      auto const exact = oracle::keys(c, r / 2, r % 2)[static_cast<std::size_t>(t)];
      CHECK(std::abs(std::sqrt(reference::dot(x, x)) / std::sqrt(reference::dot(exact, exact)) -
                     1) <= tolerance::accumulated);
    }
  auto const ends = [&](float depth, index_t same) {  // one layer's direction alone
    data::compressed const one(minicache<float>{{.retained = 0.0f, .depth = depth}}, c.view(),
                               evidence<>{});
    REQUIRE(one.result.ok());
    for (index_t h = 0; h < 2; ++h)
      for (index_t t = 0; t < 64; ++t)
        CHECK(relative(key_of(one.packed, same * 2 + h, t),
                       oracle::keys(c, same, h)[static_cast<std::size_t>(t)]) <=
              tolerance::accumulated);
  };
  ends(0.0f, 0);
  ends(1.0f, 1);
  std::copy(c.k.begin(), c.k.begin() + std::ssize(c.k) / 2, c.k.begin() + std::ssize(c.k) / 2);
  data::compressed const equal(minicache<float>{{.retained = 0.0f}}, c.view(), evidence<>{});
  REQUIRE(equal.result.ok());
  for (index_t r = 0; r < 4; ++r)
    CHECK(relative(key_of(equal.packed, r, 9), oracle::keys(c, r / 2, r % 2)[9]) <=
          tolerance::accumulated);
}

TEST_CASE("minicache counts every byte, and stays finite on hard tokens", "[minicache]") {
  auto c = layers(2, 1, 128, 64);
  auto const layout = make_plan(minicache<f16>{}, c.view().extents()).layout();
  auto const sizes = layout.key_sizes(128);
  // The mask, 64 directions, 2 x 64 magnitudes and ceil(0.05 * 64) second rows, all f16.
  CHECK(sizes.block_bytes == 8 + 2 * (64 * 64 + 2 * 64 + 4 * 64));
  CHECK(layout.parts(128, 1).key_tail == 0);  // the second layer's row has no blocks
  auto const stored = layout.parts(128, 0).key_tail + layout.parts(128, 1).key_tail;
  CHECK(static_cast<double>(stored) / (2 * 128 * 64 * 2) < 0.56);
  for (std::size_t d = 0; d < 64; ++d) {
    c.k[64 * 5 + d] = 0.0f;                            // no direction in one layer
    c.k[64 * 6 + d] = c.k[64 * (128 + 6) + d] = 0.0f;  // nor in both
    c.k[64 * (128 + 8) + d] = -c.k[64 * 8 + d];        // opposite
    c.k[64 * 9 + d] = c.k[64 * (128 + 9) + d] = d == 3 ? 65504.0f : 0.0f;
    c.k[64 * 10 + d] = c.k[64 * (128 + 10) + d] = 65504.0f;
    c.k[64 * 11 + d] = 1e-30f;
  }
  data::compressed const run(minicache<f16>{}, c.view(), evidence<>{});
  REQUIRE(run.result.ok());
  for (index_t r = 0; r < 2; ++r)
    for (index_t t = 0; t < 128; ++t)
      for (double const x : key_of(run.packed, r, t)) CHECK(std::isfinite(x));
  for (double const x : key_of(run.packed, 1, 6)) CHECK(x == 0);
  auto const opposite = key_of(run.packed, 1, 8);
  for (std::size_t d = 0; d < 64; ++d)
    CHECK(opposite[d] == static_cast<double>(to_float(from_float<f16>(c.k[64 * 136 + d]))));
  CHECK(relative(key_of(run.packed, 1, 10), oracle::keys(c, 1, 0)[10]) <= tolerance::f16_storage);
}

TEST_CASE("minicache goes on while tokens come", "[minicache]") {
  auto const c = layers(2, 2, 90, 32);
  data::compressed const run(minicache<f16>{{.block = 32}}, c.view(), evidence<>{},
                             {.append_tokens = 80});
  REQUIRE(run.result.ok());
  data::life life(run.packed, c);
  for (int i = 0; i < 40; ++i) {
    REQUIRE(life.append(2).ok());
    REQUIRE(life.settle().ok());
  }
  CHECK(run.packed.raw_row(3).key_coded == 160);
  CHECK(run.packed.raw_row(3).slots == 170);
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  CHECK(life.intact());
  // A block that came later retains its share too: some of its rows are as they were given.
  auto const keys = run.packed.keys(0);
  int retained = 0;
  for (index_t t = 128; t < 160; ++t)
    retained += keys.codec.retained(keys.block(t), keys.at(t % 32, 1, t)) ? 1 : 0;
  CHECK(retained == 2);
  CHECK(rewind(run.packed, 10).ok());
  CHECK(rewind(run.packed, 1).code == errc::unsupported);
}

TEST_CASE("minicache after a selection that both layers share", "[minicache]") {
  auto const c = layers(2, 2, 150, 32);
  top_k const keep{{.budget = 70, .sinks = 2, .recent = 5}};
  minicache<f16> const codec{{.block = 32}};
  data::compressed const run(pipeline{shared{knorm{}, {2, 1}}, keep, codec}, c.view(),
                             evidence<>{});
  REQUIRE(run.result.ok());
  CHECK(run.kept(0, 1) == run.kept(1, 1));
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  // Layers that keep tokens of their own cannot share a direction.
  data::compressed const apart(pipeline{knorm{}, keep, codec}, c.view(), evidence<>{});
  CHECK(apart.result.code == errc::unsupported);
  CHECK(apart.storage.untouched());
  // Cells in any order and padding store the same.
  data::shuffled const mixed(c, 11);
  pipeline const heads{shared{knorm{}, {1, 2}}, keep,
                       minicache<f16>{{.block = 32, .rows = {1, 2}}}};
  data::compressed const plain(heads, c.view(), evidence<>{});
  data::compressed const other(heads, mixed.view(), evidence<>{});
  REQUIRE(plain.result.ok());
  REQUIRE(other.result.ok());
  for (index_t r = 0; r < 4; ++r)
    for (index_t t = 0; t < 70; ++t)
      CHECK(key_of(other.packed, r, t) == key_of(plain.packed, r, t));
}

TEST_CASE("minicache refuses what it cannot store", "[minicache]") {
  extents const e{2, 2, 64, 32};
  auto const refused = [&](minicache<f16>::options const& o, extents const& shape) {
    return make_plan(minicache<f16>{o}, shape).check().code;
  };
  CHECK(refused({}, e) == errc::ok);
  CHECK(refused({.retained = 1.0f}, e) == errc::ok);
  CHECK(refused({.retained = -0.1f}, e) == errc::invalid_option);
  CHECK(refused({.retained = std::nanf("")}, e) == errc::invalid_option);
  CHECK(refused({.depth = 1.1f}, e) == errc::invalid_option);
  CHECK(refused({.block = 48}, e) == errc::invalid_option);
  CHECK(refused({.block = 0}, e) == errc::invalid_option);
  CHECK(refused({.block = 8192}, e) == errc::invalid_option);
  CHECK(refused({.rows = {2, 2}}, e) == errc::invalid_option);
  CHECK(refused({.rows = {1, 1}}, e) == errc::invalid_option);
  CHECK(refused({}, {3, 2, 64, 32}) == errc::invalid_shape);  // the last layer has no partner
  CHECK(refused({}, {2, 2, 64, 1}) == errc::invalid_shape);
  CHECK(make_plan(minicache<float>{}, extents{2, 2, 64, 1}).check().ok());
  auto c = layers(2, 2, 64, 32);
  c.k[70] = std::numeric_limits<float>::infinity();
  data::compressed const run(minicache<f16>{}, c.view(), evidence<>{});
  CHECK(run.result.code == errc::non_finite);
  CHECK(run.storage.untouched());
  // Another codec's form is foreign.
  using key = decltype(minicache<f16>{}.key_codec());
  key out;
  auto form = key{}.written();
  CHECK(key::read(form, out).ok());
  form.words[2] = 33;
  CHECK(key::read(form, out).code == errc::foreign);
  CHECK(key::read(dense_key<f16>{}.written(), out).code == errc::foreign);
}

TEST_CASE("a damaged block of minicache is read within its bytes", "[minicache]") {
  auto const c = layers(2, 1, 64, 16);
  data::compressed const run(minicache<f16>{}, c.view(), evidence<>{});
  REQUIRE(run.result.ok());
  auto const keys = run.packed.keys(1);
  std::memset(keys.blocks, 0xff, 8);  // all exact, where there is room for four
  auto const size = static_cast<std::ptrdiff_t>(keys.sizes.block_bytes);
  std::vector<std::byte> const alone(keys.blocks, keys.blocks + size);  // for the sanitizer
  for (index_t t = 0; t < 64; ++t)
    for (index_t d = 0; d < 16; ++d)
      static_cast<void>(keys.codec.decode(alone.data(), keys.at(t, 1, t), d));
}
