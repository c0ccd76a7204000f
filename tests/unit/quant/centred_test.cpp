// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Our own codec against a double reference, its bits by its formula, and caches that live.

#include "reference/centred.hpp"

#include "support/catch.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <limits>

using namespace kvslim;

namespace {

/// Every stored row is the reference's, or one as good: rounding may decide between two.
template <int Bits, bool Keys, class Packed>
void check_rows(Packed const& packed, reference::matrix const& rows, index_t r) {
  auto const half = [&] {
    if constexpr (Keys)
      return packed.keys(r);
    else
      return packed.values(r);
  }();
  auto const dim = static_cast<std::size_t>(half.dim);
  auto const h = reference::hadamard(dim);
  auto const top = static_cast<double>(*reinterpret_cast<float const*>(half.state));
  auto const* const mean = reinterpret_cast<f16 const*>(half.state + 4);
  // The mean that is stored is the rows' mean, the top covers the largest.
  std::vector<double> expected(dim, 0.0);
  double largest = 0, apart = 0, norm = 0;
  reference::matrix all;
  for (auto const& row : rows) {
    std::vector<double> y(dim, 0.0);
    for (std::size_t i = 0; i < dim; ++i)
      for (std::size_t d = 0; d < dim; ++d)
        y[i] += (ops::flips_sign(half.codec.seed, static_cast<index_t>(d)) ? -row[d] : row[d]) *
                h[i][d];
    for (std::size_t i = 0; i < dim; ++i) expected[i] += y[i] / static_cast<double>(rows.size());
    all.push_back(y);
  }
  for (std::size_t i = 0; i < dim; ++i) {
    apart += std::pow(expected[i] - to_float(mean[i]), 2);
    norm += expected[i] * expected[i];
    for (auto& y : all) {
      y[i] -= to_float(mean[i]);
      largest = std::max(largest, std::abs(y[i]));
    }
  }
  CHECK(std::sqrt(apart) <= tolerance::f16_storage * std::sqrt(norm) + 1e-6);
  CHECK(std::abs(top / 1.5 - largest) <=
        tolerance::accumulated * largest + tolerance::elementwise * std::sqrt(norm));
  for (std::size_t t = 0; t < all.size(); ++t) {
    auto const best = reference::centred(all[t], top, Bits);
    double error = 0;
    half.visit(
        static_cast<index_t>(t), 1, [&](auto const& codec, std::byte const* block, site const& at) {
          if constexpr (requires { codec.code(block, at, 0); })
            for (std::size_t i = 0; i < dim; ++i) {
              auto const j = static_cast<index_t>(i);
              error += std::pow(codec.coordinate(block, at, j) - to_float(mean[i]) - all[t][i], 2);
              REQUIRE(codec.code(block, at, j) < (1u << Bits));
            }
        });
    REQUIRE(error <= best.error * (1 + 10 * tolerance::accumulated) +
                         tolerance::elementwise * (largest * largest + norm));
  }
}

template <int Bits>
void check_bits(data::shape const& shape) {
  CAPTURE(Bits, shape.head_dim, shape.tokens);
  data::cache c(shape, 3);
  for (std::size_t i = 0; i < c.k.size(); ++i) c.k[i] += static_cast<float>(i % 7) - 2.0f;
  data::compressed const run(centred<Bits>{{.residual = 0, .seed = 5}}, c.view(), {},
                             {.append_tokens = 40});
  INFO(run.result.message);
  REQUIRE(run.result.ok());
  CHECK(run.intact());
  for (index_t r = 0; r < shape.rows(); ++r) {
    check_rows<Bits, true>(run.packed, oracle::keys(c, r / shape.kv_heads, r % shape.kv_heads), r);
    check_rows<Bits, false>(run.packed, oracle::values(c, r / shape.kv_heads, r % shape.kv_heads),
                            r);
  }
  CHECK(oracle::attend_error(run.packed, c, 2) <= tolerance::attend);
  data::life life(run.packed, c);
  for (int i = 0; i < 33; ++i) {
    REQUIRE(life.append().ok());
    REQUIRE(life.settle().ok());
  }
  CHECK(life.intact());
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  std::vector<std::byte> bytes(serialized_bytes(run.packed));
  REQUIRE(serialize(run.packed, bytes.data(), bytes.size()).ok());
  data::buffer storage(run.plan.packed_bytes());
  packed_cache const other(run.plan, storage);
  REQUIRE(deserialize(bytes.data(), bytes.size(), other).ok());
  CHECK(oracle::attend_error(other, c) <= tolerance::attend);
}

}  // namespace

TEST_CASE("every width stores the best of its levels", "[centred]") {
  data::shape const shape{.sequences = 2, .kv_heads = 1, .group = 4, .tokens = 50, .head_dim = 64};
  check_bits<1>(shape);
  check_bits<2>(shape);
  check_bits<3>(shape);
  check_bits<4>(shape);
  check_bits<5>(shape);
  check_bits<6>(shape);
  check_bits<7>(shape);
  check_bits<8>(shape);
  check_bits<5>({.kv_heads = 2, .group = 8, .tokens = 33, .head_dim = 80, .value_dim = 48});
  check_bits<6>({.kv_heads = 1, .group = 1, .tokens = 1, .head_dim = 96});
  check_bits<4>({.kv_heads = 3, .group = 2, .tokens = 40, .head_dim = 12, .value_dim = 1});
}

