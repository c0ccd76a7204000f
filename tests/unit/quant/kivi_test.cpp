// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// KIVI's codes and parameters are the authors', from their own code and from an emulation of it.

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/stored.hpp"
#include "support/tolerance.hpp"

#include <kvslim/quant/int_per_token.hpp>
#include <kvslim/quant/kivi.hpp>

#include <array>
#include <numeric>
#include <string>

using namespace kvslim;

namespace {

/// x rounded to the nearest half by doubles, ties to even.
double half(double x) {
  if (x == 0) return x;
  double const ulp = std::ldexp(1.0, std::max(std::ilogb(x), -14) - 10);
  return std::nearbyint(x / ulp) * ulp;
}

/// What the authors' code does to one group of half-precision tensors.
struct authors_group {
  double low, scale;
  int bits;

  authors_group(std::vector<double> const& x, int b) : bits(b) {
    auto const [lo, hi] = std::minmax_element(x.begin(), x.end());
    low = half(*lo);
    scale = half(half(half(*hi) - low) / ((1 << bits) - 1));
  }
  [[nodiscard]] double code(double x) const {
    double const y = half(half(half(x) - low) / scale);
    return std::nearbyint(std::clamp(y, 0.0, static_cast<double>((1 << bits) - 1)));
  }
};

/// group(t, d) gives the values that share parameters with one.
template <class Codec, class Group>
void check_authors(data::stored<Codec> const& s, std::vector<float> const& x, int bits,
                   Group const& group) {
  for (index_t t = 0; t < s.tokens; ++t)
    for (index_t d = 0; d < s.dim; ++d) {
      authors_group const expected(group(t, d), bits);
      REQUIRE(to_float(s.parameters(t, d).scale) == expected.scale);
      REQUIRE(to_float(s.parameters(t, d).low) == expected.low);
      REQUIRE(s.code(t, d) == expected.code(x[static_cast<std::size_t>(t * s.dim + d)]));
    }
}

template <int Bits>
void check_floats(float spread, float offset, index_t key_group = 32, index_t value_group = 32) {
  constexpr index_t dim = 64;
  index_t const tokens = std::lcm(key_group, index_t{32});
  kivi<Bits> const policy{{.group = key_group,
                           .residual = tokens,
                           .value_group = value_group,
                           .rounding = rounding::authors}};
  auto x = data::rows(2 * tokens, dim, spread, 0.0f, static_cast<unsigned>(Bits));
  for (float& v : x) v += offset;  // floats, not halves
  auto const at = [&](index_t t, index_t d) {
    return static_cast<double>(x[static_cast<std::size_t>(t * dim + d)]);
  };
  check_authors(data::stored(policy.key_codec(), x, dim), x, Bits, [&](index_t t, index_t d) {
    std::vector<double> group;
    for (index_t i = 0; i < key_group; ++i) group.push_back(at(t / key_group * key_group + i, d));
    return group;
  });
  check_authors(data::stored(policy.value_codec(), x, dim), x, Bits, [&](index_t t, index_t d) {
    std::vector<double> group;
    for (index_t i = 0; i < value_group; ++i)
      group.push_back(at(t, d / value_group * value_group + i));
    return group;
  });
}

/// Stores as many tokens of k or v as the file has codes of, `part` with `bits`; parameter(t, d) is
/// where a value's parameters stand in the file.
template <class Codec, class Parameter>
data::stored<Codec> check_codes(golden const& g, Codec const& codec, std::string const& side,
                                std::string const& part, std::string const& bits,
                                Parameter const& parameter) {
  auto const& codes = g[part + "_code" + bits];
  auto rows = g.floats(side);
  rows.resize(codes.size());
  data::stored<Codec> const s(codec, rows, 32);
  for (index_t t = 0; t < s.tokens; ++t)
    for (index_t d = 0; d < 32; ++d) {
      auto const shared = static_cast<std::size_t>(parameter(t, d));
      REQUIRE(s.code(t, d) == codes[static_cast<std::size_t>(t * 32 + d)]);
      REQUIRE(to_float(s.parameters(t, d).scale) == g[part + "_scale" + bits][shared]);
      REQUIRE(to_float(s.parameters(t, d).low) == g[part + "_min" + bits][shared]);
    }
  return s;
}

/// `side` is k or v.
template <class Codec, class Parameter>
void check_golden(golden const& g, Codec const& codec, std::string const& side,
                  std::string const& bits, Parameter const& parameter) {
  auto const s = check_codes(g, codec, side, side, bits, parameter);
  for (index_t t = 0; t < 64; ++t)
    for (index_t d = 0; d < 32; ++d) {
      double const scale = to_float(s.parameters(t, d).scale),
                   low = to_float(s.parameters(t, d).low);
      // The authors' reconstruction rounds code * scale and the sum to f16; ours rounds nothing,
      // so it is rounded here.
      REQUIRE(std::abs(half(half(s.code(t, d) * scale) + low) -
                       g[side + "_value" + bits][static_cast<std::size_t>(t * 32 + d)]) <=
              tolerance::accumulated);
    }
}

/// `name`: what the file adds to names of other groups than 32.
template <int Bits>
void check_golden(golden const& g, index_t group = 32, std::string const& name = "") {
  kivi<Bits> const policy{{.group = group, .residual = 64, .rounding = rounding::authors}};
  std::string const bits = "_" + std::to_string(Bits) + name;
  check_golden(g, policy.key_codec(), "k", bits,
               [&](index_t t, index_t d) { return t / group * 32 + d; });
  check_golden(g, policy.value_codec(), "v", bits,
               [&](index_t t, index_t d) { return t * (32 / group) + d / group; });
}

/// A width that the authors' words do not hold: codes and parameters, and those of whole rows.
template <int Bits>
void check_width(golden const& g, index_t group) {
  CAPTURE(Bits);
  kivi<Bits> const policy{{.group = group, .residual = 32, .rounding = rounding::authors}};
  std::string const bits = "_" + std::to_string(Bits);
  check_codes(g, policy.key_codec(), "k", "k", bits,
              [&](index_t t, index_t d) { return t / group * 32 + d; });
  check_codes(g, policy.value_codec(), "v", "v", bits,
              [&](index_t t, index_t d) { return t * (32 / group) + d / group; });
  auto const row = [](index_t t, index_t) { return t; };
  int_per_token<Bits, f16, float> const plain;
  check_codes(g, plain.key_codec(), "v", "row", bits, row);
  check_codes(g, plain.value_codec(), "v", "row", bits, row);
}

}  // namespace

