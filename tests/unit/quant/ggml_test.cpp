// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Caches of ggml's types through their whole life.

#include "reference/ggml.hpp"

#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <limits>

using namespace kvslim;

namespace {

/// New tokens for every row: n of them, of any size that f16 holds.
struct news {
  std::vector<float> k, v;
  rows_view<float const> keys, values;

  news(extents const& e, index_t n, unsigned seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    k.resize(static_cast<std::size_t>(e.rows() * n * e.head_dim));
    v.resize(static_cast<std::size_t>(e.rows() * n * e.value_width()));
    for (float& x : k) x = 2.0f * normal(engine);
    for (float& x : v) x = normal(engine);
    keys = dense_rows<host_space, float const>(k.data(), {e.sequences, e.kv_heads, n, e.head_dim});
    values = dense_rows<host_space, float const>(v.data(),
                                                 {e.sequences, e.kv_heads, n, e.value_width()});
  }
};

template <class Packed>
status append_all(Packed const& packed, news const& n) {
  std::vector<std::byte> scratch(append_bytes(packed.layout()));
  return append(cpu{}, packed, n.keys, n.values, scratch);
}
template <class Packed>
status settle_all(Packed const& packed) {
  std::vector<std::byte> scratch(settle_bytes(packed.layout()));
  return settle(cpu{}, packed, scratch);
}

/// Compress, attend; append, take back, attend; settle, attend; write, read, attend.
template <class Policy>
void live(Policy const& policy, data::shape const& shape) {
  CAPTURE(shape.head_dim, shape.value_dim, shape.group);
  data::cache const c(shape);
  data::compressed const x(policy, c.view(), {}, {.append_tokens = 12, .draft_tokens = 6});
  REQUIRE(x.result.ok());
  CHECK(oracle::attend_error(x.packed, c) <= tolerance::attend);
  REQUIRE(append_all(x.packed, news(shape.extents(), 5, 1)).ok());
  CHECK(oracle::attend_error(x.packed, c) <= tolerance::attend);
  REQUIRE(rewind(x.packed, 2).ok());
  REQUIRE(settle_all(x.packed).ok());
  CHECK(x.packed.slots(0, 0) == shape.tokens + 3);
  CHECK(oracle::attend_error(x.packed, c, 3) <= tolerance::attend);
  REQUIRE(append_all(x.packed, news(shape.extents(), 1, 2)).ok());
  std::vector<std::byte> file(serialized_bytes(x.packed));
  REQUIRE(serialize(x.packed, file.data(), file.size()).ok());
  data::buffer memory(x.storage.size());
  packed_cache const read(x.plan, memory);
  REQUIRE(deserialize(file.data(), file.size(), read).ok());
  CHECK(oracle::attend_error(read, c) <= tolerance::attend);
  CHECK(x.intact());
  for (index_t t = 0; t < read.slots(0, 0); ++t)
    REQUIRE(read.key(0, t, 1) == x.packed.key(0, t, 1));
}

template <ggml_block Type>
void check_bytes(reference::ggml_type type) {
  data::shape const shape{.sequences = 2, .tokens = 20, .head_dim = 64};
  data::cache const c(shape);
  data::compressed const x(ggml<Type, Type, float>{}, c.view(), {}, {.append_tokens = 4});
  REQUIRE(x.result.ok());
  news const more(shape.extents(), 1, 3);
  REQUIRE(append_all(x.packed, more).ok());
  REQUIRE(settle_all(x.packed).ok());
  std::size_t const size = reference::ggml_bytes(type);
  auto const same = [&](std::byte const* stored, float const* row) {
    for (std::size_t b = 0; b < 2; ++b) {
      auto const expected = reference::ggml_encode(row + b * 32, type);
      for (std::size_t i = 0; i < size; ++i)
        REQUIRE(static_cast<unsigned>(stored[b * size + i]) == expected[i]);
    }
  };
  for (index_t r = 0; r < shape.rows(); ++r) {
    auto const keys = x.packed.keys(r);
    auto const values = x.packed.values(r);
    for (index_t t = 0; t < shape.tokens; ++t) {
      same(keys.block(t), c.k.data() + (r * shape.tokens + t) * 64);
      same(values.block(t), c.v.data() + (r * shape.tokens + t) * 64);
    }
    same(keys.block(shape.tokens), more.k.data() + r * 64);
    same(values.block(shape.tokens), more.v.data() + r * 64);
  }
}

}  // namespace

