// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

TEST_CASE("packed codes survive in both orders", "[pack]") {
  std::mt19937 engine(9);
  auto const stream = [&](auto bits) {
    constexpr int b = decltype(bits)::value;
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(ops::stream_bytes(b, 100)));
    std::vector<std::uint32_t> codes;
    for (index_t i = 0; i < 100; ++i) {
      codes.push_back(engine() % (1u << b));
      ops::put_stream<b>(bytes.data(), i, codes.back());
    }
    for (index_t i = 0; i < 100; ++i)
      REQUIRE(ops::get_stream<b>(bytes.data(), i) == codes[static_cast<std::size_t>(i)]);
    // Independent check of the stream order: it is one little-endian integer, code i shifted by i *
    // b.
    std::uint64_t word = 0;
    for (std::size_t i = 0; i < 8; ++i) word |= static_cast<std::uint64_t>(bytes[i]) << (8 * i);
    for (unsigned i = 0; i < 64 / b; ++i)
      REQUIRE(((word >> (i * b)) & ((1u << b) - 1)) == codes[i]);
  };
  [&]<int... B>(std::integer_sequence<int, B...>) {
    (stream(std::integral_constant<int, B + 1>{}), ...);
  }
  (std::make_integer_sequence<int, 8>{});

  auto const planar = [&](auto bits) {
    constexpr int b = decltype(bits)::value;
    std::vector<std::uint8_t> unit(static_cast<std::size_t>(ops::unit_bytes<b>), 0xff);
    std::vector<std::uint32_t> words(32);
    std::vector<std::uint32_t> codes;
    for (index_t e = 0; e < 128; ++e) codes.push_back(engine() % (1u << b));
    for (index_t e = 127; e >= 0; --e)
      ops::put_unit<b>(unit.data(), e, codes[static_cast<std::size_t>(e)]);
    ops::unpack_words<b>(unit.data(), words.data());
    std::vector<std::uint8_t> packed(unit.size());
    for (std::size_t i = 0; i < words.size(); ++i)
      CHECK(ops::unit_word<b>(unit.data(), static_cast<index_t>(i)) == words[i]);
    ops::pack_words<b>(words.data(), packed.data());
    CHECK(packed == unit);
    for (index_t e = 0; e < 128; ++e) {
      REQUIRE(ops::get_unit<b>(unit.data(), e) == codes[static_cast<std::size_t>(e)]);
      REQUIRE(((words[static_cast<std::size_t>(e / 4)] >> (8 * (e % 4))) & 255u) ==
              codes[static_cast<std::size_t>(e)]);
    }
  };
  planar(std::integral_constant<int, 1>{});
  planar(std::integral_constant<int, 2>{});
  planar(std::integral_constant<int, 4>{});
  planar(std::integral_constant<int, 8>{});
}