TEST_CASE("bits for each element are the formula's", "[centred]") {
  auto const check = [](auto keys, auto values, int key_bits, int value_bits, index_t dim) {
    index_t const tokens = 320;
    auto const bytes = [&](auto const& codec) {
      auto const z = codec.sizes(dim, tokens);
      return tokens / z.block_tokens * z.block_bytes + z.state_bytes;
    };
    // Bits + 5 / dim + (16 + 32 / dim) / tokens, times dim * tokens elements.
    CHECK(8 * bytes(keys) == (key_bits * dim + 5) * tokens + 16 * dim + 32);
    CHECK(8 * bytes(values) == (value_bits * dim + 5) * tokens + 16 * dim + 32);
  };
  for (index_t const dim : {64, 96, 128, 256}) {
    check(centred_key<1>{}, centred_value<8>{}, 1, 8, dim);
    check(centred_key<3>{}, centred_value<7>{}, 3, 7, dim);
    check(centred_key<5>{}, centred_value<6>{}, 5, 6, dim);
    check(centred_key<2>{}, centred_value<4>{}, 2, 4, dim);
  }
}

TEST_CASE("centred caches lose tokens and take their places", "[centred]") {
  data::shape const shape{.sequences = 2, .kv_heads = 2, .group = 2, .tokens = 70, .head_dim = 64};
  data::cache const c(shape);
  data::compressed const run(
      pipeline{knorm{}, top_k{{.budget = 40, .sinks = 4}}, centred<5, 3>{{.residual = 6}}},
      c.view(), {}, {.append_tokens = 4, .evicts = true});
  REQUIRE(run.result.ok());
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  data::life life(run.packed, c);
  std::mt19937 engine(4);
  for (int i = 0; i < 60; ++i) {
    REQUIRE(life.append().ok());
    std::vector<std::int32_t> victims;
    for (index_t r = 0; r < 4; ++r) {
      auto const slots = static_cast<std::uint32_t>(run.packed.slots(r / 2, r % 2));
      auto slot = static_cast<std::int32_t>(engine() % slots);
      while (run.packed.position(r / 2, r % 2, slot) == empty_slot)
        slot = static_cast<std::int32_t>(engine() % slots);
      victims.push_back(slot);
    }
    REQUIRE(evict(cpu{}, run.packed, victims.data()).ok());
    REQUIRE(life.settle().ok());
    REQUIRE(oracle::attend_error(run.packed, c) <= tolerance::attend);
  }
  CHECK(run.packed.bytes() > 0);
}

TEST_CASE("tokens far from the prompt's are coded as well as they can be", "[centred]") {
  // Nothing but zeros, then tokens: the mean is 0 and the step 0, so they decode to nothing.
  data::cache c({.kv_heads = 1, .tokens = 40, .head_dim = 64});
  std::fill(c.k.begin(), c.k.end(), 0.0f);
  std::fill(c.v.begin(), c.v.end(), 3.0f);
  data::compressed const run(centred<4>{{.residual = 0}}, c.view());
  REQUIRE(run.result.ok());
  for (index_t d = 0; d < 64; ++d) {
    CHECK(run.packed.key(0, 7, d) == 0.0f);
    CHECK(std::abs(run.packed.value(0, 7, d) - 3.0f) <= 3 * tolerance::f16_storage);
  }
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  // A prompt that codes nothing: the reference serves.
  data::cache const few({.kv_heads = 1, .tokens = 3, .head_dim = 64});
  data::compressed const late(centred<8>{{.residual = 8, .reference = 8.0f}}, few.view(), {},
                              {.append_tokens = 60});
  REQUIRE(late.result.ok());
  data::life life(late.packed, few);
  for (int i = 0; i < 50; ++i) {
    REQUIRE(life.append().ok());
    REQUIRE(life.settle().ok());
  }
  CHECK(life.storage_error() <= 2 * tolerance::eight_bits);
  CHECK(oracle::attend_error(late.packed, few) <= tolerance::attend);
}

TEST_CASE("centred says what it needs", "[centred]") {
  auto const check = [](auto const& policy, index_t dim) {
    return make_plan(policy, {1, 1, 10, dim}).check().code;
  };
  CHECK(check(centred<4>{}, 64) == errc::ok);
  CHECK(check(centred<4>{}, 100) == errc::invalid_shape);
  CHECK(check(centred<4>{}, 2) == errc::invalid_shape);
  CHECK(check(centred<4>{}, 2048) == errc::invalid_shape);
  CHECK(check(centred<4>{{.residual = -1}}, 64) == errc::invalid_option);
  CHECK(check(centred<4>{{.reference = 0.0f}}, 64) == errc::invalid_option);
  CHECK(check(centred<4>{{.reference = std::numeric_limits<float>::quiet_NaN()}}, 64) ==
        errc::invalid_option);
  data::cache c({.kv_heads = 1, .tokens = 8, .head_dim = 64});
  c.v[9] = 2100.0f;
  CHECK(data::compressed(centred<4>{}, c.view()).result.code == errc::non_finite);
  centred_key<4> const key{3, 5.0f, 7ull << 33};
  centred_key<4> back;
  REQUIRE(centred_key<4>::read(key.written(), back).ok());
  CHECK(back.written() == key.written());
  centred_key<5> other;
  CHECK(centred_key<5>::read(key.written(), other).code == errc::foreign);
  form bad = key.written();
  bad.words[1] = 0;
  CHECK(centred_key<4>::read(bad, back).code == errc::foreign);
}
