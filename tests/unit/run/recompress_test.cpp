// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// recompress(): a stored cache is the view of another pipeline.

#include "support/catch.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/policies.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

namespace {

data::shape const shape{.sequences = 2, .kv_heads = 2, .group = 2, .tokens = 90, .head_dim = 32};

/// A cache that recompress() made.
template <class Policy>
struct again : data::room<Policy> {
  status result;

  template <class From, class Evidence = evidence<>>
  again(Policy const& policy, From const& from, index_t tokens, plan_options options = {},
        Evidence const& evidence = {})
      : data::room<Policy>(policy, with(from.extents(), tokens), options),
        result(recompress(cpu{}, this->plan, from, this->packed, this->scratch, evidence)) {}

  static extents with(extents e, index_t tokens) {
    e.tokens = tokens;
    return e;
  }
};

}  // namespace

TEST_CASE("recompressing an exact cache is compressing the view", "[recompress]") {
  data::cache const c(shape);
  auto const same = [&](auto const& policy) {
    data::compressed const exact(dense<float>{}, c.view());
    data::compressed const direct(policy, c.view());
    again const twice(policy, exact.packed, 90);
    INFO(twice.result.message);
    REQUIRE(twice.result.ok());
    CHECK(twice.intact());
    REQUIRE(twice.packed.bytes() == direct.packed.bytes());
    CHECK(std::equal(direct.storage.data(), direct.storage.data() + direct.packed.bytes(),
                     twice.storage.data()));
  };
  same(pipeline{knorm{}, top_k{{.budget = 40, .sinks = 4}}, kivi<4>{{.residual = 32}}});
  same(pipeline{streaming_llm{}, top_k{{.budget = 40}}, rerotate{}, int_per_token<8>{}});
  same(pipeline{shared{knorm{}, {.kv_heads = 2}}, top_k{{.budget = 40}}, dense<f16>{}});
  same(pipeline{knorm{}, top_k{{.budget = 40}}, kvmerger{{.threshold = 0.5f, .mass_bias = true}}});
  same(pipeline{knorm{}, policies::contested{}, policies::ladder{}, int_per_token<4>{}});
}

TEST_CASE("a second, tighter budget keeps positions", "[recompress]") {
  data::cache const c(shape);
  data::compressed const first(pipeline{knorm{}, top_k{{.budget = 60}}, int_per_token<8>{}},
                               c.view(), evidence<>{}, {.append_tokens = 5, .draft_tokens = 5});
  data::life life(first.packed, c);
  REQUIRE(life.append(5).ok());
  again const second(pipeline{streaming_llm{{.sinks = 0}}, top_k{{.budget = 20}}, kivi<4>{}},
                     first.packed, 65, {.append_tokens = 3});
  REQUIRE(second.result.ok());
  for (index_t r = 0; r < 4; ++r) {
    auto held = data::held(first.packed, r / 2, r % 2);
    held.erase(held.begin(), held.end() - 20);
    CHECK(second.kept(r / 2, r % 2) == held);
    CHECK(second.packed.next_position(r / 2, r % 2) == 95);
  }
  CHECK(oracle::attend_error(second.packed, c) <= tolerance::attend);
}

TEST_CASE("holes are closed, biases and records go along", "[recompress][evict][observe]") {
  data::cache const c(shape);
  std::vector<float> bias(2 * 90);
  for (std::size_t i = 0; i < bias.size(); ++i) bias[i] = static_cast<float>(i % 7) * -0.25f;
  auto view = c.view();
  view.bias = bias.data();
  pipeline const policy{policies::heavy{}, top_k{{.budget = 50}}, kivi<8>{{.residual = 32}}};
  plan_options const options{
      .append_tokens = 20, .draft_tokens = 20, .evicts = true, .biases = true};
  data::compressed const run(policy, view, evidence{window_queries{c.queries(6)}}, options);
  REQUIRE(run.result.ok());
  data::life life(run.packed, c);
  REQUIRE(life.append(8).ok());
  oracle::asked x(run.packed, c.queries(1), true);
  REQUIRE(attend(cpu{}, run.packed, x.request).ok());
  REQUIRE(observe(cpu{}, policies::heavy{}, run.packed, x.request).ok());
  std::int32_t const victims[] = {1, 50, 57, 3}, more[] = {2, 0, 56, -1};
  REQUIRE(evict(cpu{}, run.packed, victims).ok());
  REQUIRE(evict(cpu{}, run.packed, more).ok());

  again const closed(
      pipeline{policies::heavy{}, policies::above{.bound = 90, .least = -1.0f}, dense<float>{}},
      run.packed, 70, options);
  INFO(closed.result.message);
  REQUIRE(closed.result.ok());
  CHECK(closed.intact());
  auto const& packed = closed.packed;
  for (index_t r = 0; r < 4; ++r) {
    CHECK(packed.raw_row(r).holes == 0);
    REQUIRE(closed.kept(r / 2, r % 2) == data::held(run.packed, r / 2, r % 2));
    CHECK(packed.next_position(r / 2, r % 2) == 98);
    index_t slot = 0;
    for (index_t old = 0; old < run.packed.slots(r / 2, r % 2); ++old) {
      if (run.packed.position(r / 2, r % 2, old) == empty_slot) continue;
      CHECK(packed.key(r, slot, 5) == run.packed.key(r, old, 5));
      CHECK(packed.value(r, slot, 6) == run.packed.value(r, old, 6));
      CHECK(packed.logit_bias(r, slot) == run.packed.logit_bias(r, old));
      CHECK(std::equal(packed.columns(r) + slot * 12, packed.columns(r) + slot * 12 + 12,
                       run.packed.columns(r) + old * 12));
      ++slot;
    }
  }
  CHECK(oracle::attend_error(packed, c) <= tolerance::attend);
}

