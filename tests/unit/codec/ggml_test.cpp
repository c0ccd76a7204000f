// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/ggml.hpp"

#include "support/catch.hpp"
#include "support/flush.hpp"
#include "support/golden.hpp"
#include "support/stored.hpp"
#include "support/tolerance.hpp"

#include <kvslim/codec/ggml.hpp>

#include <limits>
#include <string>

using namespace kvslim;

namespace {

constexpr reference::ggml_type type_of(ggml_block b) {
  int const bits = b == ggml_block::q8_0                            ? 8
                   : b == ggml_block::q5_0 || b == ggml_block::q5_1 ? 5
                                                                    : 4;
  return {bits, b == ggml_block::q5_1 || b == ggml_block::q4_1};
}

/// Calls f(codec, name) for all five.
template <class F>
void each_type(F const& f) {
  f(ggml_rows<ggml_block::q8_0>{}, "q8_0");
  f(ggml_rows<ggml_block::q5_1>{}, "q5_1");
  f(ggml_rows<ggml_block::q5_0>{}, "q5_0");
  f(ggml_rows<ggml_block::q4_1>{}, "q4_1");
  f(ggml_rows<ggml_block::q4_0>{}, "q4_0");
}

unsigned byte_of(std::byte b) { return static_cast<unsigned>(b); }

/// Random rows of every size, some with equal magnitudes, zeros of both signs and exact ties.
std::vector<float> mixed(index_t tokens, index_t dim, unsigned seed) {
  auto x = data::rows(tokens, dim, 1.0f, 0.0f, seed);
  std::mt19937 engine(seed + 100);
  for (index_t b = 0; b < tokens * dim / 32; ++b) {
    unsigned const kind = engine() % 8;
    float const size = std::ldexp(1.0f, static_cast<int>(engine() % 40) - 26);
    for (index_t i = 0; i < 32; ++i) {
      float& v = x[static_cast<std::size_t>(b * 32 + i)];
      if (kind == 0) v = std::copysign(static_cast<float>(engine() % 3), v);
      if (kind == 1) v = static_cast<float>(engine() % 33) * 0.5f - 8.0f;
      if (kind == 2) v = static_cast<float>(engine() % 509) * 0.5f - 127.0f;
      if (kind == 3) v += 100.0f;
      if (kind == 4) v *= 1e-25f;
      if (kind > 4) v *= size;
    }
  }
  return x;
}

/// What a code may be away from, in steps; the symmetric types cannot reach the far end.
double steps_off(reference::ggml_type type) { return type.bits == 8 || type.minimum ? 0.5 : 1.0; }

}  // namespace

TEST_CASE("ggml's blocks are ggml's bytes and values", "[golden][ggml]") {
  golden const g("ggml");
  auto const x = g.floats("x");
  each_type([&](auto const& codec, std::string const& name) {
    for (index_t dim : {32, 64, 96, 128, 256}) {  // rows of a longer head are blocks side by side
      data::stored const s(codec, x, dim);
      auto const& bytes = g["bytes_" + name];
      REQUIRE(s.bytes.size() == bytes.size());
      for (std::size_t i = 0; i < bytes.size(); ++i) REQUIRE(byte_of(s.bytes[i]) == bytes[i]);
      for (index_t t = 0; t < s.tokens; ++t)
        for (index_t d = 0; d < dim; ++d)
          REQUIRE(s.value(t, d) == g["value_" + name][static_cast<std::size_t>(t * dim + d)]);
    }
  });
}

