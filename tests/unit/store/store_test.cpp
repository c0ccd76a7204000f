// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

namespace {

template <class Policy>
void check_attend(char const* name, Policy const& policy, data::shape shape, index_t appended) {
  INFO(name);
  data::cache const c(shape);
  data::compressed const run(policy, c.view(), evidence{window_queries{c.queries(16)}}, appended);
  INFO(run.result.message);
  REQUIRE(run.result.ok());
  CHECK(run.storage.intact());
  CHECK(run.scratch.intact());
  CHECK(run.packed.bytes() <= run.plan.packed_bytes());
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  std::vector<float> scratch(append_scratch_floats(run.plan));
  rows_shape const one{shape.sequences, shape.kv_heads, 1, shape.head_dim};
  std::mt19937 engine(11);
  std::normal_distribution<float> normal;
  std::vector<float> k(static_cast<std::size_t>(shape.sequences * shape.kv_heads * shape.head_dim)),
      v(k.size());
  for (index_t i = 0; i < appended; ++i) {
    for (float& x : k) x = normal(engine);
    for (float& x : v) x = normal(engine);
    index_t const before = run.packed.tokens(0, 0);
    REQUIRE(append(cpu{}, run.packed, dense_rows<host_space, float const>(k.data(), one),
                   dense_rows<host_space, float const>(v.data(), one), scratch.data())
                .ok());
    REQUIRE(run.packed.tokens(0, 0) == before + 1);
    if (i % 37 == 0 || i + 1 == appended)
      REQUIRE(oracle::attend_error(run.packed, c) <= tolerance::attend);
  }
  CHECK(run.storage.intact());
  auto const full = append(cpu{}, run.packed, dense_rows<host_space, float const>(k.data(), one),
                           dense_rows<host_space, float const>(v.data(), one), scratch.data());
  CHECK(full.code == errc::capacity_exceeded);
}

}  // namespace

TEST_CASE("attend over a composed cache equals attention over its decoded form", "[store]") {
  data::shape const gqa{.sequences = 2, .kv_heads = 2, .group = 4, .tokens = 150, .head_dim = 64};
  snapkv const snap{{.window = 16}};
  top_k const keep{{.budget = 70, .sinks = 4}};
  kivi<2> const two{{.group = 32, .residual = 32}};
  check_attend("f32", dense<float>{}, gqa, 40);
  check_attend("bf16", dense<bf16>{}, gqa, 40);
  check_attend("f16", pipeline{knorm{}, keep}, gqa, 40);
  check_attend("kivi2", two, gqa, 140);
  check_attend("kivi4", kivi<4>{{.residual = 64}}, gqa, 140);
  check_attend("kivi8", kivi<8, bf16>{{.residual = 128}}, gqa, 140);
  check_attend("int8", int_per_token<8>{}, gqa, 40);
  check_attend("int4 residual", int_per_token<4>{{.residual = 20}}, gqa, 60);
  check_attend("snapkv kivi", pipeline{snap, keep, two}, gqa, 100);
  check_attend("snapkv merger kivi",
               pipeline{snap, keep, kvmerger{{.threshold = 0.5f, .mass_bias = true}}, two}, gqa,
               100);
  check_attend("streaming rerotate int4",
               pipeline{streaming_llm{}, keep, rerotate{}, int_per_token<4>{}}, gqa, 40);
  check_attend("group 16", two, {.kv_heads = 1, .group = 16, .tokens = 90, .head_dim = 64}, 5);
  check_attend("group 1, dim 80", kivi<4>{{.group = 32, .residual = 32, .value_group = 16}},
               {.kv_heads = 3, .group = 1, .tokens = 77, .head_dim = 80}, 70);
  check_attend("dim 576", int_per_token<8>{},
               {.kv_heads = 1, .group = 2, .tokens = 40, .head_dim = 576}, 3);
}

TEST_CASE("exact segments equal full attention", "[store]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .group = 4, .tokens = 130, .head_dim = 96});
  data::compressed const run(dense<float>{}, c.view(), evidence<>{});
  std::vector<float> out(2 * 8 * 96), lse(16);
  auto const q = c.queries(1);
  REQUIRE(attend(cpu{}, q, run.packed, dense_rows(out.data(), {2, 8, 1, 96}), lse.data()).ok());
  for (index_t s = 0; s < 2; ++s)
    for (index_t h = 0; h < 8; ++h) {
      auto const exact = reference::attention(
          {q.row(s, h), q.row(s, h) + 96}, oracle::keys(c, s, h / 4), oracle::values(c, s, h / 4));
      CHECK(std::abs(lse[static_cast<std::size_t>(s * 8 + h)] - exact.lse) <=
            tolerance::accumulated * 10);
      for (index_t d = 0; d < 96; ++d)
        REQUIRE(std::abs(out[static_cast<std::size_t>((s * 8 + h) * 96 + d)] -
                         exact.out[static_cast<std::size_t>(d)]) <= tolerance::accumulated);
    }
}

