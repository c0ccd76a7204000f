// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

namespace {

/// A decoded value may be off by half a step, by the rounding of the stored parameters, and by f16
/// rounding of the value itself.
double bound(reference::group g, int bits) {
  double const levels = (1 << bits) - 1;
  return g.step / 2 + (std::abs(g.low) + g.step * levels) * tolerance::f16_storage;
}

template <int Bits>
void check_kivi(index_t tokens, index_t group, index_t residual, index_t head_dim,
                index_t value_group) {
  data::cache const c({.kv_heads = 1, .tokens = tokens, .head_dim = head_dim});
  data::compressed const run(
      kivi<Bits>{{.group = group, .residual = residual, .value_group = value_group}}, c.view(),
      evidence<>{});
  REQUIRE(run.result.ok());
  index_t const key_coded = tokens - tokens % residual,
                value_coded = std::max<index_t>(0, tokens - residual);
  CHECK(run.packed.row(0).key_coded == key_coded);
  CHECK(run.packed.row(0).value_coded == value_coded);
  for (index_t t = 0; t < tokens; ++t)
    for (index_t d = 0; d < head_dim; ++d) {
      double key_error = std::abs(run.packed.key(0, t, d) - c.key(0, 0, t, d)),
             value_error = std::abs(run.packed.value(0, t, d) - c.value(0, 0, t, d));
      if (t >= key_coded) {
        REQUIRE(key_error == 0.0);  // inputs are f16 values: the residual is exact
      } else {
        std::vector<double> x;
        for (index_t i = t / group * group; i < t / group * group + group; ++i)
          x.push_back(c.key(0, 0, i, d));
        REQUIRE(key_error <= bound(reference::affine(x, Bits), Bits));
      }
      index_t const width = value_group == 0 ? group : value_group;
      if (t >= value_coded) {
        REQUIRE(value_error == 0.0);
      } else {
        std::vector<double> x;
        for (index_t i = d / width * width; i < d / width * width + width; ++i)
          x.push_back(c.value(0, 0, t, i));
        REQUIRE(value_error <= bound(reference::affine(x, Bits), Bits));
      }
    }
}

template <int Bits>
void check_int(index_t tokens, index_t head_dim, index_t residual) {
  data::cache const c({.kv_heads = 2, .tokens = tokens, .head_dim = head_dim});
  data::compressed const run(int_per_token<Bits>{{.residual = residual}}, c.view(), evidence<>{});
  REQUIRE(run.result.ok());
  for (index_t h = 0; h < 2; ++h)
    for (index_t t = 0; t < tokens; ++t) {
      std::vector<double> k, v;
      for (index_t d = 0; d < head_dim; ++d)
        k.push_back(c.key(0, h, t, d)), v.push_back(c.value(0, h, t, d));
      bool const exact = t >= std::max<index_t>(0, tokens - residual);
      for (index_t d = 0; d < head_dim; ++d) {
        REQUIRE(std::abs(run.packed.key(h, t, d) - c.key(0, h, t, d)) <=
                (exact ? 0.0 : bound(reference::affine(k, Bits), Bits)));
        REQUIRE(std::abs(run.packed.value(h, t, d) - c.value(0, h, t, d)) <=
                (exact ? 0.0 : bound(reference::affine(v, Bits), Bits)));
      }
    }
}

}  // namespace

TEST_CASE("kivi's codes stay within half a step and its residual is exact", "[kivi]") {
  check_kivi<2>(300, 32, 128, 64, 0);
  check_kivi<4>(257, 32, 64, 128, 0);
  check_kivi<8>(200, 64, 64, 64, 0);
  check_kivi<2>(130, 32, 32, 80, 16);  // head_dim 80: a value group that divides it
  check_kivi<4>(130, 96, 96, 112, 28);
  check_kivi<2>(100, 32, 128, 64, 0);  // shorter than the residual: nothing is quantized
  check_kivi<2>(1, 32, 32, 32, 0);
}

TEST_CASE("int_per_token stays within half a step", "[int_per_token]") {
  check_int<8>(100, 64, 0);
  check_int<4>(33, 80, 0);
  check_int<4>(70, 128, 16);
  check_int<8>(1, 576, 0);
}

TEST_CASE("groups of equal values decode to exactly that value", "[kivi][int_per_token]") {
  data::cache c({.kv_heads = 1, .tokens = 64, .head_dim = 32});
  std::fill(c.k.begin(), c.k.end(), -1.5f);
  std::fill(c.v.begin(), c.v.end(), 0.0f);
  data::compressed const a(kivi<2>{{.residual = 32}}, c.view(), evidence<>{});
  data::compressed const b(int_per_token<4>{}, c.view(), evidence<>{});
  CHECK(a.packed.key(0, 3, 7) == -1.5f);
  CHECK(b.packed.key(0, 3, 7) == -1.5f);
  CHECK(a.packed.value(0, 3, 7) == 0.0f);
}

TEST_CASE("re-encoding a decoded cache changes no code", "[kivi]") {
  data::cache c({.kv_heads = 1, .tokens = 128, .head_dim = 64});
  kivi<4> const policy{{.group = 32, .residual = 32}};
  data::compressed const first(policy, c.view(), evidence<>{});
  for (index_t t = 0; t < 128; ++t)
    for (index_t d = 0; d < 64; ++d)
      c.k[c.index(0, 0, t, d)] = first.packed.key(0, t, d),
                           c.v[c.index(0, 0, t, d)] = first.packed.value(0, t, d);
  data::compressed const second(policy, c.view(), evidence<>{});
  auto const codec = policy.key_codec();
  auto const at = first.plan.layout(128, 0);
  for (index_t b = 0; b < 4; ++b)
    for (index_t t = 0; t < 32; ++t)
      for (index_t d = 0; d < 64; ++d) {
        index_t const offset = at.key_blocks + b * codec.block_bytes(64);
        REQUIRE(codec.code(first.storage.data() + first.packed.row(0).offset + offset, t, d, 64) ==
                codec.code(second.storage.data() + second.packed.row(0).offset + offset, t, d, 64));
      }
}

TEST_CASE("outlier key channels hurt per-token codes and not per-channel ones",
          "[kivi][int_per_token]") {
  data::cache c({.kv_heads = 1, .tokens = 128, .head_dim = 64});
  for (index_t t = 0; t < 128; ++t) c.k[c.index(0, 0, t, 3)] += 60.0f;
  data::compressed const a(kivi<4>{{.residual = 32}}, c.view(), evidence<>{});
  data::compressed const b(int_per_token<4>{}, c.view(), evidence<>{});
  double per_channel = 0, per_token = 0;
  for (index_t t = 0; t < 96; ++t)
    for (index_t d = 0; d < 64; ++d) {
      if (d == 3) continue;
      per_channel += std::pow(a.packed.key(0, t, d) - c.key(0, 0, t, d), 2);
      per_token += std::pow(b.packed.key(0, t, d) - c.key(0, 0, t, d), 2);
    }
  CHECK(per_channel * 20 < per_token);
}
