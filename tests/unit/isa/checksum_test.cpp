// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// The checksum of serialized caches: on every path what the stored form's README says.

#include "support/catch.hpp"

#include <kvslim/isa/checksum.hpp>

#include <algorithm>
#include <vector>

using namespace kvslim;

namespace {

using bytes_of = std::vector<std::byte>;
constexpr std::uint64_t seed = 0xcbf29ce484222325u;

bytes_of pattern(index_t n) {
  bytes_of out(static_cast<std::size_t>(n));
  for (index_t i = 0; i < n; ++i)
    out[static_cast<std::size_t>(i)] = static_cast<std::byte>(i * 37 + 11);
  return out;
}

std::uint64_t step(std::uint64_t h, std::uint64_t x) {
  h = (h ^ x) * 0x100000001b3u;
  return h ^ (h >> 29);
}

/// As it is written down, byte after byte.
std::uint64_t plain(std::byte const* data, index_t n, std::uint64_t h) {
  auto const word = [&](index_t at) {
    std::uint64_t w = 0;
    for (int b = 7; b >= 0; --b) w = w << 8 | static_cast<std::uint64_t>(data[at + b]);
    return w;
  };
  index_t const whole = n / 128 * 128;
  for (index_t l = 0; l < 16; ++l) {
    std::uint64_t lane = static_cast<std::uint64_t>(l + 1) * 0x9e3779b97f4a7c15u;
    for (index_t i = 0; i < whole; i += 128) {
      std::uint64_t x = lane ^ word(i + 8 * l);
      x = x + (x << 9);
      lane = x ^ (x >> 29);
    }
    h = step(h, lane);
  }
  index_t i = whole;
  for (; i + 8 <= n; i += 8) h = step(h, word(i));
  for (; i < n; ++i) h = step(h, static_cast<std::uint64_t>(data[i]));
  return h;
}

}  // namespace

TEST_CASE("the checksum is the one that is written down", "[checksum]") {
  // Computed by another program, in another language.
  auto const all = pattern(1001);
  CHECK(detail::checksum(all.data(), 0, seed) == 0xb8d190c9a625de21u);
  CHECK(detail::checksum(all.data(), 7, seed) == 0x916f95466e297662u);
  CHECK(detail::checksum(all.data(), 128, seed) == 0xc044eb2b19958ccbu);
  CHECK(detail::checksum(all.data(), 1001, seed) == 0x59ca87305ae80879u);
}

TEST_CASE("every path, length and address gives the same checksum and copy", "[checksum]") {
  auto const before = isa::current();
  auto const all = pattern(1200);
  for (auto const path : isa::every_path) {
    if (isa::use(path) != path) continue;
    for (index_t n = 0; n < 600; ++n) {
      std::byte const* const from = all.data() + n % 67;
      std::uint64_t const expected = plain(from, n, seed + static_cast<std::uint64_t>(n));
      REQUIRE(detail::checksum(from, n, seed + static_cast<std::uint64_t>(n)) == expected);
      bytes_of to(700, std::byte{0xa5});
      std::byte* const at = to.data() + n % 61;
      REQUIRE(detail::copy_with_checksum(from, n, seed + static_cast<std::uint64_t>(n), at) ==
              expected);
      REQUIRE(std::equal(from, from + n, at));
      REQUIRE(std::count(to.begin(), to.begin() + n % 61, std::byte{0xa5}) == n % 61);
      REQUIRE(std::count(at + n, to.data() + to.size(), std::byte{0xa5}) ==
              std::ssize(to) - n - n % 61);
    }
  }
  isa::use(before);
}

TEST_CASE("damage changes the checksum", "[checksum]") {
  index_t const n = 128 * 5 + 8 * 6 + 5;
  auto const good = pattern(n);
  std::uint64_t const sum = detail::checksum(good.data(), n, seed);
  auto const of = [&](bytes_of const& b) { return detail::checksum(b.data(), n, seed); };
  for (std::size_t bit = 0; bit < good.size() * 8; ++bit) {
    auto b = good;
    b[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    REQUIRE(of(b) != sum);
    // The same bit of the word that the same lane takes next, and the lane after it.
    for (std::size_t const far : {8u, 128u}) {
      if (bit / 8 + far >= good.size()) continue;
      auto two = b;
      two[bit / 8 + far] ^= static_cast<std::byte>(1u << (bit % 8));
      REQUIRE(of(two) != sum);
    }
  }
  for (std::size_t i = 0; i + 16 <= good.size(); i += 8) {  // neighbours that change places
    auto b = good;
    std::rotate(b.begin() + static_cast<std::ptrdiff_t>(i),
                b.begin() + static_cast<std::ptrdiff_t>(i + 8),
                b.begin() + static_cast<std::ptrdiff_t>(i + 16));
    REQUIRE(of(b) != sum);
  }
  bytes_of const zeros(512, std::byte{0});  // one stripe less
  CHECK(detail::checksum(zeros.data(), 512, seed) != detail::checksum(zeros.data(), 384, seed));
}