TEST_CASE("kivi's codes and parameters are the authors'", "[golden][kivi]") {
  golden const g("kivi");
  check_golden<2>(g);
  check_golden<4>(g);
  check_golden<8>(g);
  check_golden<2>(g, 16, "_16");
  check_golden<4>(g, 8, "_8");
}

TEST_CASE("codes of other widths are what the authors' arithmetic gives",
          "[golden][kivi][int_per_token]") {
  golden const g("kivi");
  check_width<3>(g, 32);
  check_width<5>(g, 16);
  check_width<6>(g, 8);
  check_width<7>(g, 32);
}

TEST_CASE("kivi rounds floats to halves before it does what the authors do", "[kivi]") {
  for (float spread : {1e-3f, 1.0f, 300.0f})
    for (float offset : {0.0f, 5.0f, -70.0f}) {
      if (spread < 1 && offset != 0) continue;  // groups of equal halves: 0/0 in the authors' code
      check_floats<2>(spread, offset);
      check_floats<4>(spread, offset);
      check_floats<8>(spread, offset);
    }
}

TEST_CASE("kivi's groups are the authors' where they are not whole runs", "[kivi]") {
  for (float offset : {0.0f, 5.0f}) {
    check_floats<2>(1.0f, offset, 48, 4);
    check_floats<4>(1.0f, offset, 8, 64);
    check_floats<8>(1.0f, offset, 160, 16);
    check_floats<3>(1.0f, offset);
  }
}

TEST_CASE("kivi hands its options to both codecs", "[kivi]") {
  kivi<4, 2, bf16> const policy{{.group = 64, .residual = 192, .value_group = 16}};
  CHECK(policy.key_codec().group == 64);
  CHECK(policy.value_codec().group == 16);
  CHECK(policy.value_codec().residual == 192);
  CHECK(policy.key_codec().sizes(64, 1).block_bytes == 64 * 64 / 2 + 4 * 64);
  CHECK(policy.value_codec().sizes(64, 1).block_bytes == 2 * 32 + 16 * 4);
  CHECK(kivi<2>{}.value_codec().group == 32);
  CHECK(kivi<2>{{.group = 0}}.key_codec().check(64).code == errc::invalid_option);
}
