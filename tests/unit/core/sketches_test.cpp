// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Compiling sketches of the users that strain the interface most, as .github/CONTRIBUTING.md
// describes them. They are not methods; they show that the concepts carry them.

#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <kvslim/exec/openmp.hpp>

using namespace kvslim;

namespace {

/// GEAR: a sum inside one block. Each part adds to the scores; nothing else in the library changes.
template <class A, class B>
struct sum_key {
  using tail_type = typename A::tail_type;
  A a;
  B b;
  [[nodiscard]] status check(index_t dim) const { return a.check(dim); }
  [[nodiscard]] index_t block_tokens() const { return a.block_tokens(); }
  [[nodiscard]] index_t block_bytes(index_t dim) const {
    return a.block_bytes(dim) + b.block_bytes(dim);
  }
  [[nodiscard]] index_t coded(index_t n) const { return a.coded(n); }
  [[nodiscard]] index_t tail_tokens() const { return a.tail_tokens(); }
  [[nodiscard]] bool whole_blocks() const { return true; }
  void encode(float const* rows, block_run const& run, std::byte* block) const {
    a.encode(rows, run, block);
    std::vector<float> rest(
        static_cast<std::size_t>(run.n * run.dim));  // a method would use fixed scratch
    for (index_t i = 0; i < run.n; ++i)
      for (index_t d = 0; d < run.dim; ++d) {
        index_t const at = i * run.dim + d;
        rest[static_cast<std::size_t>(at)] =
            rows[at] - a.decode(block, {.first = run.first + i, .dim = run.dim}, d);
      }
    b.encode(rest.data(), run, block + a.block_bytes(run.dim));
  }
  [[nodiscard]] float decode(std::byte const* block, block_run const& run, index_t d) const {
    return a.decode(block, run, d) + b.decode(block + a.block_bytes(run.dim), run, d);
  }
  void dot(std::byte const* block, block_run const& run, float const* q, index_t heads,
           float* scores) const {
    a.dot(block, run, q, heads, scores);
    b.dot(block + a.block_bytes(run.dim), run, q, heads, scores);
  }
};

struct gear_like {
  using stage = quantizer_tag;
  [[nodiscard]] constexpr sum_key<channel_key<2>, channel_key<2>> key_codec() const {
    return {{32, 32}, {32, 32}};
  }
  [[nodiscard]] constexpr token_value<4> value_codec() const { return {32, 32}; }
  [[nodiscard]] static constexpr std::uint32_t scheme() { return 0xf001; }
};
static_assert(quantizer<gear_like>);

/// AdaKV: rows of different lengths. A row takes what lies above a threshold, up to a bound.
struct above_mean {
  using stage = selector_tag;
  index_t bound = 64;
  [[nodiscard]] KVSLIM_HD constexpr index_t capacity(index_t tokens) const {
    return bound < tokens ? bound : tokens;
  }
  [[nodiscard]] constexpr status check(extents const&) const { return {}; }
  void select(selection_row row) const {
    float mean = 0;
    for (index_t t = 0; t < row.tokens; ++t) mean += row.scores[t] / static_cast<float>(row.tokens);
    index_t room = bound;
    for (index_t t = 0; t < row.tokens && room > 0; ++t)
      if (row.flags[t] == 0 && row.scores[t] > mean) row.flags[t] = 1, --room;
  }
};
static_assert(selector<above_mean>);

/// A thread pool as an engine has one.
struct reversed_pool {
  template <class Body>
  void for_each(index_t count, Body const& body) {
    for (index_t i = count; i-- > 0;) body(i);
  }
};

}  // namespace

TEST_CASE("sketch: a sum of two codes is closer than one and attends as stored", "[sketch]") {
  data::cache const c({.kv_heads = 1, .tokens = 96, .head_dim = 32});
  data::compressed const one(kivi<2>{{.residual = 32}}, c.view(), evidence<>{});
  data::compressed const two(gear_like{}, c.view(), evidence<>{});
  REQUIRE(two.result.ok());
  double error_one = 0, error_two = 0;
  for (index_t t = 0; t < 96; ++t)
    for (index_t d = 0; d < 32; ++d) {
      error_one += std::pow(one.packed.key(0, t, d) - c.key(0, 0, t, d), 2);
      error_two += std::pow(two.packed.key(0, t, d) - c.key(0, 0, t, d), 2);
    }
  CHECK(error_two * 4 < error_one);
  CHECK(oracle::attend_error(two.packed, c) <= tolerance::attend);
}

TEST_CASE("sketch: heads keep different numbers of tokens", "[sketch]") {
  data::cache const c({.kv_heads = 2, .tokens = 60, .head_dim = 16});
  std::vector<float> scores(120, 0.0f);
  for (std::size_t t = 0; t < 10; ++t) scores[t] = 1.0f;
  for (std::size_t t = 60; t < 90; ++t) scores[t] = 1.0f;
  data::compressed const run(pipeline{given_scores{}, above_mean{}, int_per_token<8>{}}, c.view(),
                             evidence{token_scores<>{scores.data()}});
  CHECK(run.packed.tokens(0, 0) == 10);
  CHECK(run.packed.tokens(0, 1) == 30);
  CHECK(run.packed.bytes() < run.plan.packed_bytes());  // ragged rows lie tightly
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
}

TEST_CASE("sketch: H2O's sums are the caller's and move with the cache", "[sketch]") {
  data::cache c({.kv_heads = 1, .group = 1, .tokens = 40, .head_dim = 16});
  std::vector<float> mass(40, 0.0f);
  for (index_t step = 0; step < 3; ++step)  // accumulate, as decode steps would
    for (std::size_t t = 0; t < 40; ++t) mass[t] += static_cast<float>((t * 13) % 7);
  data::compressed const run(pipeline{given_scores{}, top_k{{.budget = 20, .recent = 10}}},
                             c.view(), evidence{token_scores<>{mass.data()}});
  auto const kept = run.kept(0, 0);
  for (std::size_t i = 0; i < kept.size(); ++i) mass[i] = mass[static_cast<std::size_t>(kept[i])];
  CHECK(kept.size() == 20);
  CHECK(mass[0] == 3.0f * static_cast<float>((kept[0] * 13) % 7));
}

TEST_CASE("sketch: an engine's pool and OpenMP give the serial result", "[sketch]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .tokens = 90, .head_dim = 32});
  auto const policy =
      pipeline{snapkv{{.window = 8}}, top_k{{.budget = 40}}, kivi<4>{{.residual = 32}}};
  auto const ev = evidence{window_queries{c.queries(8)}};
  data::compressed const serial(policy, c.view(), ev);
  auto const same = [&](auto const& exec) {
    data::buffer storage(serial.plan.packed_bytes()), scratch(serial.plan.workspace_bytes());
    REQUIRE(compress(exec, serial.plan, c.view(), ev, packed_cache(serial.plan, storage), scratch)
                .ok());
    CHECK(
        std::equal(storage.data(), storage.data() + serial.packed.bytes(), serial.storage.data()));
  };
  reversed_pool pool;
  same(cpu_with{&pool});
  same(openmp{.threads = 2});
}
