// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// MXFP4 and NVFP4: ggml's bytes, torchao's codes, a double reference, and caches that live.

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

constexpr fp4_block mx = fp4_block::mxfp4, nv = fp4_block::nvfp4;

unsigned byte_of(std::byte b) { return static_cast<unsigned>(b); }

/// The stored code of channel d, and its scale.
template <fp4_block Type>
unsigned code_of(data::stored<fp4_rows<Type>> const& s, index_t t, index_t d) {
  auto const at = detail::place_of_fp4<Type>(d / 16, s.dim);
  auto const byte = byte_of(s.block(t)[at.codes + d % at.apart]);
  return at.high || d % 16 >= at.apart ? byte >> 4 : byte & 15u;
}
template <fp4_block Type>
unsigned scale_of(data::stored<fp4_rows<Type>> const& s, index_t t, index_t d) {
  return byte_of(s.block(t)[detail::place_of_fp4<Type>(d / 16, s.dim).scale]);
}

template <fp4_block Type>
void check_rows(fp4_rows<Type> const& codec, std::vector<float> const& x, index_t dim) {
  CAPTURE(dim, codec.scale);
  bool const even = codec.rounding == fp4_rounding::even;
  index_t const n = Type == nv ? 16 : 32;
  data::stored const s(codec, x, dim);
  for (index_t t = 0; t < s.tokens; ++t)
    for (index_t d = 0; d < dim; d += n) {
      float const* const block = x.data() + t * dim + d;
      auto const expected =
          reference::fp4(block, static_cast<int>(n), Type == nv, even, codec.scale);
      REQUIRE(scale_of(s, t, d) == static_cast<unsigned>(expected.scale));
      for (index_t c = 0; c < n; ++c) {
        auto const i = static_cast<std::size_t>(c);
        REQUIRE(code_of(s, t, d + c) == static_cast<unsigned>(expected.codes[i]));
        REQUIRE(s.value(t, d + c) == static_cast<float>(expected.values[i]));
      }
    }
}

}  // namespace

TEST_CASE("4-bit floats are ggml's bytes and values", "[golden][fp4]") {
  golden const g("fp4");
  auto const x = g.floats("x");
  auto const check = [&](auto const& codec, std::string const& name) {
    CAPTURE(name);
    for (index_t const dim : {64, 128, 192}) {
      data::stored const s(codec, x, dim);
      auto const& bytes = g["bytes_" + name];
      REQUIRE(s.bytes.size() == bytes.size());
      for (std::size_t i = 0; i < bytes.size(); ++i) {
        CAPTURE(i);
        REQUIRE(byte_of(s.bytes[i]) == bytes[i]);
      }
      for (index_t t = 0; t < s.tokens; ++t)
        for (index_t d = 0; d < dim; ++d)
          REQUIRE(s.value(t, d) == g["value_" + name][static_cast<std::size_t>(t * dim + d)]);
    }
  };
  check(fp4_rows<mx>{}, "mxfp4");
  check(fp4_rows<nv>{}, "nvfp4");
}

TEST_CASE("4-bit floats rounded to even are torchao's", "[golden][fp4]") {
  golden const g("fp4");
  auto const y = g.floats("y");
  auto const check = [&](auto const& codec, std::string const& name, index_t n) {
    CAPTURE(name);
    data::stored const s(codec, y, 96);
    auto const end = name.find('_') == std::string::npos ? "" : name.substr(name.find('_'));
    auto const &scale = g[name.substr(0, 2) + "_scale" + end],
               &code = g[name.substr(0, 2) + "_code" + end];
    for (index_t t = 0; t < 12; ++t)
      for (index_t d = 0; d < 96; ++d) {
        REQUIRE(scale_of(s, t, d) == scale[static_cast<std::size_t>(t * (96 / n) + d / n)]);
        REQUIRE(code_of(s, t, d) == code[static_cast<std::size_t>(t * 96 + d)]);
      }
  };
  float most = 0;
  for (float const v : y) most = std::max(most, std::abs(v));
  check(fp4_rows<mx>{.rounding = fp4_rounding::even}, "mx", 32);
  check(fp4_rows<nv>{.rounding = fp4_rounding::even}, "nv_1", 16);
  check(fp4_rows<nv>{.rounding = fp4_rounding::even, .scale = most / 2688}, "nv_all", 16);
}

TEST_CASE("4-bit floats are the reference's", "[fp4]") {
  for (auto const rule : {fp4_rounding::ggml, fp4_rounding::even})
    for (float const size : {1e-4f, 0.01f, 1.0f, 400.0f}) {
      auto x = data::rows(40, 192, size, size, 5);
      for (std::size_t i = 0; i < x.size(); i += 3) x[i] = std::round(x[i] * 4) / 4;
      for (index_t const dim : {32, 64, 96, 192}) check_rows(fp4_rows<mx>{0, rule}, x, dim);
      for (index_t const dim : {16, 48, 64, 192}) {
        check_rows(fp4_rows<nv>{0, rule}, x, dim);
        check_rows(fp4_rows<nv>{0, rule, 0.25f}, x, dim);
      }
    }
}

