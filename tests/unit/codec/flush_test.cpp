// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Engines may flush subnormal floats to zero; stored bytes and what they mean must not notice.

#include "support/flush.hpp"

#include "support/catch.hpp"
#include "support/stored.hpp"

#include <kvslim/codec/channel_key.hpp>
#include <kvslim/codec/dense.hpp>
#include <kvslim/codec/token_key.hpp>
#include <kvslim/codec/token_value.hpp>

#if KVSLIM_TESTS_CAN_FLUSH
using namespace kvslim;

namespace {

template <class T>
std::vector<std::uint32_t> widened() {
  std::vector<std::uint32_t> out;
  constexpr unsigned count = sizeof(T) == 2 ? 65536 : 256;
  for (unsigned first = 0; first < count; first += 16) {
    T x[16];
    float y[16];
    for (unsigned i = 0; i < 16; ++i) {
      x[i] = {static_cast<decltype(T::bits)>(first + i)};
      out.push_back(detail::bit_cast<std::uint32_t>(to_float(x[i])));
      out.push_back(detail::bit_cast<std::uint32_t>(detail::widen(x[i])));
    }
    detail::widen16(x, y);
    for (float v : y) out.push_back(detail::bit_cast<std::uint32_t>(v));
  }
  return out;
}

template <class T>
std::vector<unsigned> narrowed() {
  std::vector<unsigned> out;
  for (std::uint32_t bits = 0x00800000; bits < 0x7f800000; bits += 0x1357) {  // normal floats
    float const x = detail::bit_cast<float>(bits);
    out.push_back(from_float<T>(x).bits);
    out.push_back(detail::narrow<T>(-x).bits);
  }
  return out;
}

template <class What>
void same(What const& what) {
  auto const expected = what();
  data::flushed const now;
  auto const got = what();
  CHECK(got == expected);
}

/// Bytes and decoded values of normal values of any size.
template <class Codec>
std::vector<std::uint32_t> stored_bits(Codec const& codec) {
  std::vector<std::uint32_t> out;
  for (float spread : {1e-30f, 1e-8f, 1e-6f, 1e-3f, 1.0f, 100.0f}) {
    if (codec.limit() < 1000.0f && spread > 10.0f) continue;
    auto const x = data::rows(32, 64, spread);
    data::stored const s(codec, x, 64);
    for (std::byte b : s.bytes) out.push_back(static_cast<std::uint32_t>(b));
    for (index_t t = 0; t < 32; ++t)
      for (index_t d = 0; d < 64; ++d)
        out.push_back(detail::bit_cast<std::uint32_t>(s.value(t, d)));
  }
  return out;
}
template <class Codec>
void check(Codec const& codec) {
  auto const expected = stored_bits(codec);
  data::flushed const now;
  auto const got = stored_bits(codec);
  CHECK(got == expected);
}
template <class Param>
void check_affine() {
  check(channel_key<8, f16, Param>{.residual = 32});
  check(channel_key<2, f16, Param>{.residual = 32});
  check(token_key<4, f16, Param>{});
  check(token_value<8, f16, Param>{.group = 32});
  check(token_value<4, f16, Param>{.group = 16});
}

}  // namespace

TEMPLATE_TEST_CASE("elements widen and narrow the same with subnormals flushed", "[flush]", f16,
                   e4m3, e5m2) {
  same(widened<TestType>);
  same(narrowed<TestType>);
}

TEST_CASE("codecs store and read the same with subnormals flushed", "[flush]") {
  check_affine<f16>();
  check_affine<bf16>();
  check_affine<float>();
  check(channel_key<4>{.residual = 32, .rounding = rounding::authors});
  check(dense_key<f16>{});
  check(dense_key<e4m3>{});
  check(dense_value<e5m2>{});
}
#endif