TEST_CASE("halves of a cache merge by log-sum-exp", "[store]") {
  data::cache const c({.kv_heads = 1, .group = 1, .tokens = 60, .head_dim = 32});
  auto whole = c.view(), left = c.view(), right = c.view();
  left.extent.tokens = 25;
  right.extent.tokens = 35;
  right.k.data += 25 * 32;
  right.v.data += 25 * 32;
  auto const run = [&](auto const& view) {
    data::compressed const packed(dense<float>{}, view, evidence<>{});
    std::pair<std::vector<float>, float> r{std::vector<float>(32), 0.0f};
    REQUIRE(attend(cpu{}, c.queries(1), packed.packed, dense_rows(r.first.data(), {1, 1, 1, 32}),
                   &r.second)
                .ok());
    return r;
  };
  auto const all = run(whole);
  auto a = run(left);
  auto const b = run(right);
  merge_attention(a.first.data(), a.second, b.first.data(), b.second, 32);
  CHECK(std::abs(a.second - all.second) <= tolerance::accumulated * 10);
  for (std::size_t d = 0; d < 32; ++d)
    CHECK(std::abs(a.first[d] - all.first[d]) <= tolerance::accumulated);
}

TEST_CASE("appending equals compressing at once", "[store][kivi]") {
  // Chunk boundaries are multiples of the residual, so the authors' split is the same.
  data::cache const c({.kv_heads = 1, .tokens = 96, .head_dim = 32});
  kivi<4> const policy{{.group = 32, .residual = 32}};
  data::compressed const once(policy, c.view(), evidence<>{});
  auto part = c.view();
  part.extent.tokens = 32;
  data::compressed const grown(policy, part, evidence<>{}, 65);
  std::vector<float> scratch(append_scratch_floats(grown.plan));
  for (index_t t = 32; t < 96; ++t) {
    rows_shape const one{1, 1, 1, 32};
    REQUIRE(append(cpu{}, grown.packed,
                   dense_rows<host_space, float const>(c.k.data() + t * 32, one),
                   dense_rows<host_space, float const>(c.v.data() + t * 32, one), scratch.data())
                .ok());
  }
  for (index_t t = 0; t < 64; ++t)
    for (index_t d = 0; d < 32; ++d) {
      REQUIRE(once.packed.key(0, t, d) == grown.packed.key(0, t, d));
      if (t < 63) REQUIRE(once.packed.value(0, t, d) == grown.packed.value(0, t, d));
    }
}

TEST_CASE("rewind drops exact tokens and refuses coded ones", "[store]") {
  data::cache const c({.kv_heads = 1, .tokens = 70, .head_dim = 32});
  data::compressed const run(kivi<2>{{.residual = 32}}, c.view(), evidence<>{});
  CHECK(rewind(run.packed, 6).ok());
  CHECK(run.packed.tokens(0, 0) == 64);
  CHECK(run.packed.next_position(0) == 64);
  CHECK(rewind(run.packed, 1).code == errc::unsupported);
  CHECK(run.packed.tokens(0, 0) == 64);
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  data::compressed const exact(dense<f16>{}, c.view(), evidence<>{});
  CHECK(rewind(exact.packed, 70).ok());
  CHECK(exact.packed.tokens(0, 0) == 0);
  CHECK(rewind(exact.packed, 1).code == errc::invalid_option);
  CHECK(rewind(exact.packed, -1).code == errc::invalid_option);
}

