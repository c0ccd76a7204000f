// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// rewind(): the newest positions go, held or not.

#include "support/catch.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

TEST_CASE("rewind drops exact tokens and refuses coded ones", "[rewind]") {
  data::cache const c({.kv_heads = 1, .tokens = 70, .head_dim = 32});
  data::compressed const run(kivi<2>{{.residual = 32}}, c.view());
  CHECK(rewind(run.packed, 6).ok());
  CHECK(run.packed.tokens(0, 0) == 64);
  CHECK(run.packed.next_position(0) == 64);
  auto const before = data::bytes_of(run.packed);
  index_t const exact = 64 - run.packed.raw_row(0).value_coded;
  CHECK(rewind(run.packed, exact + 1).code == errc::unsupported);
  CHECK(rewind(run.packed, -1).code == errc::invalid_option);
  CHECK(rewind(run.packed, 65).code == errc::invalid_option);
  CHECK(rewind(run.packed, 1, {.first_sequence = 2}).code == errc::invalid_shape);
  CHECK(data::bytes_of(run.packed) == before);
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  data::buffer never(run.plan.packed_bytes());
  CHECK(rewind(packed_cache(run.plan, never), 1).code == errc::corrupt);
  CHECK(rewind(packed_cache(run.plan, nullptr, 0), 1).code == errc::corrupt);
}

TEST_CASE("codecs that keep nothing exact take coded tokens back", "[rewind]") {
  data::cache const c({.kv_heads = 2, .tokens = 70, .head_dim = 32});
  auto const takes_back = [&](auto const& policy, double bound) {
    data::compressed const run(policy, c.view(), evidence<>{}, {.append_tokens = 30});
    data::life life(run.packed, c);
    for (index_t n : {1, 30, 39}) {
      REQUIRE(rewind(run.packed, n).ok());
      CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
      CHECK(life.storage_error() <= bound);
      if (run.packed.slots(0, 0) == 0) continue;
      REQUIRE(life.append(1).ok());
      REQUIRE(life.settle().ok());
      CHECK(life.storage_error() <= bound);
      REQUIRE(rewind(run.packed, 1).ok());
    }
    CHECK(run.packed.tokens(0, 1) == 0);
    CHECK(rewind(run.packed, 1).code == errc::invalid_option);
    REQUIRE(life.append(1).ok());
    CHECK(run.packed.position(0, 0, 0) == 0);
    CHECK(life.storage_error() <= bound);
  };
  takes_back(dense<f16>{}, 0.0);
  takes_back(dense<float>{}, 0.0);
  takes_back(int_per_token<8>{}, tolerance::eight_bits);
}

TEST_CASE("rewind counts positions, not tokens", "[rewind][evict]") {
  data::cache const c({.sequences = 2, .kv_heads = 1, .tokens = 60, .head_dim = 32});
  data::compressed const run(pipeline{knorm{}, top_k{{.budget = 30}}, int_per_token<8>{}}, c.view(),
                             evidence<>{},
                             {.append_tokens = 10, .draft_tokens = 10, .evicts = true});
  data::life life(run.packed, c);
  REQUIRE(life.append(6).ok());
  // Of the six appended, slots 31 and 34 (positions 61 and 64) leave in row 0.
  for (std::int32_t slot : {31, 34}) {
    std::int32_t const victims[] = {slot, -1};
    REQUIRE(evict(cpu{}, run.packed, victims).ok());
  }
  CHECK(run.packed.tokens(0, 0) == 34);
  REQUIRE(rewind(run.packed, 3, {.first_sequence = 0, .sequences = 1}).ok());  // 63, 64, 65
  CHECK(run.packed.next_position(0) == 63);
  CHECK(run.packed.tokens(0, 0) == 32);
  CHECK(data::held(run.packed, 0, 0).back() == 62);
  CHECK(run.packed.next_position(1) == 66);
  REQUIRE(rewind(run.packed, 1).ok());
  CHECK(data::held(run.packed, 0, 0).back() == 60);
  CHECK(run.packed.next_position(0) == 62);  // 61 was gone and is not back
  CHECK(run.packed.next_position(1) == 65);
  CHECK(life.storage_error() < tolerance::eight_bits);
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  REQUIRE(life.append(2).ok());
  CHECK(data::held(run.packed, 0, 0).back() == 63);
  CHECK(life.storage_error() < tolerance::eight_bits);
  // What was coded goes too, where a codec keeps nothing exact.
  index_t const newest = data::held(run.packed, 0, 0)[20];
  REQUIRE(rewind(run.packed, run.packed.next_position(0) - newest,
                 {.first_sequence = 0, .sequences = 1})
              .ok());
  CHECK(run.packed.tokens(0, 0) == 20);
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  REQUIRE(life.append(2).ok());
  REQUIRE(life.settle().ok());
  CHECK(life.storage_error() < tolerance::eight_bits);
}

TEST_CASE("rewind after slots were filled again", "[rewind][evict][settle]") {
  data::cache const c({.kv_heads = 1, .tokens = 60, .head_dim = 32});
  data::compressed const run(
      pipeline{knorm{}, top_k{{.budget = 40}}, int_per_token<8>{{.residual = 8}}}, c.view(),
      evidence<>{}, {.append_tokens = 10, .draft_tokens = 4, .evicts = true});
  data::life life(run.packed, c);
  for (std::int32_t i = 0; i < 20; ++i) {  // position 60 + i ends in slot i, once it is coded
    REQUIRE(life.append(1).ok());
    REQUIRE(evict(cpu{}, run.packed, &i).ok());
    REQUIRE(life.settle().ok());
    REQUIRE(life.storage_error() < tolerance::eight_bits);
  }
  CHECK(run.packed.tokens(0, 0) == 40);
  CHECK(run.packed.slots(0, 0) <= 41);
  auto const before = data::bytes_of(run.packed);
  // The newest eight wait exactly; one more is coded already.
  CHECK(rewind(run.packed, 9).code == errc::unsupported);
  CHECK(data::bytes_of(run.packed) == before);
  REQUIRE(rewind(run.packed, 5).ok());
  CHECK(data::held(run.packed, 0, 0).back() == 74);
  CHECK(run.packed.tokens(0, 0) == 35);
  CHECK(life.storage_error() < tolerance::eight_bits);
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  for (int i = 0; i < 5; ++i) {
    REQUIRE(life.append(1).ok());
    REQUIRE(life.settle().ok());
  }
  CHECK(life.storage_error() < tolerance::eight_bits);
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
}
