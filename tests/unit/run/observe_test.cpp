// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// observe(): every held token learns what each query paid to it, as the prompt's window told it
// before; records move with their tokens.

#include "support/catch.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/policies.hpp"
#include "support/tolerance.hpp"

#include <map>

using namespace kvslim;

namespace {

data::shape const shape{.sequences = 2, .kv_heads = 2, .group = 3, .tokens = 60, .head_dim = 16};

template <class Packed>
policies::ledger ledger_of(Packed const& packed, index_t r, index_t slot) {
  return static_cast<policies::ledger const*>(static_cast<void const*>(packed.columns(r)))[slot];
}

/// What should be in the records, by position, in double.
struct expected {
  struct record {
    double sum = 0;
    index_t looks = 0;
  };
  std::vector<std::map<index_t, record>> rows;

  /// Softmax of one query over what it sees, summed over a KV head's query heads.
  template <class Packed>
  void look(Packed const& packed, attend_request<> const& a) {
    index_t const heads = packed.extents().kv_heads, group = a.q.heads / heads;
    for (index_t s = 0; s < a.q.sequences; ++s)
      for (index_t head = 0; head < a.q.heads; ++head)
        for (index_t t = 0; t < a.q.tokens; ++t) {
          auto const x = oracle::attend(packed, a, s, head, t);
          index_t const r = (s + a.first_sequence) * heads + head / group;
          for (std::size_t slot = 0; slot < x.logits.size(); ++slot) {
            if (x.logits[slot] == -INFINITY) continue;
            index_t const position =
                packed.position(r / heads, r % heads, static_cast<index_t>(slot));
            auto& mine = rows[static_cast<std::size_t>(r)][position];
            mine.sum += std::exp(x.logits[slot] - x.lse);
            mine.looks += head % group == 0 ? 1 : 0;
          }
        }
  }
  template <class Packed>
  void compare(Packed const& packed) const {
    index_t const heads = packed.extents().kv_heads;
    for (index_t r = 0; r < packed.extents().rows(); ++r)
      for (index_t slot = 0; slot < packed.slots(r / heads, r % heads); ++slot) {
        index_t const position = packed.position(r / heads, r % heads, slot);
        if (position == empty_slot) continue;
        auto const found = rows[static_cast<std::size_t>(r)].find(position);
        REQUIRE(found != rows[static_cast<std::size_t>(r)].end());
        auto const got = ledger_of(packed, r, slot);
        CAPTURE(r, slot, position);
        REQUIRE(got.born == position);
        REQUIRE(got.looks == found->second.looks);
        REQUIRE(std::abs(got.sum - found->second.sum) <=
                tolerance::attend * std::max(1.0, found->second.sum));
      }
  }
};

/// The window's queries over the prompt, in double.
expected prompt(data::cache const& c, index_t window) {
  expected x;
  for (index_t r = 0; r < c.shape.rows(); ++r) {
    x.rows.emplace_back();
    auto const keys = oracle::keys(c, r / 2, r % 2);
    auto const heads = oracle::window(c, r / 2, r % 2, window);
    for (index_t w = 0; w < window; ++w) {
      index_t const visible = c.shape.tokens - window + w + 1;
      for (auto const& head : heads) {
        reference::matrix const seen(keys.begin(), keys.begin() + visible);
        auto const& q = head[static_cast<std::size_t>(w)];
        double const lse = reference::attention(q, seen, seen).lse;
        for (index_t t = 0; t < visible; ++t)
          x.rows.back()[t].sum +=
              std::exp(reference::dot(q, seen[static_cast<std::size_t>(t)]) / 4.0 - lse);
      }
      for (index_t t = 0; t < visible; ++t) ++x.rows.back()[t].looks;
    }
  }
  return x;
}

}  // namespace

TEST_CASE("records of the prompt are what its window paid", "[observe]") {
  data::cache const c(shape);
  data::compressed const run(
      pipeline{policies::heavy{}, top_k{{.budget = 40, .recent = 10}}, dense<float>{}}, c.view(),
      evidence{window_queries{c.queries(12)}}, {.append_tokens = 1, .evicts = true});
  REQUIRE(run.result.ok());
  CHECK(run.intact());
  auto const x = prompt(c, 12);
  x.compare(run.packed);
  // And the tokens with the largest sums are those that stayed.
  for (index_t r = 0; r < 4; ++r) {
    std::vector<double> sums;
    for (auto const& [position, mine] : x.rows[static_cast<std::size_t>(r)])
      sums.push_back(mine.sum);
    CHECK(run.kept(r / 2, r % 2) == reference::keep(sums, 40, 0, 10));
  }
}

