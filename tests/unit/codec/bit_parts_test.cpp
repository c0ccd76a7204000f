// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Codes of every width: where their bits lie, and what the integer codecs make of them.

#include "reference/reference.hpp"
#include "support/catch.hpp"
#include "support/stored.hpp"

#include <kvslim/codec/channel_key.hpp>
#include <kvslim/codec/token_key.hpp>
#include <kvslim/codec/token_value.hpp>

#include <algorithm>
#include <array>
#include <numeric>
#include <random>

using namespace kvslim;

namespace {

/// Calls f(width as a constant) for 1 to 8 bits.
template <class F>
void each_width(F const& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) {
    (f(std::integral_constant<int, I + 1>{}), ...);
  }
  (std::make_integer_sequence<int, 8>{});
}

/// The bytes of codes[token][channel], bit by bit, as store/README.md says.
std::vector<std::uint8_t> bytes_of(bool keys, int bits, index_t tokens, index_t dim,
                                   std::vector<std::uint32_t> const& codes) {
  index_t const across = keys ? dim / 4 : (dim + 31) / 32,
                units = keys ? tokens / 32 * across : tokens / 4 * across;
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(units * 16 * bits));
  index_t begin = 0;
  for (int part = 8, left = bits; part > 0; part /= 2) {
    if ((left & part) == 0) continue;
    left -= part;
    for (index_t t = 0; t < tokens; ++t)
      for (index_t d = 0; d < dim; ++d) {
        index_t const unit = keys ? t / 32 * across + d / 4 : t / 4 * across + d / 32,
                      e = keys ? t % 32 * 4 + d % 4 : d % 32 * 4 + t % 4, size = 16 * part;
        std::uint32_t const code = codes[static_cast<std::size_t>(t * dim + d)] >> left;
        auto& byte = bytes[static_cast<std::size_t>(begin + unit * size + e % size)];
        byte = static_cast<std::uint8_t>(byte | (code & ((1u << part) - 1u)) << e / size * part);
      }
    begin += units * 16 * part;
  }
  return bytes;
}

template <bool Keys, int Bits>
void check_layout(index_t tokens, index_t dim) {
  detail::bit_parts<Keys, Bits> const parts{dim, tokens};
  std::mt19937 engine(Bits);
  std::vector<std::uint32_t> codes(static_cast<std::size_t>(tokens * dim));
  for (auto& x : codes) x = engine() & ((1u << Bits) - 1u);
  auto const expected = bytes_of(Keys, Bits, tokens, dim, codes);
  REQUIRE(parts.bytes() == static_cast<index_t>(expected.size()));

  std::vector<index_t> order(codes.size());
  std::iota(order.begin(), order.end(), index_t{0});
  std::shuffle(order.begin(), order.end(), engine);
  auto bytes = expected;  // what was there is overwritten
  for (auto& x : bytes) x = static_cast<std::uint8_t>(~x);
  for (index_t const i : order)
    parts.put(bytes.data(), i / dim, i % dim, codes[static_cast<std::size_t>(i)]);
  for (index_t t = 0; t < tokens; ++t)
    for (index_t d = 0; d < dim; ++d)
      REQUIRE(parts.get(bytes.data(), t, d) == codes[static_cast<std::size_t>(t * dim + d)]);

  std::vector<std::uint8_t> again(bytes.size());
  for (index_t u = 0; u < parts.units(); ++u) {
    std::array<std::uint32_t, 32> words;
    parts.unpack(expected.data(), u, words.data());
    for (index_t i = 0; i < 32; ++i)
      REQUIRE(parts.word(expected.data(), u, i) == words[static_cast<std::size_t>(i)]);
    parts.pack(words.data(), again.data(), u);
  }
  CHECK(again == expected);
  if (Keys || dim % 32 == 0) CHECK(bytes == expected);
}

