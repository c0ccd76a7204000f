// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Floats of 8 bits with scales: torchao's codes, a double reference, and caches that live.

#include "reference/fp4.hpp"
#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/lives.hpp"
#include "support/stored.hpp"
#include "support/tolerance.hpp"

#include <limits>
#include <string>

using namespace kvslim;

namespace {

template <element T>
std::vector<double> values_of() {
  return std::same_as<T, e4m3> ? reference::e4m3_values() : reference::e5m2_values();
}
template <element T>
constexpr double half_step = std::same_as<T, e4m3> ? 0x1p-4 : 0x1p-3;

/// Every code of rows stored in groups of n is the reference's, and decodes to it.
template <element T, class Codec>
void check_codes(Codec const& codec, std::vector<float> const& x, index_t dim, index_t n) {
  CAPTURE(dim, n);
  data::stored const s(codec, x, dim), singly(codec, x, dim, 1);
  CHECK(singly.bytes == s.bytes);
  auto const values = values_of<T>();
  for (index_t t = 0; t < s.tokens; ++t)
    for (index_t d = 0; d < dim; ++d) {
      float most = 0;
      for (index_t c = d / n * n; c < d / n * n + n; ++c)
        most = std::max(most, std::abs(x[static_cast<std::size_t>(t * dim + c)]));
      float const scale = codec.scale > 0 ? codec.scale : most / static_cast<float>(values.back());
      float const v = x[static_cast<std::size_t>(t * dim + d)];
      // The quotient is rounded to a float, then to a code.
      double const expected =
          scale > 0 ? reference::fp8(v / scale, values) * static_cast<double>(scale) : 0.0;
      double const got = s.value(t, d);
      REQUIRE(std::abs(got - expected) <= tolerance::elementwise * std::abs(expected));
      REQUIRE(std::abs(got - v) <= half_step<T> * std::abs(static_cast<double>(v)) +
                                       values[1] * scale * (0.5 + tolerance::elementwise));
    }
}

}  // namespace

TEST_CASE("codes and scales are torchao's", "[golden][fp8]") {
  golden const g("fp8");
  auto const x = g.floats("x");
  auto const check = [&](auto const& codec, std::string const& name, index_t n) {
    CAPTURE(name);
    data::stored const s(codec, x, 64);
    for (index_t t = 0; t < 12; ++t)
      for (index_t d = 0; d < 64; ++d)
        REQUIRE(s.value(t, d) == g["value_" + name][static_cast<std::size_t>(t * 64 + d)]);
    // Twelve tokens of V lie as torchao's, their block being one of 32.
    auto const at = static_cast<std::size_t>(32 * 64);
    for (index_t t = 0; t < 12; ++t)
      for (index_t group = 0; group < 64 / n; ++group) {
        float scale;
        std::memcpy(&scale, s.bytes.data() + at + static_cast<std::size_t>(4 * (group * 32 + t)),
                    sizeof scale);
        REQUIRE(scale == g["scale_" + name][static_cast<std::size_t>(t * (64 / n) + group)]);
        for (index_t c = 0; c < n; ++c)
          REQUIRE(
              static_cast<double>(s.bytes[static_cast<std::size_t>(group * n * 32 + t * n + c)]) ==
              g["code_" + name][static_cast<std::size_t>(t * 64 + group * n + c)]);
      }
  };
  check(fp8_value<e4m3>{}, "e4m3_64", 64);
  check(fp8_value<e5m2>{}, "e5m2_64", 64);
  check(fp8_value<e4m3>{.group = 16}, "e4m3_16", 16);
  check(fp8_value<e5m2>{.group = 16}, "e5m2_16", 16);
  data::stored const keys(fp8_key<e4m3>{.group = 16}, x, 64);
  for (index_t t = 0; t < 12; ++t)
    for (index_t d = 0; d < 64; ++d)
      REQUIRE(keys.value(t, d) == g["value_e4m3_16"][static_cast<std::size_t>(t * 64 + d)]);
}

