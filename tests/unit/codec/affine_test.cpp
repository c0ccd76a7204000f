// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Scales, minimums and codes of one group.

#include "support/catch.hpp"

#include <kvslim/codec/affine.hpp>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

using namespace kvslim;

namespace {

/// Half an ulp of 1 of a stored parameter.
template <class Param>
double half_ulp() {
  return std::same_as<Param, f16> ? 0x1p-11 : std::same_as<Param, bf16> ? 0x1p-8 : 0x1p-24;
}
/// The smallest step that may be stored.
template <class Param>
double smallest_step() {
  return std::same_as<Param, f16> ? 0x1p-24 : 0x1p-125;
}

template <class Param>
affine<Param> fit(std::vector<float> const& x, int bits, rounding mode = rounding::precise) {
  return detail::fit_affine<Param>(ops::group_range(x.data(), static_cast<index_t>(x.size()), 1),
                                   bits, mode);
}

/// Errors are half a step, a little more where a half's rounding leaves out the end of a range, or
/// half an ulp of equal values; and steps are no larger than they must be.
template <class Param>
void check_error(std::vector<float> const& x, int bits) {
  auto const a = fit<Param>(x, bits);
  auto const range = ops::group_range(x.data(), static_cast<index_t>(x.size()), 1);
  double const step = to_float(a.scale), low = std::abs(static_cast<double>(range.low)),
               span = static_cast<double>(range.high) - range.low, levels = (1 << bits) - 1,
               minimum_ulp = 2 * half_ulp<Param>() * low + smallest_step<Param>();
  INFO("bits " << bits << " low " << range.low << " high " << range.high << " step " << step);
  REQUIRE(std::isfinite(to_float(a.scale)));
  CHECK(step <=
        (span + minimum_ulp) / levels * (1 + 2 * half_ulp<Param>()) + smallest_step<Param>());
  double const end = std::same_as<Param, f16> ? levels * half_ulp<f16>() : 0;
  double const arithmetic = 0x1p-22 * (low + span);
  for (float v : x) {
    double const got = a.decode(detail::encode_affine(v, a, bits, rounding::precise));
    CHECK(std::abs(got - v) <= (step == 0 ? minimum_ulp / 2 : step * (0.5 + end)) + arithmetic);
  }
}

template <class Param>
void check_many() {
  std::mt19937 engine(5);
  std::normal_distribution<float> normal;
  for (int bits : {1, 2, 4, 8})
    for (float spread : {1e-30f, 1e-9f, 1e-6f, 1e-4f, 1e-2f, 1.0f, 100.0f, 5000.0f})
      for (float offset : {0.0f, 1e-7f, -3.0f, 1000.0f, -20000.0f})
        for (int round = 0; round < 3; ++round) {
          std::vector<float> x(32);
          for (float& v : x) v = offset + spread * normal(engine);
          check_error<Param>(x, bits);
        }
}

}  // namespace

TEST_CASE("known affine codes", "[affine]") {
  auto const constant = detail::fit_affine<f16>({2.5f, 2.5f}, 2, rounding::precise);
  CHECK(constant.scale.bits == 0);
  CHECK(constant.decode(detail::encode_affine(2.5f, constant, 2, rounding::precise)) == 2.5f);
  auto const a = detail::fit_affine<f16>({0.0f, 3.0f}, 2, rounding::precise);
  CHECK(detail::encode_affine(0.5f, a, 2, rounding::precise) == 0);  // ties to even
  CHECK(detail::encode_affine(1.5f, a, 2, rounding::precise) == 2);
  CHECK(detail::encode_affine(99.0f, a, 2, rounding::precise) == 3);
}

TEST_CASE("what no group holds still gets a code: NaN 0, infinities the ends", "[affine]") {
  affine<f16> const a{from_float<f16>(0.5f), from_float<f16>(-1.0f)};
  for (auto mode : {rounding::precise, rounding::authors})
    for (int bits : {2, 4, 8}) {
      // Met in a damaged cache's tail, found by fuzzing.
      CHECK(detail::encode_affine(NAN, a, bits, mode) == 0);
      CHECK(detail::encode_affine(-INFINITY, a, bits, mode) == 0);
      CHECK(detail::encode_affine(INFINITY, a, bits, mode) == (1u << bits) - 1);
      CHECK(detail::encode_affine(1.0f, affine<f16>{from_float<f16>(NAN), a.low}, bits, mode) == 0);
      auto const damaged = fit<f16>({1.0f, NAN, INFINITY, -INFINITY, 2.0f}, bits, mode);
      CHECK(detail::encode_affine(NAN, damaged, bits, mode) == 0);
    }
}

