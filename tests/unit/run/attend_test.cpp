// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// attend() over every kind of stored form, while it grows, against attention in double over what it
// decodes to.

#include "support/catch.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

namespace {

template <class Policy>
void check_attend(char const* name, Policy const& policy, data::shape shape, index_t appended) {
  INFO(name);
  data::cache const c(shape);
  data::compressed const run(policy, c.view(), evidence{window_queries{c.queries(16)}},
                             {.append_tokens = appended});
  INFO(run.result.message);
  REQUIRE(run.result.ok());
  CHECK(run.intact());
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  CHECK(oracle::attend_error(run.packed, c, 3) <= tolerance::attend);
  data::life life(run.packed, c);
  for (index_t i = 0; i < appended; ++i) {
    index_t const before = run.packed.slots(0, 0);
    REQUIRE(life.append().ok());
    REQUIRE(run.packed.slots(0, 0) == before + 1);
    if (i % 37 == 0) REQUIRE(oracle::attend_error(run.packed, c) <= tolerance::attend);
    REQUIRE(life.settle().ok());
    if (i % 37 == 0 || i + 1 == appended)
      REQUIRE(oracle::attend_error(run.packed, c) <= tolerance::attend);
  }
  CHECK(run.intact());
  CHECK(life.intact());
  CHECK(life.append().code == errc::capacity_exceeded);
}

data::shape const gqa{.sequences = 2, .kv_heads = 2, .group = 4, .tokens = 150, .head_dim = 64};
snapkv const snap{{.window = 16}};
top_k const keep{{.budget = 70, .sinks = 4}};
kivi<2> const two{{.group = 32, .residual = 32}};

}  // namespace

TEST_CASE("attend over exact forms equals attention over what they decode to", "[attend]") {
  check_attend("f32", dense<float>{}, gqa, 40);
  check_attend("bf16", dense<bf16>{}, gqa, 40);
  check_attend("f16", pipeline{knorm{}, keep}, gqa, 40);
}

TEST_CASE("attend over kivi equals attention over what it decodes to", "[attend]") {
  check_attend("kivi2", two, gqa, 140);
  check_attend("kivi4", kivi<4>{{.residual = 64}}, gqa, 140);
  check_attend("kivi8", kivi<8, 8, bf16>{{.residual = 128}}, gqa, 140);
  check_attend("group 16", two, {.kv_heads = 1, .group = 16, .tokens = 90, .head_dim = 64}, 5);
  check_attend("group 1, dim 80", kivi<4>{{.group = 32, .residual = 32, .value_group = 16}},
               {.kv_heads = 3, .group = 1, .tokens = 77, .head_dim = 80}, 70);
}

TEST_CASE("attend over integers equals attention over what they decode to", "[attend]") {
  check_attend("int8", int_per_token<8>{}, gqa, 40);
  check_attend("int4 residual", int_per_token<4>{{.residual = 20}}, gqa, 60);
  check_attend("dim 576", int_per_token<8>{},
               {.kv_heads = 1, .group = 2, .tokens = 40, .head_dim = 576}, 3);
}

TEST_CASE("attend over composed pipelines equals attention over what they decode to", "[attend]") {
  check_attend("snapkv kivi", pipeline{snap, keep, two}, gqa, 100);
  check_attend("snapkv merger kivi",
               pipeline{snap, keep, kvmerger{{.threshold = 0.5f, .mass_bias = true}}, two}, gqa,
               100);
  check_attend("streaming rerotate int4",
               pipeline{streaming_llm{}, keep, rerotate{}, int_per_token<4>{}}, gqa, 40);
}

TEST_CASE("attend over values of another width", "[attend]") {
  data::shape const narrow{
      .kv_heads = 2, .group = 3, .tokens = 90, .head_dim = 64, .value_dim = 32};
  check_attend("f16", dense<f16>{}, narrow, 20);
  check_attend("kivi", two, narrow, 70);
  check_attend("int4", int_per_token<4>{{.residual = 8}}, narrow, 20);
  check_attend("wide values", kivi<4>{{.residual = 32}},
               {.kv_heads = 1, .group = 8, .tokens = 90, .head_dim = 32, .value_dim = 96}, 40);
}