TEST_CASE("4-bit floats decode to what is coded alike again", "[fp4]") {
  auto const x = data::rows(64, 64, 1.0f, 8.0f);
  auto const check = [&](auto const& codec) {
    data::stored const s(codec, x, 64);
    std::vector<float> decoded;
    for (index_t t = 0; t < 64; ++t)
      for (index_t d = 0; d < 64; ++d) decoded.push_back(s.value(t, d));
    data::stored const again(codec, decoded, 64);
    CHECK(again.bytes == s.bytes);
  };
  check(fp4_rows<mx>{});
  check(fp4_rows<mx>{.rounding = fp4_rounding::even});
}

TEST_CASE("fp4 caches live", "[fp4]") {
  auto const live = [](auto const& policy, data::shape const& shape) {
    data::lives_coded(policy, shape, 18, 0.25);  // the largest of 8 in a block of MXFP4 becomes 6
  };
  live(fp4<mx>{}, {.sequences = 2, .kv_heads = 1, .group = 4, .tokens = 45, .head_dim = 128});
  live(fp4<nv>{{.residual = 9}}, {.group = 8, .tokens = 33, .head_dim = 80, .value_dim = 16});
  live(fp4<nv, mx>{{.rounding = fp4_rounding::even, .key_scale = 0.01f}},
       {.kv_heads = 1, .group = 11, .tokens = 50, .head_dim = 64, .value_dim = 96});
  live(fp4<mx, nv, float>{{.value_scale = 0.002f}},
       {.kv_heads = 3, .group = 1, .tokens = 1, .head_dim = 64, .value_dim = 128});
  for (index_t const group : {2, 3, 5, 6, 7})
    live(fp4<nv>{}, {.kv_heads = 1, .group = group, .tokens = 35, .head_dim = 256});
  data::holds_budget(fp4<nv>{{.residual = 6}}, 20);
}

TEST_CASE("bits for each element of fp4 are the formula's", "[fp4]") {
  for (index_t const dim : {32, 64, 96, 128, 256}) {
    CHECK(32 * fp4_rows<mx>{}.sizes(dim, 1).block_bytes == 17 * dim);  // 4.25
    CHECK(32 * fp4_rows<nv>{}.sizes(dim, 1).block_bytes == 18 * dim);  // 4.5
  }
  CHECK(fp4_rows<nv>{}.sizes(80, 1).block_bytes == 45);
}

TEST_CASE("what is no number is coded as something", "[fp4]") {
  float const inf = std::numeric_limits<float>::infinity();
  for (float const odd : {std::numeric_limits<float>::quiet_NaN(), inf, -inf, 3e38f, 1e-45f}) {
    std::vector<float> x(64, 1.0f);
    x[0] = x[40] = odd;
    static_cast<void>(data::stored(fp4_rows<mx>{}, x, 64).value(0, 40));
    static_cast<void>(data::stored(fp4_rows<nv>{}, x, 64).value(0, 40));
  }
  CHECK(detail::fp4_format<nv>::half_scale(0x7f) == 0.0f);
  CHECK(detail::fp4_format<mx>::half_scale(0) == 0x1p-128f);
}

TEST_CASE("fp4 says what it needs", "[fp4]") {
  auto const check = [](auto const& policy, index_t dim) {
    return make_plan(policy, {1, 1, 10, dim}).check().code;
  };
  CHECK(check(fp4<mx>{}, 96) == errc::ok);
  CHECK(check(fp4<mx>{}, 80) == errc::invalid_shape);
  CHECK(check(fp4<nv>{}, 80) == errc::ok);
  CHECK(check(fp4<nv>{}, 72) == errc::invalid_shape);
  CHECK(check(fp4<mx>{{.residual = -1}}, 64) == errc::invalid_option);
  CHECK(check(fp4<mx>{{.key_scale = 2.0f}}, 64) == errc::invalid_option);
  CHECK(check(fp4<nv>{{.rounding = static_cast<fp4_rounding>(7)}}, 64) == errc::invalid_option);
  for (float const odd : {0.0f, -1.0f, 1e30f, std::numeric_limits<float>::quiet_NaN()})
    CHECK(check(fp4<nv>{{.value_scale = odd}}, 64) == errc::invalid_option);
  data::cache c({.kv_heads = 1, .tokens = 8, .head_dim = 64});
  c.v[9] = 3000.0f;
  data::compressed const refused(fp4<nv>{}, c.view());
  CHECK(refused.result.code == errc::non_finite);
  CHECK(refused.storage.untouched());
  CHECK(data::compressed(fp4<nv>{{.value_scale = 2.0f}}, c.view()).result.ok());
  CHECK(data::compressed(fp4<mx>{}, c.view()).result.ok());
  fp4_rows<nv> const rows{3, fp4_rounding::even, 0.5f};
  fp4_rows<nv> back;
  REQUIRE(fp4_rows<nv>::read(rows.written(), back).ok());
  CHECK(back.written() == rows.written());
  fp4_rows<mx> other;
  CHECK(fp4_rows<mx>::read(rows.written(), other).code == errc::foreign);
  form bad = rows.written();
  bad.words[1] = 2;
  CHECK(fp4_rows<nv>::read(bad, back).code == errc::foreign);
}