TEST_CASE("codes of many values at once are those of one at a time", "[affine]") {
  std::mt19937 engine(3);
  std::normal_distribution<float> normal(0.0f, 2.0f);
  for (auto mode : {rounding::precise, rounding::authors})
    for (int bits : {1, 2, 4, 8})
      for (int round = 0; round < 50; ++round) {
        float x[32], scale[32], low[32];
        affine<f16> a[32];
        for (std::size_t i = 0; i < 32; ++i) {
          x[i] = i == 3 ? NAN : i == 5 ? INFINITY : i == 7 ? -INFINITY : normal(engine);
          a[i] = {from_float<f16>(i == 9 ? 0.0f : std::fabs(normal(engine))),
                  from_float<f16>(normal(engine))};
          scale[i] = to_float(a[i].scale);
          low[i] = to_float(a[i].low);
          if (i % 4 == 0)
            x[i] = low[i] + scale[i] * (static_cast<float>(round % 4) + 0.5f);  // ties
        }
        std::uint8_t codes[32];
        detail::encode_affine<32>(x, scale, low, bits, mode, codes);
        for (std::size_t i = 0; i < 32; ++i)
          CHECK(codes[i] == detail::encode_affine(x[i], a[i], bits, mode));
      }
}

TEST_CASE("parameters of ordinary ranges are the nearest halves", "[affine]") {
  std::mt19937 engine(11);
  std::normal_distribution<float> normal;
  for (int bits : {2, 4, 8})
    for (int round = 0; round < 500; ++round) {
      float const low = -std::fabs(normal(engine)) - 0.25f,
                  high = std::fabs(normal(engine)) + 0.25f;
      auto const a = detail::fit_affine<f16>({low, high}, bits, rounding::precise);
      CHECK(a.low == from_float<f16>(low));
      CHECK(a.scale == from_float<f16>((high - low) / static_cast<float>((1 << bits) - 1)));
    }
}

TEST_CASE("errors stay within half a stored step", "[affine]") {
  check_many<f16>();
  check_many<bf16>();
  check_many<float>();
}

TEST_CASE("f16 parameters know tiny values to 2^-24", "[affine]") {
  std::mt19937 engine(6);
  std::normal_distribution<float> normal;
  for (float spread : {1e-8f, 1e-7f, 1e-6f, 1e-5f})
    for (int bits : {2, 4, 8}) {
      std::vector<float> x(64);
      for (float& v : x) v = spread * normal(engine);
      auto const a = fit<f16>(x, bits);
      double const step = to_float(a.scale);
      for (float v : x) {
        double const got = a.decode(detail::encode_affine(v, a, bits, rounding::precise));
        CHECK(std::abs(got - v) <= step / 2 + 0x1p-25);
        if (bits == 8 && spread <= 1e-6f) CHECK(std::abs(got - v) <= 0x1p-24);
      }
    }
}

TEST_CASE("a float that f16 cannot offset still gets half a step", "[affine]") {
  // Values around 1000 lie 0.5 apart in f16: the nearest minimum would leave out half of the range.
  std::vector<float> const x{1000.26f, 1000.5f, 1000.75f, 1001.0f, 1001.25f};
  auto const a = fit<f16>(x, 8);
  for (float v : x)
    CHECK(std::abs(a.decode(detail::encode_affine(v, a, 8, rounding::precise)) - v) <=
          to_float(a.scale) / 2 + 1e-4f);
  CHECK(to_float(a.scale) <= 1.6f / 255);
}

TEST_CASE("the largest ranges stay finite", "[affine]") {
  auto const check = [](auto one, int bits, float limit, rounding mode = rounding::precise) {
    using param = decltype(one);
    auto const a = detail::fit_affine<param>({-limit, limit}, bits, mode);
    CHECK(is_finite(to_float(a.scale)));
    CHECK(is_finite(to_float(a.low)));
    CHECK(is_finite(a.decode((1u << bits) - 1)));
  };
  for (int bits : {1, 2, 4, 8}) {
    check(f16{}, bits, detail::largest_affine<float, f16>(bits, rounding::precise));
    check(bf16{}, bits, detail::largest_affine<float, bf16>(bits, rounding::precise));
    check(float{}, bits, detail::largest_affine<float, float>(bits, rounding::precise));
    check(f16{}, bits, detail::largest_affine<f16, f16>(bits, rounding::authors),
          rounding::authors);
  }
  CHECK(detail::largest_affine<f16, float>(4, rounding::precise) == 65504.0f);  // the tail's
  CHECK(detail::largest_affine<e4m3, float>(4, rounding::precise) == 448.0f);
}

TEST_CASE("what an affine codec accepts is not rounded past its limit in the tail", "[affine]") {
  auto const holds = []<class Tail, class Param>(Tail, Param) {
    for (int const bits : {1, 2, 4, 8}) {
      float const limit = detail::largest_affine<Tail, Param>(bits, rounding::precise);
      CHECK(to_float(from_float<Tail>(limit)) == limit);
      CHECK(is_finite(to_float(from_float<Param>(limit))));
    }
  };
  holds(f16{}, f16{});
  holds(bf16{}, f16{});
  holds(0.0f, f16{});
  holds(bf16{}, bf16{});
  holds(f16{}, 0.0f);
  CHECK(detail::largest_affine<bf16, f16>(8, rounding::precise) == 65280.0f);
}