TEST_CASE("caches of ggml's types live", "[ggml]") {
  for (index_t dim : {32, 64, 96, 128, 256})
    for (index_t group : {1, 2, 3, 8}) {
      data::shape const shape{.tokens = 40, .head_dim = dim};
      auto with_group = shape;
      with_group.group = group;
      live(ggml<ggml_block::q8_0>{}, with_group);
      live(ggml<ggml_block::q5_1, ggml_block::q5_0>{{.residual = 7}}, with_group);
      live(ggml<ggml_block::q4_0, ggml_block::q4_1>{}, with_group);
    }
  for (index_t group = 1; group <= 8; ++group)
    live(ggml<ggml_block::q8_0, ggml_block::q4_0>{},
         {.kv_heads = 1, .group = group, .tokens = 1100, .head_dim = 64, .value_dim = 32});
}

TEST_CASE("ggml's rows pair with any codec", "[ggml][codec_pair]") {
  data::shape const shape{.tokens = 70, .head_dim = 64};
  live(codec_pair{ggml_rows<ggml_block::q8_0>{}, token_value<4>{.group = 32}}, shape);
  live(codec_pair{dense_key<f16>{}, ggml_rows<ggml_block::q4_0>{.residual = 5}}, shape);
  live(codec_pair{channel_key<4>{.residual = 32}, ggml_rows<ggml_block::q5_1>{}}, shape);
}

TEST_CASE("a ggml cache holds the bytes that ggml would write", "[ggml]") {
  check_bytes<ggml_block::q8_0>({8, false});
  check_bytes<ggml_block::q5_1>({5, true});
  check_bytes<ggml_block::q5_0>({5, false});
  check_bytes<ggml_block::q4_1>({4, true});
  check_bytes<ggml_block::q4_0>({4, false});
}

TEST_CASE("ggml's types are evicted from and refilled", "[ggml]") {
  data::shape const shape{.tokens = 60, .head_dim = 32};
  data::cache const c(shape);
  data::compressed const x(pipeline{streaming_llm{}, top_k{{.budget = 50, .sinks = 4}},
                                    ggml<ggml_block::q5_0, ggml_block::q8_0>{}},
                           c.view(), {}, {.append_tokens = 2, .evicts = true});
  REQUIRE(x.result.ok());
  for (unsigned i = 0; i < 30; ++i) {
    REQUIRE(append_all(x.packed, news(shape.extents(), 1, i)).ok());
    std::vector<std::int32_t> victims(static_cast<std::size_t>(shape.rows()));
    std::vector<std::byte> scratch(victim_bytes(x.plan));
    REQUIRE(choose_victims(cpu{}, x.plan, x.packed, victims.data(), scratch).ok());
    REQUIRE(evict(cpu{}, x.packed, victims.data()).ok());
    REQUIRE(settle_all(x.packed).ok());
    REQUIRE(oracle::attend_error(x.packed, c) <= tolerance::attend);
  }
  CHECK(x.packed.tokens(0, 0) == 50);
}

TEST_CASE("ggml refuses what its blocks cannot hold", "[ggml]") {
  data::shape const shape{.tokens = 10, .head_dim = 32};
  for (float odd : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                    65520.0f}) {
    data::cache c(shape);
    c.v[100] = odd;
    data::compressed const x(ggml<ggml_block::q8_0>{}, c.view());
    CHECK(x.result.code == errc::non_finite);
    CHECK(x.storage.untouched());
  }
  data::cache const narrow({.tokens = 10, .head_dim = 80});
  CHECK(data::compressed(ggml<ggml_block::q4_0>{}, narrow.view()).result.code ==
        errc::invalid_shape);
  data::cache const uneven({.tokens = 10, .head_dim = 64, .value_dim = 48});
  CHECK(data::compressed(ggml<ggml_block::q4_0>{}, uneven.view()).result.code ==
        errc::invalid_shape);
}

TEST_CASE("caches of another type are foreign", "[ggml]") {
  data::cache const c({.tokens = 10, .head_dim = 32});
  data::compressed const x(ggml<ggml_block::q8_0, ggml_block::q4_0>{}, c.view());
  std::vector<std::byte> file(serialized_bytes(x.packed));
  REQUIRE(serialize(x.packed, file.data(), file.size()).ok());
  auto const refuses = [&](auto const& policy) {
    auto const plan = make_plan(policy, c.shape.extents());
    data::buffer memory(plan.packed_bytes() + file.size());
    packed_cache const other(plan, memory);
    CHECK(deserialize(file.data(), file.size(), other).code == errc::foreign);
  };
  refuses(ggml<ggml_block::q8_0>{});
  refuses(ggml<ggml_block::q4_0, ggml_block::q8_0>{});
  refuses(ggml<ggml_block::q8_0, ggml_block::q4_0, bf16>{});
  refuses(ggml<ggml_block::q8_0, ggml_block::q4_0>{{.residual = 1}});
  refuses(int_per_token<8>{});
}
