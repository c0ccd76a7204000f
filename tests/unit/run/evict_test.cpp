// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// choose_victims() and evict(): one token of every row that is over its quota leaves.

#include "support/catch.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/policies.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

namespace {

/// Appends a token, lets one go and settles, `steps` times; every so often compares.
template <class Run>
void decode_at_budget(Run const& run, data::life<typename Run::packed_type>& life, index_t steps) {
  auto const& e = run.plan.extents();
  std::vector<std::int32_t> victims(static_cast<std::size_t>(e.rows()));
  data::buffer scratch(victim_bytes(run.plan));
  for (index_t i = 0; i < steps; ++i) {
    REQUIRE(life.append().ok());
    REQUIRE(choose_victims(cpu{}, run.plan, run.packed, victims.data(), scratch).ok());
    REQUIRE(evict(cpu{}, run.packed, victims.data()).ok());
    REQUIRE(life.settle().ok());
  }
  CHECK(scratch.intact());
  CHECK(life.intact());
  CHECK(run.intact());
}

std::vector<index_t> sinks_and_newest(index_t sinks, index_t budget, index_t next) {
  std::vector<index_t> out;
  for (index_t i = 0; i < sinks; ++i) out.push_back(i);
  for (index_t i = next - (budget - sinks); i < next; ++i) out.push_back(i);
  return out;
}

template <class Codecs>
void streams(Codecs const& codecs, index_t residual, double bound) {
  data::cache const c({.sequences = 2, .kv_heads = 2, .group = 2, .tokens = 50, .head_dim = 16});
  data::compressed const run(pipeline{streaming_llm{{.sinks = 4}}, top_k{{.budget = 32}}, codecs},
                             c.view(), evidence<>{}, {.append_tokens = 2, .evicts = true});
  REQUIRE(run.result.ok());
  data::life life(run.packed, c);
  index_t most = 0;
  for (index_t done = 0; done < 10000; done += 500) {
    decode_at_budget(run, life, 500);
    CHECK(data::held(run.packed, 1, 1) == sinks_and_newest(4, 32, 550 + done));
    most = std::max(most, run.packed.slots(1, 1));
    CHECK(life.storage_error() <= bound);
    CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  }
  CAPTURE(residual);
  CHECK(most <= 33);  // slots stay those of the budget, and of one token on its way
}

}  // namespace

TEST_CASE("ten thousand tokens at a fixed budget take no more slots", "[evict][streaming_llm]") {
  streams(dense<f16>{}, 0, 0.0);
  streams(int_per_token<8>{{.residual = 12}}, 12, tolerance::eight_bits);
  streams(codec_pair{token_key<4>{.residual = 5}, token_value<8>{.residual = 5}}, 5,
          tolerance::four_bits);
}

TEST_CASE("the lowest score leaves, protected tokens never", "[evict]") {
  data::cache const c({.kv_heads = 2, .group = 1, .tokens = 30, .head_dim = 8});
  data::compressed const run(
      pipeline{knorm{}, top_k{{.budget = 20, .sinks = 3, .recent = 5}}, dense<float>{}}, c.view(),
      evidence<>{}, {.append_tokens = 4, .draft_tokens = 4, .evicts = true});
  data::life life(run.packed, c);
  REQUIRE(life.append(3).ok());
  data::buffer scratch(victim_bytes(run.plan));
  for (int step = 0; step < 4; ++step) {
    // By hand: knorm scores by the negative norm of the key.
    std::int32_t expected[2];
    for (index_t r = 0; r < 2; ++r) {
      auto const held = data::held(run.packed, 0, r);
      double longest = -1;
      expected[r] = -1;
      for (index_t slot = 0; slot < run.packed.slots(0, r); ++slot) {
        index_t const position = run.packed.position(0, r, slot);
        auto const rank = std::find(held.begin(), held.end(), position) - held.begin();
        if (position == empty_slot || rank < 3 || rank >= std::ssize(held) - 5) continue;
        double norm = 0;
        for (index_t d = 0; d < 8; ++d) norm += std::pow(run.packed.key(r, slot, d), 2);
        if (norm > longest) longest = norm, expected[r] = static_cast<std::int32_t>(slot);
      }
      if (held.size() <= 20) expected[r] = -1;
    }
    std::int32_t victims[2] = {-7, -7};
    REQUIRE(choose_victims(cpu{}, run.plan, run.packed, victims, scratch).ok());
    CHECK(victims[0] == expected[0]);
    CHECK(victims[1] == expected[1]);
    CHECK((victims[0] == -1) == (step == 3));
    REQUIRE(evict(cpu{}, run.packed, victims).ok());
    CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  }
  CHECK(run.packed.tokens(0, 0) == 20);
}