TEST_CASE("a generation at a fixed budget: records are born, grow, move and leave",
          "[observe][evict][settle]") {
  data::cache const c(shape);
  data::compressed const run(pipeline{policies::heavy{}, top_k{{.budget = 30, .recent = 8}},
                                      int_per_token<8>{{.residual = 6}}},
                             c.view(), evidence{window_queries{c.queries(4)}},
                             {.append_tokens = 2, .evicts = true});
  REQUIRE(run.result.ok());
  auto x = prompt(c, 4);
  data::life life(run.packed, c);
  data::buffer scratch(victim_bytes(run.plan));
  for (int token = 0; token < 80; ++token) {
    REQUIRE(life.append().ok());
    auto q = c.queries(1);
    q.data += token % 64 * shape.head_dim;
    oracle::asked step(run.packed, q, true);
    step.request.base2 = token % 2 == 1;
    REQUIRE(attend(cpu{}, run.packed, step.request).ok());
    x.look(run.packed, step.request);
    REQUIRE(observe(cpu{}, run.plan.stage<scorer_tag>(), run.packed, step.request).ok());
    x.compare(run.packed);
    std::int32_t victims[4];
    REQUIRE(choose_victims(cpu{}, run.plan, run.packed, victims, scratch).ok());
    for (index_t r = 0; r < 4; ++r) {  // the smallest sum of what is not among the newest 8
      auto const held = data::held(run.packed, r / 2, r % 2);
      REQUIRE(held.size() == 31);
      REQUIRE(victims[r] >= 0);
      index_t const gone = run.packed.position(r / 2, r % 2, victims[r]);
      for (std::size_t i = 0; i < 31 - 8; ++i)
        REQUIRE(x.rows[static_cast<std::size_t>(r)][gone].sum <=
                x.rows[static_cast<std::size_t>(r)][held[i]].sum + tolerance::attend);
      REQUIRE(gone < held[31 - 8]);
    }
    REQUIRE(evict(cpu{}, run.packed, victims).ok());
    REQUIRE(life.settle().ok());
    x.compare(run.packed);
    REQUIRE(run.packed.slots(1, 1) <= 31);
  }
  CHECK(scratch.intact());
  CHECK(run.intact());
  CHECK(life.storage_error() < tolerance::eight_bits);
}

TEST_CASE("several queries, sinks, and one layer of several", "[observe]") {
  data::cache const c(shape);
  data::compressed const run(pipeline{policies::heavy{}, top_k{{.budget = 30}}}, c.view(),
                             evidence{window_queries{c.queries(4)}},
                             {.append_tokens = 8, .draft_tokens = 8, .evicts = true});
  auto x = prompt(c, 4);
  data::life life(run.packed, c);
  REQUIRE(life.append(3, {.first_sequence = 1, .sequences = 1}).ok());
  auto q = c.queries(3);
  q.data = q.row(1, 0);
  q.sequences = 1;
  float const sinks[] = {1, 2, 3, 4, 5, 6};
  oracle::asked step(run.packed, q, true);
  step.request.first_sequence = 1;
  step.request.sink_logits = sinks;
  REQUIRE(attend(cpu{}, run.packed, step.request).ok());
  x.look(run.packed, step.request);
  REQUIRE(observe(cpu{}, policies::heavy{}, run.packed, step.request).ok());
  x.compare(run.packed);
}

TEST_CASE("a token appended after a rewind is born anew", "[observe][rewind]") {
  data::cache const c(shape);
  data::compressed const run(pipeline{policies::heavy{}, top_k{{.budget = 30}}}, c.view(),
                             evidence{window_queries{c.queries(4)}},
                             {.append_tokens = 4, .draft_tokens = 4, .evicts = true});
  data::life life(run.packed, c);
  auto const once = [&] {
    oracle::asked step(run.packed, c.queries(1), true);
    REQUIRE(attend(cpu{}, run.packed, step.request).ok());
    REQUIRE(observe(cpu{}, policies::heavy{}, run.packed, step.request).ok());
  };
  REQUIRE(life.append(2).ok());
  once();
  once();
  CHECK(ledger_of(run.packed, 1, 31).looks == 2);
  REQUIRE(rewind(run.packed, 1).ok());
  REQUIRE(life.append(1).ok());
  once();
  CHECK(ledger_of(run.packed, 1, 30).looks == 3);
  CHECK(ledger_of(run.packed, 1, 31).looks == 1);
}

TEST_CASE("observe refuses, and changes nothing", "[observe]") {
  data::cache const c(shape);
  data::compressed const run(pipeline{policies::heavy{}, top_k{{.budget = 30}}}, c.view(),
                             evidence{window_queries{c.queries(4)}},
                             {.append_tokens = 4, .evicts = true});
  auto const before = data::bytes_of(run.packed);
  oracle::asked x(run.packed, c.queries(1), true);
  auto const refused = [&](auto const& change) {
    auto a = x.request;
    change(a);
    auto const s = observe(cpu{}, policies::heavy{}, run.packed, a);
    CHECK(data::bytes_of(run.packed) == before);
    return s.code;
  };
  using request = attend_request<>;
  CHECK(refused([](request& a) { a.logits = nullptr; }) == errc::invalid_pointer);
  CHECK(refused([](request& a) { a.q.data = nullptr; }) == errc::invalid_pointer);
  CHECK(refused([](request& a) { a.logits_stride = 3; }) == errc::invalid_shape);
  CHECK(refused([](request& a) { a.q.heads = 5; }) == errc::invalid_shape);
  data::buffer never(run.plan.packed_bytes());
  CHECK(observe(cpu{}, policies::heavy{}, packed_cache(run.plan, never), x.request).code ==
        errc::corrupt);
  data::compressed const unwatched(pipeline{policies::heavy{}, top_k{{.budget = 30}}}, c.view(),
                                   evidence{window_queries{c.queries(4)}});
  CHECK(observe(cpu{}, policies::heavy{}, unwatched.packed, x.request).code == errc::unsupported);
}
