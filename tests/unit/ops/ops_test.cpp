// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

TEST_CASE("norm, dot and cosine match the reference", "[rows]") {
  std::mt19937 engine(5);
  std::normal_distribution<float> normal;
  for (index_t n : {1, 7, 8, 64, 80, 96, 112, 128, 256, 576}) {
    std::vector<float> a(static_cast<std::size_t>(n)), b(a.size());
    for (std::size_t i = 0; i < a.size(); ++i) a[i] = normal(engine), b[i] = normal(engine);
    std::vector<double> const x(a.begin(), a.end()), y(b.begin(), b.end());
    double const scale = std::sqrt(reference::dot(x, x) * reference::dot(y, y));
    CHECK(std::abs(ops::dot(a.data(), b.data(), n) - reference::dot(x, y)) <=
          tolerance::accumulated * scale);
    CHECK(std::abs(ops::norm(a.data(), n) - std::sqrt(reference::dot(x, x))) <=
          tolerance::accumulated * std::sqrt(reference::dot(x, x)));
    CHECK(std::abs(ops::cosine(a.data(), b.data(), n) - reference::cosine(x, y)) <=
          tolerance::accumulated);
  }
}

TEST_CASE("pooling: zeros at the edges, divided by the kernel", "[pool]") {
  float const in[] = {5, 1, 0, 2, 10};
  float out[5];
  ops::pool(pooling::average, in, 5, 3, out);
  CHECK(std::abs(out[0] - 2.0) <= tolerance::elementwise);
  CHECK(std::abs(out[4] - 4.0) <= tolerance::elementwise);
  ops::pool(pooling::maximum, in, 5, 3, out);
  CHECK(out[0] == 5.0f);
  CHECK(out[2] == 2.0f);
  ops::pool(pooling::average, in, 1, 5, out);  // kernel wider than the row
  CHECK(out[0] == 1.0f);
}

TEST_CASE("the total order: score, then lower index, NaN last", "[top_k]") {
  float const nan = std::nanf("");
  float const scores[] = {1, nan, 3, 3, -INFINITY, 2, INFINITY, -0.0f, 0.0f};
  std::vector<std::uint64_t> keys;
  for (index_t i = 0; i < 9; ++i) keys.push_back(ops::order_key(scores[i], i));
  std::sort(keys.rbegin(), keys.rend());
  std::vector<index_t> order;
  for (auto k : keys) order.push_back(ops::key_index(k));
  CHECK(order == std::vector<index_t>{6, 2, 3, 5, 0, 7, 8, 4, 1});
}

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

namespace {

/// Largest relative error of exp_nonpositive over every `step`-th float of [-87, 0].
double worst_exp(std::uint32_t step) {
  double worst = 0;
  for (std::uint32_t word = 0x80000000u; word <= 0xc2ae0000u; word += step) {
    float const x = detail::bit_cast<float>(word);
    double const expected = std::exp(static_cast<double>(x));
    if (x > -87.0f)
      worst = std::max(
          worst, std::abs(static_cast<double>(ops::exp_nonpositive(x)) - expected) / expected);
  }
  return worst;
}

}  // namespace

TEST_CASE("the vector exponential is as close as its comment says", "[exp]") {
  CHECK(worst_exp(997) < tolerance::exponential);
  CHECK(ops::exp_nonpositive(0.0f) == 1.0f);
  CHECK(ops::exp_nonpositive(-87.0f) == 0.0f);
  CHECK(ops::exp_nonpositive(-INFINITY) == 0.0f);
}
TEST_CASE("every float: the vector exponential", "[.exhaustive]") {
  CHECK(worst_exp(1) < tolerance::exponential);
}

TEST_CASE("group range and affine codes", "[group_range]") {
  float const x[] = {1, -3, 2, 8, 0.5f};
  auto const r = ops::group_range(x, 5, 1);
  CHECK(r.low == -3.0f);
  CHECK(r.high == 8.0f);
  auto const constant = ops::fit_affine({2.5f, 2.5f}, 2, rounding::precise);
  CHECK(constant.decode(ops::encode_affine(2.5f, constant, 2, rounding::precise)) == 2.5f);
  auto const a = ops::fit_affine({0.0f, 3.0f}, 2, rounding::precise);
  CHECK(ops::encode_affine(0.5f, a, 2, rounding::precise) == 0);  // ties to even
  CHECK(ops::encode_affine(1.5f, a, 2, rounding::precise) == 2);
  CHECK(ops::encode_affine(99.0f, a, 2, rounding::precise) == 3);
}

