// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

namespace {

/// Every stored channel lies within half a step of its token's own range.
template <int Bits>
void check_steps(data::shape const& s, unsigned seed) {
  data::cache const c(s, seed);
  data::compressed const run(int_per_token<Bits, f16, float>{}, c.view());
  REQUIRE(run.result.ok());
  CHECK(run.intact());
  auto const check = [&](std::vector<double> const& row, auto const& stored) {
    auto const g = reference::affine(row, Bits);
    double const most = std::abs(g.low) + g.step * ((1 << Bits) - 1);
    for (std::size_t d = 0; d < row.size(); ++d)
      REQUIRE(std::abs(stored(static_cast<index_t>(d)) - row[d]) <=
              g.step / 2 + tolerance::elementwise * most);
  };
  for (index_t r = 0; r < s.rows(); ++r) {
    auto const k = oracle::keys(c, r / s.kv_heads, r % s.kv_heads),
               v = oracle::values(c, r / s.kv_heads, r % s.kv_heads);
    for (index_t t = 0; t < s.tokens; ++t) {
      check(k[static_cast<std::size_t>(t)], [&](index_t d) { return run.packed.key(r, t, d); });
      check(v[static_cast<std::size_t>(t)], [&](index_t d) { return run.packed.value(r, t, d); });
    }
  }
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
}

}  // namespace

TEST_CASE("int_per_token names its codecs", "[int_per_token]") {
  int_per_token<8, f16, float> const policy{{.residual = 3}};
  CHECK(policy.key_codec().residual == 3);
  CHECK(policy.value_codec().residual == 3);
  CHECK(policy.key_codec().sizes(64, 1).block_bytes == 32 * 64 + 2 * 4 * 32);
  CHECK(policy.value_codec().sizes(64, 1).block_bytes == 2 * 128 + 2 * 4 * 4);
  CHECK(int_per_token<4>{}.key_codec().sizes(64, 1).block_bytes == 32 * 32 + 2 * 2 * 32);
}

TEST_CASE("a token's channels lie within half a step of its own range", "[int_per_token]") {
  check_steps<8>({.tokens = 70, .head_dim = 64}, 1);
  check_steps<4>({.tokens = 70, .head_dim = 64}, 2);
  check_steps<8>({.sequences = 2, .kv_heads = 1, .group = 8, .tokens = 33, .head_dim = 80}, 3);
  check_steps<4>({.kv_heads = 3, .group = 1, .tokens = 1, .head_dim = 4}, 4);
  check_steps<4>({.tokens = 40, .head_dim = 64, .value_dim = 128}, 5);
}

TEST_CASE("parameters in 16 bits cost little more than the step", "[int_per_token]") {
  data::cache const c({.tokens = 90, .head_dim = 80});
  auto const error = [&](auto policy) {
    data::compressed const run(policy, c.view());
    REQUIRE(run.result.ok());
    return data::life(run.packed, c).storage_error();
  };
  CHECK(error(int_per_token<8>{}) <= tolerance::eight_bits);
  CHECK(error(int_per_token<4>{}) <= tolerance::four_bits);
}

TEST_CASE("a token's bytes are what the header says", "[int_per_token]") {
  auto const per_token = [](auto policy, index_t dim) {  // of whole blocks, beyond the first
    auto const bytes = [&](index_t tokens) {
      return make_plan(policy, extents{1, 1, tokens, dim}).packed_bytes();
    };
    return static_cast<double>(bytes(4096) - bytes(2048)) / 2048;
  };
  CHECK(per_token(int_per_token<8>{}, 64) == (64 + 2 * 2) + (64 + 2 * 2));
  CHECK(per_token(int_per_token<4>{}, 128) == (64 + 2 * 2) + (64 + 2 * 2));
  CHECK(per_token(int_per_token<3>{}, 64) == (24 + 2 * 2) + (24 + 2 * 2));
  // Channels of V fill up units of 32.
  CHECK(per_token(int_per_token<4, f16, float>{}, 80) == (40 + 2 * 4) + (48 + 2 * 4));
  CHECK(per_token(int_per_token<8, bf16, bf16>{}, 4) == (4 + 2 * 2) + (32 + 2 * 2));
}