TEST_CASE("what the view pinned stays as long as the cache lives", "[evict][pins]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .group = 2, .tokens = 60, .head_dim = 16});
  std::vector<std::uint8_t> valid(120, 1);
  std::vector<index_t> const pins[2] = {{0, 7, 31}, {11, 12, 45, 58}};
  for (index_t s : {0, 1})
    for (index_t const i : pins[s]) valid[static_cast<std::size_t>(s * 60 + i)] = 2;
  auto view = c.view();
  view.valid = valid.data();
  auto const outlive = [&](auto const& codecs) {
    pipeline const policy{streaming_llm{{.sinks = 0}}, top_k{{.budget = 12}}, codecs};
    plan_options const o{.append_tokens = 8, .draft_tokens = 2, .evicts = true};
    data::compressed const run(policy, view, evidence<>{}, o);
    REQUIRE(run.result.ok());
    auto const all_pinned = [&](auto const& packed) {
      for (index_t r = 0; r < 4; ++r) {
        index_t const s = r / 2;
        std::vector<index_t> found;
        for (index_t slot = 0; slot < packed.slots(s, r % 2); ++slot)
          if (packed.pinned(s, r % 2, slot) && packed.position(s, r % 2, slot) != empty_slot)
            found.push_back(packed.position(s, r % 2, slot));
        std::sort(found.begin(), found.end());
        if (found != pins[s]) return false;
      }
      return true;
    };
    CHECK(all_pinned(run.packed));
    data::life life(run.packed, c);
    decode_at_budget(run, life, 300);
    CHECK(all_pinned(run.packed));
    CHECK(run.packed.tokens(1, 1) == 12);
    // Read again, and compressed again below the number of pins: they are what stays.
    std::vector<std::byte> file(serialized_bytes(run.packed));
    REQUIRE(serialize(run.packed, file.data(), file.size()).ok());
    data::buffer memory(run.packed.bytes());
    packed_cache const back(run.plan, memory);
    REQUIRE(deserialize(file.data(), file.size(), back).ok());
    CHECK(all_pinned(back));
    auto e = run.plan.extents();
    e.tokens = 20;
    auto const again =
        make_plan(pipeline{streaming_llm{{.sinks = 0}}, top_k{{.budget = 4}}, codecs}, e, o);
    data::buffer storage(again.packed_bytes()), scratch(again.workspace_bytes());
    packed_cache const tight(again, storage);
    REQUIRE(recompress(cpu{}, again, back, tight, scratch).ok());
    CHECK(all_pinned(tight));
    CHECK(data::held(tight, 1, 0) == pins[1]);
  };
  outlive(dense<f16>{});
  outlive(int_per_token<8>{{.residual = 5}});
}

TEST_CASE("codecs of whole blocks keep their holes until they are compressed again", "[evict]") {
  data::cache const c({.kv_heads = 2, .group = 2, .tokens = 100, .head_dim = 32});
  data::compressed const run(
      pipeline{streaming_llm{}, top_k{{.budget = 80}}, kivi<4>{{.residual = 32}}}, c.view(),
      evidence<>{}, {.append_tokens = 40, .evicts = true});
  data::life life(run.packed, c);
  decode_at_budget(run, life, 40);
  CHECK(run.packed.tokens(0, 0) == 80);
  CHECK(run.packed.slots(0, 0) == 120);
  CHECK(life.storage_error() < tolerance::four_bits);
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  CHECK(oracle::attend_error(run.packed, c, 4) <= tolerance::attend);
}

TEST_CASE("rows that rest and layers that wait keep their tokens", "[evict]") {
  data::cache const c({.sequences = 3, .kv_heads = 1, .tokens = 40, .head_dim = 8});
  data::compressed const run(pipeline{knorm{}, top_k{{.budget = 30}}}, c.view(), evidence<>{},
                             {.append_tokens = 2, .draft_tokens = 2, .evicts = true});
  data::life life(run.packed, c);
  REQUIRE(life.append(2).ok());
  data::buffer scratch(victim_bytes(run.plan));
  std::int32_t victims[] = {-7, -7, -7};
  std::uint8_t const active[] = {0, 1};
  step const at{.first_sequence = 1, .sequences = 2, .active = active};
  REQUIRE(choose_victims(cpu{}, run.plan, run.packed, victims, scratch, at).ok());
  CHECK(victims[0] == -7);
  CHECK(victims[1] == -1);
  CHECK(victims[2] >= 0);
  REQUIRE(evict(cpu{}, run.packed, victims, at).ok());
  CHECK(run.packed.tokens(0, 0) == 32);
  CHECK(run.packed.tokens(1, 0) == 32);
  CHECK(run.packed.tokens(2, 0) == 31);
}