TEST_CASE("what no group holds still gets a code: NaN 0, infinities the ends", "[group_range]") {
  ops::affine const a{from_float<f16>(0.5f), from_float<f16>(-1.0f)};
  for (auto mode : {rounding::precise, rounding::authors})
    for (int bits : {2, 4, 8}) {
      CHECK(ops::encode_affine(NAN, a, bits, mode) ==
            0);  // met in a damaged cache's tail, found by fuzzing
      CHECK(ops::encode_affine(-INFINITY, a, bits, mode) == 0);
      CHECK(ops::encode_affine(INFINITY, a, bits, mode) == (1u << bits) - 1);
      CHECK(ops::encode_affine(1.0f, ops::affine{from_float<f16>(NAN), a.low}, bits, mode) == 0);
    }
}

TEST_CASE("codes of many values at once are those of one at a time", "[group_range]") {
  std::mt19937 engine(3);
  std::normal_distribution<float> normal(0.0f, 2.0f);
  for (auto mode : {rounding::precise, rounding::authors})
    for (int bits : {2, 4, 8})
      for (int round = 0; round < 50; ++round) {
        float x[32], scale[32], low[32];
        ops::affine a[32];
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
        ops::encode_affine<32>(x, scale, low, bits, mode, codes);
        for (std::size_t i = 0; i < 32; ++i)
          CHECK(codes[i] == ops::encode_affine(x[i], a[i], bits, mode));
      }
}

TEST_CASE("rotation matches the reference and composes", "[rope]") {
  std::mt19937 engine(4);
  std::normal_distribution<float> normal;
  for (bool interleaved : {false, true})
    for (index_t dims : {0, 32, 64}) {
      std::vector<float> x(80);
      for (float& v : x) v = normal(engine);
      rope const r{.base = 10000.0f, .dims = dims, .interleaved = interleaved};
      index_t const n = dims == 0 ? 80 : dims;
      auto const expected = reference::rope({x.begin(), x.end()}, 10000.0,
                                            static_cast<std::size_t>(n), interleaved, 777);
      auto y = x;
      ops::rotate(r, 80, 777, y.data());
      for (std::size_t d = 0; d < 80; ++d)
        CHECK(std::abs(y[d] - expected[d]) <= 5 * tolerance::elementwise);
      ops::rotate(r, 80, -777, y.data());
      for (std::size_t d = 0; d < 80; ++d)
        CHECK(std::abs(y[d] - x[d]) <= 5 * tolerance::elementwise);
      auto z = x;
      ops::rotate(r, 80, 0, z.data());
      CHECK(z == x);
      std::vector<float> table;
      for (index_t i = 0; i < n / 2; ++i)
        table.push_back(static_cast<float>(
            std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(n))));
      rope const from_table{
          .dims = dims, .interleaved = interleaved, .inverse_frequency = table.data()};
      auto w = x;
      ops::rotate(from_table, 80, 5, w.data());
      ops::rotate(r, 80, 5, z.data());
      for (std::size_t d = 0; d < 80; ++d)
        CHECK(std::abs(w[d] - z[d]) <= 5 * tolerance::elementwise);
    }
}

TEST_CASE("compact in place equals compact out of place", "[compact]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .tokens = 60, .head_dim = 8});
  std::vector<std::int32_t> kept;
  std::vector<index_t> counts;
  for (int r = 0; r < 4; ++r) {
    for (std::int32_t i = 0; i < 20; ++i) kept.push_back(i * 3 + r % 3);
    counts.push_back(r == 3 ? 0 : 20 - r);
  }
  data::layouts<bf16> mine(c), other(c);
  auto const source = mine.pages(8);
  auto const target = other.token_major();
  REQUIRE(ops::compact(cpu{}, source, target, kept.data(), counts.data(), 20).ok());
  REQUIRE(ops::compact(cpu{}, source, source, kept.data(), counts.data(), 20).ok());
  for (index_t r = 0; r < 4; ++r)
    for (index_t i = 0; i < counts[static_cast<std::size_t>(r)]; ++i)
      for (index_t d = 0; d < 8; ++d) {
        auto const from = kept[static_cast<std::size_t>(r * 20 + i)];
        REQUIRE(to_float(target.k.at(r / 2, r % 2, i, d)) == c.key(r / 2, r % 2, from, d));
        REQUIRE(to_float(source.k.at(r / 2, r % 2, i, d)) == c.key(r / 2, r % 2, from, d));
        REQUIRE(to_float(source.v.at(r / 2, r % 2, i, d)) == c.value(r / 2, r % 2, from, d));
      }
  kept[1] = 0;  // not ascending
  CHECK(ops::compact(cpu{}, source, target, kept.data(), counts.data(), 20).code ==
        errc::invalid_shape);
}