TEST_CASE("8-bit floats are the reference's", "[fp8]") {
  for (float const size : {1e-20f, 1.0f, 3e4f})
    for (index_t const dim : {1, 20, 64}) {
      auto const x = data::rows(37, dim, size, size, 4);
      check_codes<e4m3>(fp8_key<e4m3, float>{}, x, dim, dim);
      check_codes<e5m2>(fp8_value<e5m2, float>{}, x, dim, dim);
      if (dim % 4 == 0) {
        check_codes<e5m2>(fp8_key<e5m2, float>{.group = 4}, x, dim, 4);
        check_codes<e4m3>(fp8_value<e4m3, float>{.group = dim / 2}, x, dim, dim / 2);
      }
      check_codes<e4m3>(fp8_key<e4m3, float>{.scale = size * 0.1f}, x, dim, dim);
    }
  // Nothing but zeros has the scale 0.
  data::stored const zeros(fp8_key<>{}, std::vector<float>(128, -0.0f), 64);
  CHECK(zeros.value(1, 63) == 0.0f);
}

TEST_CASE("fp8 caches live", "[fp8]") {
  auto const live = [](auto const& policy, data::shape const& shape) {
    data::lives_coded(policy, shape, 35, half_step<e5m2>);
  };
  live(fp8<>{}, {.sequences = 2, .kv_heads = 1, .group = 4, .tokens = 75, .head_dim = 128});
  live(fp8<e5m2, e4m3>{{.residual = 9}},
       {.group = 8, .tokens = 33, .head_dim = 80, .value_dim = 3});
  live(fp8<>{{.group = 16}}, {.kv_heads = 1, .group = 11, .tokens = 50, .head_dim = 96});
  live(fp8<e4m3, e4m3, float>{{.key_scale = 0.05f, .value_scale = 0.02f}},
       {.kv_heads = 3, .group = 1, .tokens = 1, .head_dim = 72, .value_dim = 40});
  data::holds_budget(fp8<>{{.residual = 6, .group = 32}}, 40);
}

TEST_CASE("bits for each element of fp8 are the formula's", "[fp8]") {
  auto const bits = [](auto const& codec, index_t dim) {
    auto const z = codec.sizes(dim, 320);
    return 8 * 320 / z.block_tokens * z.block_bytes;
  };
  for (index_t const dim : {64, 80, 96, 128, 256}) {
    CHECK(bits(fp8_key<>{}, dim) == 320 * (8 * dim + 32));
    CHECK(bits(fp8_value<e5m2>{.group = 16}, dim) == 320 * dim * (8 + 2));
    CHECK(bits(fp8_key<>{.scale = 1.0f}, dim) == 320 * 8 * dim);
  }
}

TEST_CASE("fp8 says what it needs", "[fp8]") {
  auto const check = [](auto const& policy, index_t dim) {
    return make_plan(policy, {1, 1, 10, dim}).check().code;
  };
  float const inf = std::numeric_limits<float>::infinity();
  CHECK(check(fp8<>{}, 37) == errc::ok);
  CHECK(check(fp8<>{{.group = 16}}, 40) == errc::invalid_shape);
  CHECK(check(fp8<>{{.residual = -1}}, 64) == errc::invalid_option);
  CHECK(check(fp8<>{{.group = -4}}, 64) == errc::invalid_option);
  CHECK(check(fp8<>{{.group = 16, .key_scale = 1.0f}}, 64) == errc::invalid_option);
  for (float const odd : {-1.0f, inf, std::numeric_limits<float>::quiet_NaN(), 1e-35f})
    CHECK(check(fp8<>{{.value_scale = odd}}, 64) == errc::invalid_option);
  data::cache c({.kv_heads = 1, .tokens = 8, .head_dim = 64});
  c.v[9] = 100.0f;
  CHECK(data::compressed(fp8<>{{.value_scale = 0.2f}}, c.view()).result.code == errc::non_finite);
  CHECK(data::compressed(fp8<>{{.value_scale = 0.3f}}, c.view()).result.ok());
  c.k[9] = inf;
  data::compressed const refused(fp8<>{}, c.view());
  CHECK(refused.result.code == errc::non_finite);
  CHECK(refused.storage.untouched());
  fp8_key<> const key{3, 16};
  fp8_key<> back;
  REQUIRE(fp8_key<>::read(key.written(), back).ok());
  CHECK(back.written() == key.written());
  fp8_key<e5m2> other;
  CHECK(fp8_key<e5m2>::read(key.written(), other).code == errc::foreign);
  form bad = key.written();
  bad.words[2] = 0x7fc00000u;
  CHECK(fp8_key<>::read(bad, back).code == errc::foreign);
}