TEST_CASE("ggml's blocks are the reference's for any input", "[ggml]") {
  each_type([](auto const& codec, std::string const& name) {
    CAPTURE(name);
    auto const type = type_of(codec.block_type);
    index_t const dim = 96, tokens = 200;
    auto const x = mixed(tokens, dim, 5);
    data::stored const s(codec, x, dim);
    std::size_t const size = reference::ggml_bytes(type);
    REQUIRE(s.bytes.size() == x.size() / 32 * size);
    for (std::size_t b = 0; b < x.size() / 32; ++b) {
      auto const expected = reference::ggml_encode(x.data() + b * 32, type);
      for (std::size_t i = 0; i < size; ++i) REQUIRE(byte_of(s.bytes[b * size + i]) == expected[i]);
      auto const* const block =
          static_cast<unsigned char const*>(static_cast<void const*>(s.bytes.data() + b * size));
      float whole[32];
      detail::load_ggml<std::remove_cvref_t<decltype(codec)>::block_type>(s.bytes.data() + b * size,
                                                                          whole);
      for (int i = 0; i < 32; ++i) {
        auto const d = static_cast<index_t>(b) * 32 + i;
        float const got = s.value(d / dim, d % dim);
        REQUIRE(got == static_cast<float>(reference::ggml_decode(block, type, i)));
        REQUIRE(got == whole[i]);
      }
    }
  });
}

TEST_CASE("ggml's blocks decode to within their own step, and to the same again", "[ggml]") {
  each_type([](auto const& codec, std::string const& name) {
    CAPTURE(name);
    auto const type = type_of(codec.block_type);
    index_t const dim = 64, tokens = 64;
    for (float spread : {1e-3f, 1.0f, 200.0f}) {
      auto const x = data::rows(tokens, dim, spread, 8 * spread);
      data::stored const s(codec, x, dim);
      std::size_t const size = reference::ggml_bytes(type);
      for (std::size_t i = 0; i < x.size(); ++i) {
        float step;
        f16 stored;
        std::memcpy(&stored, s.bytes.data() + i / 32 * size, sizeof stored);
        step = std::abs(to_float(stored));
        double const levels = type.bits == 8 ? 127 : (1 << type.bits);
        // What rounding the step and the minimum to halves, subnormal ones too, may move.
        double const rounded = (step * levels + std::abs(x[i])) * 0x1p-11 + (levels + 1) * 0x1p-25;
        auto const d = static_cast<index_t>(i);
        REQUIRE(std::abs(s.value(d / dim, d % dim) - x[i]) <= step * steps_off(type) + rounded);
      }
      std::vector<float> decoded;
      for (index_t t = 0; t < tokens; ++t)
        for (index_t d = 0; d < dim; ++d) decoded.push_back(s.value(t, d));
      data::stored const again(codec, decoded, dim);
      CHECK(again.bytes == s.bytes);
    }
  });
}

TEST_CASE("ggml's rows are attended as they decode", "[ggml]") {
  each_type([](auto const& codec, std::string const& name) {
    CAPTURE(name);
    for (index_t dim : {32, 64, 96, 128, 256}) {
      index_t const tokens = 70;
      auto const x = data::rows(tokens, dim, 1.0f, 6.0f), q = data::rows(8, dim, 1.0f, 0.0f, 2),
                 p = data::rows(8, run_tokens, 1.0f, 0.0f, 3);
      data::stored const s(codec, x, dim), singly(codec, x, dim, 1);
      CHECK(singly.bytes == s.bytes);
      for (index_t heads = 1; heads <= 8; ++heads)
        for (index_t first : {0, 13, 45}) {
          for (index_t n : {index_t{1}, index_t{7}, std::min(run_tokens, tokens - first)}) {
            CHECK(data::dot_error(s, first, n, heads, q) <= data::roundings(40));
            CHECK(data::accumulate_error(s, first, n, heads, p) <= data::roundings(40));
          }
        }
    }
  });
}

TEST_CASE("what ggml's rows store, and what they refuse", "[ggml]") {
  constexpr index_t huge = std::numeric_limits<index_t>::max();
  CHECK(ggml_rows<ggml_block::q8_0>{}.sizes(128, 1).block_bytes == 4 * 34);
  CHECK(ggml_rows<ggml_block::q5_1>{}.sizes(128, 1).block_bytes == 4 * 24);
  CHECK(ggml_rows<ggml_block::q5_0>{}.sizes(128, 1).block_bytes == 4 * 22);
  CHECK(ggml_rows<ggml_block::q4_1>{}.sizes(128, 1).block_bytes == 4 * 20);
  CHECK(ggml_rows<ggml_block::q4_0>{}.sizes(128, 1).block_bytes == 4 * 18);
  ggml_rows<ggml_block::q4_0> const q{.residual = 128};
  CHECK(q.sizes(64, 300).coded(300) == 172);
  for (index_t dim : {index_t{0}, index_t{-64}, index_t{80}, index_t{33}, huge, -huge - 1})
    CHECK(q.check(dim).code == errc::invalid_shape);
  for (index_t residual : {index_t{-1}, (index_t{1} << 20) + 1, huge, -huge - 1})
    CHECK(ggml_rows<ggml_block::q4_0>{residual}.check(64).code == errc::invalid_option);
}

