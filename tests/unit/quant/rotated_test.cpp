// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// The Hadamard rotation and codecs behind it: QuaRot's values, orthogonality, and caches that live.

#include "reference/rotated.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

namespace {

std::vector<float> turned(std::vector<float> x, std::uint64_t seed, bool back) {
  ops::rotate_by_hadamard(x.data(), static_cast<index_t>(x.size()), seed, back);
  return x;
}

double apart(std::vector<float> const& a, std::vector<float> const& b) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error += std::pow(double{a[i]} - b[i], 2);
    norm += std::pow(double{b[i]}, 2);
  }
  return std::sqrt(error / norm);
}

/// Appended, taken out, coded; attention stays what the stored cache decodes to.
template <class Policy>
void live(Policy const& policy, data::shape const& shape, bool evicts) {
  CAPTURE(shape.head_dim, shape.value_dim, shape.group, shape.tokens);
  data::cache const c(shape);
  data::compressed const run(policy, c.view(), evidence<>{},
                             {.append_tokens = 50, .draft_tokens = 2, .evicts = evicts});
  INFO(run.result.message);
  REQUIRE(run.result.ok());
  CHECK(run.intact());
  CHECK(oracle::attend_error(run.packed, c, 2) <= tolerance::attend);
  data::life life(run.packed, c);
  for (int i = 0; i < 8; ++i) {
    REQUIRE(life.append(i % 2 + 1).ok());
    std::vector<std::int32_t> victims(static_cast<std::size_t>(shape.rows()), i);
    if (evicts && i < shape.tokens) REQUIRE(evict(cpu{}, run.packed, victims.data()).ok());
    REQUIRE(life.settle().ok());
  }
  CHECK(life.intact());
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  std::vector<std::byte> bytes(serialized_bytes(run.packed));
  REQUIRE(serialize(run.packed, bytes.data(), bytes.size()).ok());
  data::buffer storage(run.plan.packed_bytes());
  packed_cache const other(run.plan, storage);
  REQUIRE(deserialize(bytes.data(), bytes.size(), other).ok());
  CHECK(oracle::attend_error(other, c) <= tolerance::attend);
}

}  // namespace

TEST_CASE("rows are rotated and coded as QuaRot's", "[rotated]") {
  golden const g("rotated");
  for (index_t const n : {4, 20, 24, 64, 72, 80, 96, 112, 128, 160, 192, 256}) {
    CAPTURE(n);
    auto const name = "_" + std::to_string(n);
    auto const x = g.floats("x" + name), y = g.floats("rotated" + name),
               z = g.floats("back" + name);
    rotated const policy{int_per_token<4, float, float>{}};
    auto const keys = policy.key_codec();
    REQUIRE(keys.check(n).ok());
    std::vector<std::byte> block(static_cast<std::size_t>(keys.sizes(n, 3).block_bytes));
    std::vector<float> rows = y;
    keys.inner.encode(rows.data(), {.n = 3, .dim = n}, block.data());
    std::size_t differ = 0;
    for (index_t t = 0; t < 3; ++t) {
      std::vector<float> const row(x.begin() + t * n, x.begin() + (t + 1) * n),
          expected(y.begin() + t * n, y.begin() + (t + 1) * n),
          transposed(z.begin() + t * n, z.begin() + (t + 1) * n);
      CHECK(apart(turned(row, 0, false), expected) <= tolerance::elementwise);
      CHECK(apart(turned(row, 0, true), transposed) <= tolerance::elementwise);
      auto const at = static_cast<std::size_t>(t);
      auto const a = keys.inner.parameters(block.data(), n)[t];
      CHECK(a.scale == g.floats("scale" + name)[at]);
      CHECK(a.low == g.floats("low" + name)[at]);
      for (index_t d = 0; d < n; ++d)
        differ += keys.inner.code(block.data(), {.first = t, .dim = n}, d) !=
                  static_cast<std::uint32_t>(g["code" + name][static_cast<std::size_t>(t * n + d)]);
    }
    CHECK(differ == 0);
  }
}

TEST_CASE("the rotation is a matrix of Hadamard and its inverse", "[rotated]") {
  std::mt19937 engine(3);
  std::normal_distribution<float> normal;
  for (index_t const n :
       {1, 2, 12, 20, 28, 36, 40, 48, 56, 72, 80, 96, 112, 128, 144, 160, 320, 576, 1024}) {
    CAPTURE(n);
    std::vector<float> x(static_cast<std::size_t>(n));
    for (float& v : x) v = normal(engine);
    auto const h = reference::hadamard(static_cast<std::size_t>(n));
    auto const y = turned(x, 0, false);
    for (std::size_t i = 0; i < x.size(); ++i) {
      double sum = 0;
      for (std::size_t j = 0; j < x.size(); ++j) {
        sum += h[i][j] * x[j];
        if (n <= 160)
          REQUIRE(
              std::abs(ops::hadamard_entry(n, 0, static_cast<index_t>(i), static_cast<index_t>(j)) -
                       h[i][j]) <= tolerance::elementwise);
      }
      CHECK(std::abs(sum - y[i]) <= tolerance::accumulated * std::sqrt(double(n)));
    }
    for (std::uint32_t const seed : {0u, 1u, 77u}) {
      CHECK(apart(turned(turned(x, seed, false), seed, true), x) <= tolerance::elementwise);
      CHECK(apart(turned(turned(x, seed, true), seed, false), x) <= tolerance::elementwise);
    }
  }
  for (index_t const n : {0, 3, 5, 10, 14, 18, 60, 100, 108})
    CHECK(ops::order_of_hadamard(n).small == 0);
}