TEST_CASE("a generation that is compressed again once a flush", "[recompress][evict]") {
  data::cache const c(shape);
  pipeline const policy{streaming_llm{}, top_k{{.budget = 64}}, kivi<4>{{.residual = 32}}};
  plan_options const options{.append_tokens = 32, .draft_tokens = 32};
  auto const plan = make_plan(policy, {2, 2, 96, 32}, options);
  data::buffer a(plan.packed_bytes()), b(plan.packed_bytes()), scratch(plan.workspace_bytes());
  data::compressed const first(policy, c.view(), evidence<>{}, options);
  std::copy(first.storage.data(), first.storage.data() + first.packed.bytes(), a.data());
  packed_cache from(plan, a), to(plan, b);
  std::size_t bytes = 0;
  for (int flush = 0; flush < 12; ++flush) {
    data::life life(from, c);
    REQUIRE(life.append(32).ok());
    REQUIRE(life.settle().ok());
    REQUIRE(recompress(cpu{}, plan, from, to, scratch).ok());
    std::swap(from, to);
    auto const held = data::held(from, 1, 0);
    REQUIRE(held.size() == 64);
    CHECK(held[3] == 3);
    CHECK(held[4] == 90 + (flush + 1) * 32 - 60);
    CHECK(oracle::attend_error(from, c) <= tolerance::attend);
    if (flush > 0) CHECK(from.bytes() == bytes);
    bytes = from.bytes();
  }
  CHECK(a.intact());
  CHECK(b.intact());
  CHECK(scratch.intact());
}

TEST_CASE("bulk scorers look again, with evidence of the whole", "[recompress][snapkv]") {
  data::cache const c(shape);
  evidence const ev{window_queries{c.queries(8)}};
  pipeline const policy{snapkv{{.window = 8}}, top_k{{.budget = 30}}, int_per_token<8>{}};
  data::compressed const exact(dense<float>{}, c.view());
  data::compressed const direct(policy, c.view(), ev);
  again const twice(policy, exact.packed, 90, {}, ev);
  REQUIRE(twice.result.ok());
  for (index_t r = 0; r < 4; ++r) CHECK(twice.kept(r / 2, r % 2) == direct.kept(r / 2, r % 2));
}

TEST_CASE("recompress refuses, and writes nothing", "[recompress]") {
  data::cache const c(shape);
  data::compressed const run(pipeline{knorm{}, top_k{{.budget = 60}}}, c.view(), evidence<>{},
                             {.append_tokens = 5, .draft_tokens = 5, .biases = true});
  auto const refused = [&](auto const& policy, auto const& from, extents e,
                           plan_options options = {.biases = true}) {
    auto const plan = make_plan(policy, e, options);
    data::buffer storage(plan.packed_bytes() + 64), scratch(plan.workspace_bytes() + 64);
    packed_cache const to(plan, storage);
    auto const s = recompress(cpu{}, plan, from, to, scratch);
    CHECK(storage.untouched());
    return s.code;
  };
  pipeline const policy{knorm{}, top_k{{.budget = 20}}};
  CHECK(refused(policy, run.packed, {2, 2, 59, 32}) == errc::invalid_shape);
  CHECK(refused(policy, run.packed, {1, 2, 65, 32}) == errc::invalid_shape);
  CHECK(refused(policy, run.packed, {2, 2, 65, 16}) == errc::invalid_shape);
  CHECK(refused(policy, run.packed, {2, 2, 65, 32, 16}) == errc::invalid_shape);
  CHECK(refused(policy, run.packed, {2, 2, 65, 32}, {}) == errc::unsupported);  // biases
  CHECK(refused(pipeline{knorm{}, top_k{}}, run.packed, {2, 2, 65, 32}) == errc::invalid_option);
  CHECK(refused(pipeline{policies::heavy{}, top_k{{.budget = 20}}}, run.packed, {2, 2, 65, 32}) ==
        errc::unsupported);  // no records
  data::buffer never(run.plan.packed_bytes());
  CHECK(refused(policy, packed_cache(run.plan, never), {2, 2, 65, 32}) == errc::corrupt);
  CHECK(refused(policy, packed_cache(run.plan, nullptr, 0), {2, 2, 65, 32}) ==
        errc::invalid_pointer);

  auto const plan = make_plan(policy, {2, 2, 65, 32}, {.biases = true});
  data::buffer storage(plan.packed_bytes()), scratch(plan.workspace_bytes());
  auto const with = [&](packed_cache<dense_key<f16>, dense_value<f16>> const& to,
                        workspace memory) {
    return recompress(cpu{}, plan, run.packed, to, memory).code;
  };
  CHECK(with(packed_cache(plan, storage), {scratch.data(), scratch.size() - 1}) ==
        errc::buffer_too_small);
  CHECK(with(packed_cache(plan, storage), {}) == errc::invalid_pointer);
  CHECK(with(packed_cache(plan, storage.data(), storage.size() - 1), scratch) ==
        errc::buffer_too_small);
  CHECK(with(packed_cache(plan, storage.data() + 1, storage.size()), scratch) ==
        errc::invalid_pointer);
  CHECK(with(packed_cache(run.plan, storage), scratch) == errc::invalid_option);  // other layout
  CHECK(storage.untouched());
  CHECK(with(packed_cache(plan, storage), scratch) == errc::ok);
}