TEST_CASE("bytes() is the memory really held", "[store]") {
  data::cache const c({.sequences = 1, .kv_heads = 2, .tokens = 256, .head_dim = 128});
  SECTION("by hand: kivi 2 bit, group 32, residual 128") {
    data::compressed const run(kivi<2>{}, c.view(), evidence<>{});
    // Per row: 8 key blocks of 32 * 128 / 4 + 4 * 128 bytes, key tail 128 * 128 * 2; 32 value
    // blocks of 4 * 128 / 4 + 16 * 4 bytes, value tail 129 tokens of 256 bytes. Plus 128 bytes of
    // header and a table of 2 * 32, rounded to 64.
    index_t const row = 8 * (1024 + 512) + 128 * 128 * 2 + 32 * (128 + 64) + 129 * 256;
    CHECK(run.packed.bytes() == 128 + 64 + 2 * row);
    CHECK(run.plan.packed_bytes() == run.packed.bytes());
  }
  SECTION("by hand: f16") {
    data::compressed const run(dense<f16>{}, c.view(), evidence<>{});
    CHECK(run.packed.bytes() == 128 + 64 + 2 * 2 * 256 * 128 * 2);
  }
  SECTION("nothing beyond bytes() is touched, everything inside is") {
    data::compressed const run(pipeline{knorm{}, top_k{{.budget = 77}}, int_per_token<4>{}},
                               c.view(), evidence<>{}, 9);
    std::byte const* const end = run.storage.data() + run.packed.bytes();
    CHECK(std::all_of(end, static_cast<std::byte const*>(run.storage.data() + run.storage.size()),
                      [](std::byte b) { return b == std::byte{0xa5}; }));
  }
}

TEST_CASE("a serialized cache reads back and refuses damage", "[serialize]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .group = 2, .tokens = 100, .head_dim = 32});
  auto const policy = pipeline{knorm{}, top_k{{.budget = 60}}, kivi<4>{{.residual = 32}}};
  data::compressed const run(policy, c.view(), evidence<>{}, 10);
  std::vector<std::byte> bytes(serialized_bytes(run.packed));
  REQUIRE(serialize(run.packed, bytes.data(), bytes.size()).ok());
  CHECK(serialize(run.packed, bytes.data(), bytes.size() - 1).code == errc::buffer_too_small);

  data::buffer storage(run.plan.packed_bytes());
  packed_cache const other(run.plan, storage);
  auto const read = [&](std::vector<std::byte> const& b) {
    return deserialize(b.data(), b.size(), other);
  };
  SECTION("round trip") {
    REQUIRE(read(bytes).ok());
    CHECK(other.bytes() == run.packed.bytes());
    CHECK(oracle::attend_error(other, c) <= tolerance::attend);
    for (index_t t = 0; t < 60; ++t) CHECK(other.position(1, 1, t) == run.packed.position(1, 1, t));
  }
  SECTION("every truncation") {
    for (std::size_t n = 1; n < bytes.size(); n += n < 300 ? 1 : 97) {
      auto const s = read({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(n)});
      REQUIRE((s.code == errc::corrupt || s.code == errc::foreign));
    }
    CHECK(storage.untouched());
  }
  SECTION("every flipped bit of the first bytes, many of the rest") {
    std::mt19937 engine(2);
    for (int i = 0; i < 4000; ++i) {
      auto damaged = bytes;
      std::size_t const bit =
          i < 2000 ? static_cast<std::size_t>(i) : engine() % (bytes.size() * 8);
      damaged[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
      auto const s = read(damaged);
      REQUIRE((s.code == errc::corrupt || s.code == errc::foreign));
    }
    CHECK(storage.untouched());
  }
  SECTION("another scheme, another shape, other options") {
    auto const refuses = [&](auto const& p, extents e) {
      auto const plan = make_plan(p, e, {.append_tokens = 10});
      data::buffer s(plan.packed_bytes() + 4096);
      return deserialize(bytes.data(), bytes.size(), packed_cache(plan, s)).code;
    };
    CHECK(refuses(pipeline{knorm{}, top_k{{.budget = 60}}, kivi<2>{{.residual = 32}}},
                  c.shape.extents()) == errc::foreign);
    CHECK(refuses(pipeline{knorm{}, top_k{{.budget = 60}}, kivi<4>{{.residual = 64}}},
                  c.shape.extents()) == errc::foreign);
    CHECK(refuses(policy, {2, 2, 100, 64}) == errc::foreign);
    CHECK(refuses(policy, {1, 2, 100, 32}) == errc::foreign);
    CHECK(refuses(policy, {2, 2, 90, 32}) ==
          errc::ok);  // the token count at compress time does not matter to a reader
  }
  SECTION("a row table that lies, under a right checksum") {
    std::mt19937 engine(6);
    for (int i = 0; i < 2000; ++i) {
      auto damaged = bytes;
      std::size_t const at = 128 + engine() % 128;
      damaged[at] ^= static_cast<std::byte>(1 + engine() % 255);
      packed_header h;
      std::memcpy(&h, damaged.data(), sizeof h);
      h.checksum = detail::cache_checksum(damaged.data(), h);
      std::memcpy(damaged.data(), &h, sizeof h);
      if (read(damaged).ok())
        CHECK(oracle::attend_error(other, c) <
              1e9);  // sound enough to be read without leaving the buffer
    }
  }
}
