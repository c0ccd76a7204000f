// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"

#include <kvslim/core/elements.hpp>

#include <cmath>
#include <cstring>
#include <limits>

#if defined(KVSLIM_HAS_TOOLKIT_HEADERS)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#endif

using namespace kvslim;

namespace {

template <class T>
void round_trip(unsigned count) {
  for (unsigned i = 0; i < count; ++i) {
    T const x{static_cast<decltype(T::bits)>(i)};
    float const f = to_float(x);
    if (std::isnan(f)) {
      REQUIRE(std::isnan(to_float(from_float<T>(f))));
    } else if (std::isinf(f) && sizeof(T) == 1) {
      REQUIRE(is_finite(to_float(from_float<T>(f))));  // fp8 saturates
    } else {
      REQUIRE(from_float<T>(f).bits == x.bits);
    }
  }
}

}  // namespace

TEST_CASE("every value of every element type survives a round trip") {
  round_trip<f16>(65536);
  round_trip<bf16>(65536);
  round_trip<e4m3>(256);
  round_trip<e5m2>(256);
}

TEST_CASE("known element values") {
  CHECK(to_float(f16{0x3c00}) == 1.0f);
  CHECK(to_float(f16{0x0001}) == std::ldexp(1.0f, -24));
  CHECK(to_float(e4m3{0x7e}) == 448.0f);
  CHECK(to_float(e5m2{0x7b}) == 57344.0f);
  CHECK(from_float<f16>(65519.0f).bits == 0x7bff);
  CHECK(from_float<f16>(65520.0f).bits == 0x7c00);
  CHECK(from_float<f16>(2049.0f).bits == from_float<f16>(2048.0f).bits);  // tie to even
  CHECK(from_float<f16>(2051.0f).bits == from_float<f16>(2052.0f).bits);
}

TEST_CASE("an engine's words are elements without a copy") {
  std::uint16_t halves[2] = {0x3c00, 0xc000};
  std::uint8_t const bytes[1] = {0x7e};
  CHECK(to_float(as_elements<f16>(halves)[1]) == -2.0f);
  CHECK(to_float(as_elements<bf16>(static_cast<std::uint16_t const*>(halves))[1]) == -2.0f);
  CHECK(to_float(as_elements<e4m3>(bytes)[0]) == 448.0f);
  as_elements<f16>(halves)[0] = from_float<f16>(0.5f);
  CHECK(halves[0] == 0x3800);
}

TEMPLATE_TEST_CASE("the largest finite values", "", f16, bf16, e4m3, e5m2) {
  constexpr float largest = largest_finite<TestType>();
  auto bits = from_float<TestType>(largest).bits;
  CHECK(to_float(TestType{bits}) == largest);
  CHECK_FALSE(is_finite(to_float(TestType{static_cast<decltype(bits)>(bits + 1)})));
  CHECK(largest_finite<float>() == std::numeric_limits<float>::max());
}

#if defined(KVSLIM_HAS_TOOLKIT_HEADERS)
namespace {

std::uint16_t bits(__half h) {
  std::uint16_t b;
  std::memcpy(&b, &h, 2);
  return b;
}
std::uint16_t bits(__nv_bfloat16 h) {
  std::uint16_t b;
  std::memcpy(&b, &h, 2);
  return b;
}
template <class T, class Expected>
void same(float x, T ours, Expected theirs) {
  if (std::isnan(x)) {
    REQUIRE(std::isnan(to_float(ours)));
  } else {
    INFO(x);
    REQUIRE(ours.bits == theirs);
  }
}
void check_all(float x) {
  same(x, from_float<f16>(x), bits(__float2half_rn(x)));
  same(x, from_float<bf16>(x), bits(__float2bfloat16_rn(x)));
  same(x, from_float<e4m3>(x), __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3));
  same(x, from_float<e5m2>(x), __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E5M2));
}

}  // namespace

TEST_CASE("conversions agree with the toolkit's host functions") {
  SECTION("upwards, every value") {
    for (unsigned i = 0; i < 65536; ++i) {
      auto const b = static_cast<std::uint16_t>(i);
      __half_raw h;
      h.x = b;
      float const theirs = __half2float(__half(h)), ours = to_float(f16{b});
      REQUIRE((std::isnan(theirs) ? std::isnan(ours) : std::memcmp(&theirs, &ours, 4) == 0));
    }
    for (unsigned i = 0; i < 256; ++i) {
      auto const b = static_cast<std::uint8_t>(i);
      for (auto kind : {__NV_E4M3, __NV_E5M2}) {
        float const theirs = __half2float(__half(__nv_cvt_fp8_to_halfraw(b, kind)));
        float const ours = kind == __NV_E4M3 ? to_float(e4m3{b}) : to_float(e5m2{b});
        REQUIRE((std::isnan(theirs) ? std::isnan(ours) : theirs == ours));
      }
    }
  }
  SECTION("downwards: every 16-bit prefix of a float with the bits that decide ties") {
    for (std::uint32_t high = 0; high < 65536; ++high)
      for (std::uint32_t low : {0x0000u, 0x0001u, 0x0fffu, 0x1000u, 0x1001u, 0x2000u, 0x3000u,
                                0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
        std::uint32_t const word = (high << 16) | low;
        float x;
        std::memcpy(&x, &word, 4);
        check_all(x);
      }
  }
}

/// Floats whose conversion differs, out of all 2^32. NaN must stay NaN.
template <class Same>
std::uint64_t differing(Same const& same_bits) {
  std::uint64_t count = 0;
  std::uint32_t word = 0;
  do {
    float x;
    std::memcpy(&x, &word, 4);
    if (!same_bits(x)) ++count;
  } while (++word != 0);
  return count;
}

// Hidden, because it takes a minute: ctest runs it as unit.exhaustive.
TEST_CASE("every float converts downwards as the toolkit's host functions do", "[.exhaustive]") {
  auto const same_or_nan = [](float x, auto ours, auto theirs) {
    return x == x ? ours.bits == theirs : std::isnan(to_float(ours));
  };
  CHECK(differing([&](float x) {
          return same_or_nan(x, from_float<f16>(x), bits(__float2half_rn(x)));
        }) == 0);
  CHECK(differing([&](float x) {
          return same_or_nan(x, from_float<bf16>(x), bits(__float2bfloat16_rn(x)));
        }) == 0);
  CHECK(differing([&](float x) {
          return same_or_nan(x, from_float<e4m3>(x),
                             __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3));
        }) == 0);
  CHECK(differing([&](float x) {
          return same_or_nan(x, from_float<e5m2>(x),
                             __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E5M2));
        }) == 0);
}
#endif