TEST_CASE("rotated caches live", "[rotated]") {
  for (data::shape const& shape :
       {data::shape{.sequences = 2, .kv_heads = 2, .group = 4, .tokens = 70, .head_dim = 80},
        data::shape{.kv_heads = 1, .group = 1, .tokens = 1, .head_dim = 64},
        data::shape{.kv_heads = 2, .group = 8, .tokens = 40, .head_dim = 96, .value_dim = 48}}) {
    live(rotated{int_per_token<4>{{.residual = 5}}, {.seed = 9}}, shape, true);
    live(rotated{int_per_token<8, float, bf16>{}}, shape, true);
    live(rotated{kivi<2>{{.residual = 32, .value_group = 16}}}, shape, false);
    live(codec_pair{rotated_rows{channel_key<4>{.residual = 32}}, dense_value<f16>{}}, shape,
         false);
    live(codec_pair{dense_key<bf16>{}, rotated_rows{token_value<2>{}, 4}}, shape, true);
  }
  live(rotated{dense<float>{}}, {.kv_heads = 1, .group = 2, .tokens = 40, .head_dim = 256}, true);
  live(rotated{ggml<ggml_block::q4_0, ggml_block::q8_0>{}},
       {.kv_heads = 2, .group = 3, .tokens = 30, .head_dim = 128}, true);
}

TEST_CASE("a rotation alone changes nothing that attention sees", "[rotated]") {
  data::cache const c({.kv_heads = 2, .group = 3, .tokens = 300, .head_dim = 112});
  data::compressed const plain(dense<float>{}, c.view());
  data::compressed const turned(rotated{dense<float>{}, {.seed = 5}}, c.view());
  oracle::asked a(plain.packed, c.queries(1)), b(turned.packed, c.queries(1));
  REQUIRE(attend(cpu{}, plain.packed, a.request).ok());
  REQUIRE(attend(cpu{}, turned.packed, b.request).ok());
  CHECK(apart(b.out, a.out) <= tolerance::attend);
  CHECK(apart(b.lse, a.lse) <= tolerance::attend);
  CHECK(plain.packed.bytes() == turned.packed.bytes());
}

TEST_CASE("outliers cost less behind a rotation", "[rotated]") {
  data::shape const shape{.kv_heads = 1, .tokens = 64, .head_dim = 128};
  data::cache c(shape);
  for (std::size_t i = 0; i < c.k.size(); ++i)
    if (i % 128 == 17) c.k[i] *= 40;
  auto const error = [&](auto const& policy) {
    data::compressed const run(policy, c.view());
    REQUIRE(run.result.ok());
    double sum = 0;
    for (index_t t = 0; t < 34; ++t)
      for (index_t d = 0; d < 128; ++d)
        sum += std::pow(
            run.packed.key(0, t, d) - double{c.k[static_cast<std::size_t>(t * 128 + d)]}, 2);
    return sum;
  };
  CHECK(4 * error(rotated{int_per_token<4>{}}) < error(int_per_token<4>{}));
}

TEST_CASE("rotated says what it needs", "[rotated]") {
  auto const check = [](index_t dim) {
    return make_plan(rotated{int_per_token<8>{}}, {1, 1, 10, dim}).check();
  };
  CHECK(check(64).ok());
  CHECK(check(100).code == errc::invalid_shape);
  CHECK(check(2048).code == errc::invalid_shape);
  CHECK(make_plan(rotated{kivi<4>{{.residual = 33}}}, {1, 1, 10, 64}).check().code ==
        errc::invalid_option);
  data::cache c({.kv_heads = 1, .tokens = 8, .head_dim = 64});
  c.k[7] = 3000.0f;  // int_per_token takes it, a rotated one of 1024 channels might not
  data::compressed const run(rotated{int_per_token<8>{}}, c.view());
  CHECK(run.result.code == errc::non_finite);
  rotated const one{kivi<4>{{.group = 64, .residual = 128}}, {.seed = 3ull << 40}};
  auto const k = one.key_codec();
  rotated_rows<channel_key<4>> back;
  rotated_rows<channel_key<2>> other;
  REQUIRE(rotated_rows<channel_key<4>>::read(k.written(), back).ok());
  CHECK(back.written() == k.written());
  CHECK(back.seed == 3ull << 40);
  CHECK(rotated_rows<channel_key<2>>::read(k.written(), other).code == errc::foreign);
  CHECK(rotated_rows<channel_key<4>>::read(k.inner.written(), back).code == errc::foreign);
}