TEST_CASE("the newest tokens stay exact until they are settled", "[int_per_token]") {
  data::cache const c({.group = 4, .tokens = 50, .head_dim = 32});
  data::compressed const run(int_per_token<4>{{.residual = 9}}, c.view(), {},
                             {.append_tokens = 20});
  REQUIRE(run.result.ok());
  auto const exact_from = [&](index_t first) {
    for (index_t h = 0; h < 2; ++h)
      for (index_t t = first; t < 50; ++t)
        for (index_t d = 0; d < 32; ++d) {
          if (run.packed.key(h, t, d) != to_float(from_float<f16>(c.key(0, h, t, d)))) return false;
          if (run.packed.value(h, t, d) != to_float(from_float<f16>(c.value(0, h, t, d))))
            return false;
        }
    return true;
  };
  CHECK(exact_from(41));
  CHECK_FALSE(exact_from(40));
  data::life life(run.packed, c);
  for (int i = 0; i < 20; ++i) {
    REQUIRE(life.append().ok());
    REQUIRE(life.settle().ok());
  }
  CHECK(life.intact());
  CHECK_FALSE(exact_from(49));  // all of the prompt is coded now
  CHECK(life.storage_error() <= tolerance::four_bits);
  CHECK(run.packed.tokens(0, 1) == 70);
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
}

TEST_CASE("tokens of equal channels, of zeros and of one step come back as they were",
          "[int_per_token]") {
  data::cache c({.kv_heads = 1, .tokens = 4, .head_dim = 8});
  float const values[] = {0.0f, -0.0f, 2.5f, -1024.0f};
  for (index_t t = 0; t < 4; ++t)
    for (index_t d = 0; d < 8; ++d)
      c.k[static_cast<std::size_t>(t * 8 + d)] = values[static_cast<std::size_t>(t)];
  for (index_t i = 0; i < 4 * 8; ++i)
    c.v[static_cast<std::size_t>(i)] = i % 2 == 0 ? 3.0f : -12.0f;  // 15 steps of one apart
  data::compressed const run(int_per_token<4>{}, c.view());
  REQUIRE(run.result.ok());
  for (index_t t = 0; t < 4; ++t)
    for (index_t d = 0; d < 8; ++d) {
      CHECK(run.packed.key(0, t, d) == c.key(0, 0, t, d));
      CHECK(run.packed.value(0, t, d) == c.value(0, 0, t, d));
    }
}

TEST_CASE("one token's outlier is no other token's affair", "[int_per_token]") {
  data::cache c({.kv_heads = 1, .tokens = 40, .head_dim = 64});
  data::compressed const before(int_per_token<8>{}, c.view());
  c.k[5 * 64 + 7] = 6e4f;
  c.v[5 * 64 + 9] = -6e4f;
  data::compressed const after(int_per_token<8>{}, c.view());
  REQUIRE(before.result.ok());
  REQUIRE(after.result.ok());
  for (index_t t = 0; t < 40; ++t)
    for (index_t d = 0; d < 64; ++d) {
      if (t == 5) continue;
      REQUIRE(before.packed.key(0, t, d) == after.packed.key(0, t, d));
      REQUIRE(before.packed.value(0, t, d) == after.packed.value(0, t, d));
    }
}

TEST_CASE("int_per_token refuses shapes and residuals it cannot store", "[int_per_token]") {
  auto const code = [](auto policy, index_t dim) {
    return make_plan(policy, extents{1, 2, 10, dim}).check().code;
  };
  CHECK(code(int_per_token<8>{}, 66) == errc::invalid_shape);
  CHECK(code(int_per_token<4>{}, 2) == errc::invalid_shape);
  CHECK(code(int_per_token<4>{}, 4) == errc::ok);
  CHECK(code(int_per_token<4>{{.residual = -1}}, 64) == errc::invalid_option);
  CHECK(code(int_per_token<4>{{.residual = (index_t{1} << 20) + 1}}, 64) == errc::invalid_option);
  CHECK(code(int_per_token<4>{{.residual = index_t{1} << 20}}, 64) == errc::ok);
}