TEST_CASE("evict and choose_victims refuse, and change nothing", "[evict]") {
  data::cache const c({.kv_heads = 2, .tokens = 40, .head_dim = 16});
  pipeline const policy{knorm{}, top_k{{.budget = 30}}, int_per_token<8>{}};
  data::compressed const run(policy, c.view(), evidence<>{},
                             {.append_tokens = 2, .draft_tokens = 2, .evicts = true});
  data::life life(run.packed, c);
  REQUIRE(life.append(2).ok());
  std::int32_t const first[] = {3, -1};
  REQUIRE(evict(cpu{}, run.packed, first).ok());
  auto const before = data::bytes_of(run.packed);
  for (std::int32_t bad : {3, 32, 1000, -2}) {  // 3 is empty already
    std::int32_t const victims[] = {4, bad};
    std::int32_t const other[] = {bad, 4};
    if (bad != 3) CHECK(evict(cpu{}, run.packed, victims).code == errc::invalid_shape);
    CHECK(evict(cpu{}, run.packed, other).code == errc::invalid_shape);
  }
  CHECK(evict(cpu{}, run.packed, nullptr).code == errc::invalid_pointer);
  CHECK(evict(cpu{}, run.packed, first, {.first_sequence = 2}).code == errc::invalid_shape);
  data::buffer never(run.plan.packed_bytes());
  CHECK(evict(cpu{}, packed_cache(run.plan, never), first).code == errc::corrupt);
  CHECK(evict(cpu{}, packed_cache(run.plan, nullptr, 0), first).code == errc::invalid_pointer);

  std::int32_t victims[] = {-7, -7};
  data::buffer scratch(victim_bytes(run.plan)), small(scratch.size() - 1);
  auto const refused = [&](auto const& plan, auto const& packed, workspace memory,
                           std::int32_t* out, step at = {}) {
    auto const s = choose_victims(cpu{}, plan, packed, out, memory, at);
    CHECK(victims[0] == -7);
    return s.code;
  };
  CHECK(refused(run.plan, run.packed, small, victims) == errc::buffer_too_small);
  CHECK(refused(run.plan, run.packed, {}, victims) == errc::invalid_pointer);
  CHECK(refused(run.plan, run.packed, scratch, nullptr) == errc::invalid_pointer);
  CHECK(refused(run.plan, run.packed, scratch, victims, {.sequences = 7}) == errc::invalid_shape);
  CHECK(refused(run.plan, packed_cache(run.plan, never), scratch, victims) == errc::corrupt);
  auto const bad_plan = make_plan(policy, {1, 2, 0, 16}, run.plan.options());
  CHECK(refused(bad_plan, run.packed, scratch, victims) == errc::invalid_shape);
  CHECK(victim_bytes(bad_plan) == 0);
  auto const small_plan = make_plan(policy, {1, 2, 20, 16}, run.plan.options());
  CHECK(refused(small_plan, run.packed, scratch, victims) == errc::invalid_shape);
  CHECK(data::bytes_of(run.packed) == before);
  CHECK(never.untouched());

  // Planned without .evicts: no positions without gaps, or no columns.
  data::compressed const plain(int_per_token<8>{}, c.view());
  CHECK(evict(cpu{}, plain.packed, first).code == errc::unsupported);
  pipeline const heavy{policies::heavy{}, top_k{{.budget = 30}}};
  data::compressed const unwatched(heavy, c.view(), evidence{window_queries{c.queries(4)}});
  REQUIRE(unwatched.result.ok());
  data::buffer heavy_scratch(victim_bytes(unwatched.plan));
  CHECK(refused(unwatched.plan, unwatched.packed, heavy_scratch, victims) == errc::unsupported);
  pipeline const together{knorm{}, policies::spendthrift{}};
  data::compressed const group(together, c.view(), evidence<>{},
                               {.append_tokens = 1, .evicts = true});
  data::buffer group_scratch(victim_bytes(group.plan));
  CHECK(refused(group.plan, group.packed, group_scratch, victims) == errc::unsupported);
}

TEST_CASE("a token that leaves the exact tail gives its slot back when the tail settles",
          "[evict][settle]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .group = 2, .tokens = 90, .head_dim = 16});
  // Nothing is recent: the victims come from blocks and from the tail of 24 alike.
  data::compressed const run(
      pipeline{knorm{}, top_k{{.budget = 40}}, int_per_token<8>{{.residual = 24}}}, c.view(),
      evidence<>{}, {.append_tokens = 1, .evicts = true});
  REQUIRE(run.result.ok());
  data::life life(run.packed, c);
  for (index_t done = 0; done < 400; done += 20) {
    decode_at_budget(run, life, 20);
    for (index_t r = 0; r < 4; ++r) {
      CHECK(run.packed.slots(r / 2, r % 2) == 40);
      CHECK(run.packed.tokens(r / 2, r % 2) == 40);
    }
    CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
    CHECK(life.storage_error() <= 0.05);
  }
}