TEST_CASE("exact rows equal full attention over the view", "[attend]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .group = 4, .tokens = 130, .head_dim = 96});
  data::compressed const run(dense<float>{}, c.view());
  oracle::asked x(run.packed, c.queries(1));
  REQUIRE(attend(cpu{}, run.packed, x.request).ok());
  auto const q = c.queries(1);
  for (index_t s = 0; s < 2; ++s)
    for (index_t h = 0; h < 8; ++h) {
      auto const exact = reference::attention(
          {q.row(s, h), q.row(s, h) + 96}, oracle::keys(c, s, h / 4), oracle::values(c, s, h / 4));
      CHECK(std::abs(x.lse[static_cast<std::size_t>(s * 8 + h)] - exact.lse) <=
            tolerance::accumulated * 10);
      for (index_t d = 0; d < 96; ++d)
        REQUIRE(std::abs(x.out[static_cast<std::size_t>((s * 8 + h) * 96 + d)] -
                         exact.out[static_cast<std::size_t>(d)]) <= tolerance::accumulated);
    }
}

TEST_CASE("values that are a slice of the keys are one memory", "[attend]") {
  // A latent cache: 576 channels a token, of which the first 512 are the values too.
  data::cache const c({.sequences = 1, .kv_heads = 1, .group = 4, .tokens = 70, .head_dim = 576});
  auto view = dense_cache(c.k.data(), c.k.data(), {1, 1, 70, 576, 512});
  view.v.layout = view.k.layout;
  data::compressed const exact(dense<float>{}, view);
  REQUIRE(exact.result.ok());
  for (index_t d = 0; d < 512; ++d) REQUIRE(exact.packed.value(0, 33, d) == c.key(0, 0, 33, d));
  CHECK(oracle::attend_error(exact.packed, c) <= tolerance::attend);
  data::compressed const coded(pipeline{knorm{}, top_k{{.budget = 50}}, int_per_token<8>{}}, view,
                               evidence<>{}, {.append_tokens = 10});
  REQUIRE(coded.result.ok());
  CHECK(coded.intact());
  CHECK(oracle::attend_error(coded.packed, c) <= tolerance::attend);
}

TEST_CASE("a long row stays within the bound", "[attend]") {
  data::cache const c({.kv_heads = 1, .group = 1, .tokens = 40000, .head_dim = 8});
  data::compressed const run(dense<f16>{}, c.view());
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
}

TEST_CASE("every element type of queries and outputs is read and written as it is", "[attend]") {
  data::cache const c({.kv_heads = 1, .group = 2, .tokens = 40, .head_dim = 32});
  data::compressed const run(dense<f16>{}, c.view());
  oracle::asked exact(run.packed, c.queries(1));
  REQUIRE(attend(cpu{}, run.packed, exact.request).ok());
  auto const as = [&](auto zero) {
    using T = decltype(zero);
    std::vector<T> q, out(64);
    for (index_t h = 0; h < 2; ++h)
      for (index_t d = 0; d < 32; ++d) q.push_back(from_float<T>(c.queries(1).row(0, h)[d]));
    oracle::asked x(run.packed, dense_rows(q.data(), {1, 2, 1, 32}));
    x.request.out = dense_rows(out.data(), {1, 2, 1, 32});
    REQUIRE(attend(cpu{}, run.packed, x.request).ok());
    for (std::size_t i = 0; i < 64; ++i)
      REQUIRE(to_float(out[i]) == to_float(from_float<T>(exact.out[i])));
  };
  as(bf16{});  // holds the queries exactly
  std::vector<float> strided_out(64 * 3, 5.0f);
  oracle::asked x(run.packed, c.queries(1));
  x.request.out = rows_view<float>{strided_out.data(), 1, 2, 1, 32, {192, 96, 96, 3}};
  REQUIRE(attend(cpu{}, run.packed, x.request).ok());
  for (std::size_t i = 0; i < 64; ++i) CHECK(strided_out[i * 3] == exact.out[i]);
  CHECK(strided_out[1] == 5.0f);
}