TEMPLATE_TEST_CASE("what ggml's rows accept has finite steps, in any tail", "[ggml]", float, bf16,
                   f16) {
  auto const check = [](auto const& codec) {
    float const limit = codec.limit();
    CHECK(to_float(from_float<TestType>(limit)) == limit);
    for (float sign : {1.0f, -1.0f}) {
      std::vector<float> x(64, sign * limit);
      for (std::size_t i = 0; i < 32; i += 2) x[i] = -x[i];
      data::stored const s(codec, x, 64);
      for (index_t d = 0; d < 64; ++d) CHECK(is_finite(s.value(0, d)));
    }
  };
  check(ggml_rows<ggml_block::q8_0, TestType>{});
  check(ggml_rows<ggml_block::q5_1, TestType>{});
  check(ggml_rows<ggml_block::q5_0, TestType>{});
  check(ggml_rows<ggml_block::q4_1, TestType>{});
  check(ggml_rows<ggml_block::q4_0, TestType>{});
}

TEST_CASE("ggml's forms keep ggml's numbers and refuse other types", "[ggml]") {
  CHECK(ggml_rows<ggml_block::q8_0>::traits.form.value == 0x70801);
  CHECK(ggml_rows<ggml_block::q4_0, bf16>::traits.form.value == 0x70202);
  using q8 = ggml_rows<ggml_block::q8_0>;
  q8 out{};
  CHECK(q8::read(q8{7}.written(), out).ok());
  CHECK(out.residual == 7);
  CHECK(q8::read(ggml_rows<ggml_block::q5_0>{}.written(), out).code == errc::foreign);
  CHECK((q8::read(ggml_rows<ggml_block::q8_0, bf16>{}.written(), out).code == errc::foreign));
  form damaged = q8{7}.written();
  damaged.words[0] = 0xffffffffu;
  CHECK(q8::read(damaged, out).code == errc::foreign);
  damaged = q8{7}.written();
  damaged.words[3] = 1;
  CHECK(q8::read(damaged, out).code == errc::foreign);
  CHECK(out.residual == 7);
}

TEST_CASE("blocks of what is no number are blocks", "[ggml]") {
  // A damaged tail may hold anything when settle() codes it.
  each_type([](auto const& codec, std::string const&) {
    float const inf = std::numeric_limits<float>::infinity();
    for (float odd : {std::numeric_limits<float>::quiet_NaN(), inf, -inf, 3e38f, 1e-45f}) {
      std::vector<float> x(64, 1.0f);
      x[0] = x[40] = odd;
      data::stored const s(codec, x, 64);
      CHECK(s.bytes.size() == static_cast<std::size_t>(codec.row_bytes(64)));
      static_cast<void>(s.value(0, 40));
    }
  });
}

#if KVSLIM_TESTS_CAN_FLUSH
TEST_CASE("ggml's blocks are the same with subnormals flushed", "[ggml][flush]") {
  each_type([](auto const& codec, std::string const& name) {
    CAPTURE(name);
    for (float spread : {1e-35f, 1e-30f, 1e-8f, 1e-6f, 1.0f}) {
      auto const x = data::rows(32, 64, spread);
      auto const run = [&] {
        data::stored const s(codec, x, 64);
        std::vector<std::uint32_t> out;
        for (std::byte b : s.bytes) out.push_back(byte_of(b));
        for (index_t t = 0; t < 32; ++t)
          for (index_t d = 0; d < 64; ++d)
            out.push_back(detail::bit_cast<std::uint32_t>(s.value(t, d)));
        return out;
      };
      auto const expected = run();
      auto const got = [&] {
        data::flushed const now;
        return run();
      }();
      CHECK(got == expected);
    }
  });
}
#endif