/// Blocks of codes with float parameters: every value is the nearest of 2^bits levels between the
/// least and the greatest of its group. Returns the mean squared error.
template <class Codec, class Group>
double check_levels(Codec const& codec, std::vector<float> const& x, index_t dim, int bits,
                    Group const& group) {
  data::stored const s(codec, x, dim);
  double error = 0;
  std::uint32_t greatest = 0;
  for (index_t t = 0; t < s.tokens; ++t)
    for (index_t d = 0; d < dim; ++d) {
      auto const g = reference::affine(group(t, d), bits);
      double const exact = static_cast<double>(x[static_cast<std::size_t>(t * dim + d)]);
      double const place = (exact - g.low) / g.step, code = s.code(t, d);
      REQUIRE(std::abs(code - place) <= 0.5 + 1e-4);
      REQUIRE(std::abs(s.value(t, d) - (g.low + code * g.step)) <= 1e-5);
      greatest = std::max(greatest, s.code(t, d));
      error += std::pow(s.value(t, d) - exact, 2);
    }
  CHECK(greatest == (1u << bits) - 1u);
  return error / static_cast<double>(x.size());
}

}  // namespace

TEST_CASE("bits of a code lie where the stored form says", "[bit_parts]") {
  each_width([](auto bits) {
    INFO("bits " << decltype(bits)::value);
    check_layout<true, decltype(bits)::value>(32, 36);
    check_layout<true, decltype(bits)::value>(96, 4);
    check_layout<false, decltype(bits)::value>(4, 64);
    check_layout<false, decltype(bits)::value>(8, 45);
  });
}

TEST_CASE("a bit more halves the error, in every integer codec", "[bit_parts]") {
  index_t const tokens = 96, dim = 36;
  auto const x = data::rows(tokens, dim, 1.0f, 2.0f);
  auto const at = [&](index_t t, index_t d) {
    return static_cast<double>(x[static_cast<std::size_t>(t * dim + d)]);
  };
  auto const row = [&](index_t t, index_t first, index_t n) {
    std::vector<double> out;
    for (index_t d = first; d < first + n; ++d) out.push_back(at(t, d));
    return out;
  };
  std::array<double, 3> last{};
  each_width([&](auto width) {
    constexpr int bits = decltype(width)::value;
    INFO("bits " << bits);
    std::array<double, 3> const error{
        check_levels(token_key<bits, f16, float>{}, x, dim, bits,
                     [&](index_t t, index_t) { return row(t, 0, dim); }),
        check_levels(token_value<bits, f16, float>{.group = 12}, x, dim, bits,
                     [&](index_t t, index_t d) { return row(t, d / 12 * 12, 12); }),
        check_levels(channel_key<bits, f16, float>{.group = 48, .residual = 96}, x, dim, bits,
                     [&](index_t t, index_t d) {
                       std::vector<double> out;
                       for (index_t i = 0; i < 48; ++i) out.push_back(at(t / 48 * 48 + i, d));
                       return out;
                     })};
    // Steps are (2^b - 1) / (2^(b + 1) - 1) of the last: squares a ninth to a fourth.
    for (std::size_t i = 0; i < 3; ++i) {
      if (bits > 1) CHECK(error[i] < 0.36 * last[i]);
      last[i] = error[i];
    }
  });
}

TEST_CASE("an element takes its bits and its share of the parameters", "[bit_parts]") {
  each_width([](auto width) {
    constexpr int bits = decltype(width)::value;
    auto const taken = [](auto const& codec, index_t dim) {
      auto const z = codec.sizes(dim, 1);
      return static_cast<double>(8 * z.block_bytes) / static_cast<double>(z.block_tokens * dim);
    };
    CHECK(taken(token_key<bits>{}, 128) == bits + 32.0 / 128);
    CHECK(taken(token_value<bits>{}, 128) == bits + 32.0 / 128);
    CHECK(taken(token_value<bits, f16, float>{.group = 32}, 128) == bits + 64.0 / 32);
    CHECK(taken(channel_key<bits>{}, 80) == bits + 32.0 / 32);
    CHECK(taken(channel_key<bits, f16, float>{.group = 16, .residual = 32}, 80) ==
          bits + 64.0 / 16);
  });
}
