// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Chelsea: rounds equal to the reference, exact sums of what is clustered, and what takes no part.

#include "reference/chelsea.hpp"

#include "support/catch.hpp"
#include "support/lives.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

namespace {

constexpr float hidden = -std::numeric_limits<float>::infinity();
constexpr auto stored = [](auto const& packed, index_t r) {
  return data::stored_row<reference::chelsea_rows>(packed, r);
};

template <class Packed>
double row_error(Packed const& packed, index_t r, reference::chelsea_rows const& expected) {
  double worst = 0, most = 1e-30;
  if (packed.raw_row(r).slots != std::ssize(expected.k)) return 1e9;
  for (std::size_t i = 0; i < expected.k.size(); ++i) {
    auto const slot = static_cast<index_t>(i);
    auto const compare = [&](double got, double wanted) {
      worst = std::max(worst, std::abs(got - wanted));
      most = std::max(most, std::abs(wanted));
    };
    for (std::size_t d = 0; d < expected.k[i].size(); ++d)
      compare(packed.key(r, slot, static_cast<index_t>(d)), expected.k[i][d]);
    for (std::size_t d = 0; d < expected.v[i].size(); ++d)
      compare(packed.value(r, slot, static_cast<index_t>(d)), expected.v[i][d]);
  }
  return worst / most;
}

auto rounds_by(chelsea::options const& o) {
  return pipeline{streaming_llm{}, chelsea{o}, dense<float>{}};
}

}  // namespace

TEST_CASE("chelsea's rounds match the reference", "[chelsea]") {
  data::cache const c(
      {.sequences = 2, .kv_heads = 3, .tokens = 101, .head_dim = 80, .value_dim = 16});
  std::int32_t const lengths[] = {101, 37};
  auto view = c.view();
  view.lengths = lengths;
  for (index_t const chunk : {2, 7, 64, 1000})
    for (float const part : {1.0f, 0.5f, 0.25f})
      for (index_t const ends : {0, 5}) {
        chelsea::options const o{
            .chunk = chunk, .part = part, .sinks = ends, .recent = 2 * ends, .mass_bias = true};
        data::compressed const first(rounds_by(o), view);
        REQUIRE(first.result.ok());
        CHECK(first.intact());
        auto const round = [&](reference::chelsea_rows const& x) {
          return reference::chelsea(x.k, x.v, x.mass, static_cast<std::size_t>(chunk),
                                    static_cast<double>(part), static_cast<std::size_t>(ends),
                                    static_cast<std::size_t>(2 * ends));
        };
        for (index_t r = 0; r < 6; ++r) {
          auto const n = static_cast<std::size_t>(lengths[r / 3]);
          auto const expected = round({oracle::keys(c, r / 3, r % 3, lengths[r / 3]),
                                       oracle::values(c, r / 3, r % 3, lengths[r / 3]),
                                       std::vector<double>(n, 1.0),
                                       {}});
          CHECK(row_error(first.packed, r, expected) <= tolerance::accumulated);
          std::vector<index_t> kept;
          for (std::size_t t : expected.kept) kept.push_back(static_cast<index_t>(t));
          CHECK(first.kept(r / 3, r % 3) == kept);
        }
        CHECK(oracle::attend_error(first.packed, c) <= tolerance::attend);
        // A second round over what the first one stored: no mass is lost, no sum of values.
        auto const plan = make_plan(rounds_by(o), {2, 3, 101, 80, 16});
        data::buffer storage(plan.packed_bytes()), scratch(plan.workspace_bytes());
        packed_cache const second(plan, storage);
        REQUIRE(recompress(cpu{}, plan, first.packed, second, scratch).ok());
        for (index_t r = 0; r < 6; ++r) {
          CHECK(row_error(second, r, round(stored(first.packed, r))) <= tolerance::accumulated);
          auto const rows = stored(second, r);
          double const mass = std::accumulate(rows.mass.begin(), rows.mass.end(), 0.0);
          CHECK(std::abs(mass - lengths[r / 3]) <= 101 * tolerance::accumulated);
          for (index_t d = 0; d < 16; ++d) {
            double sum = 0, size = 0;
            for (index_t t = 0; t < lengths[r / 3]; ++t) {
              sum += static_cast<double>(c.value(r / 3, r % 3, t, d));
              size += std::abs(static_cast<double>(c.value(r / 3, r % 3, t, d)));
            }
            for (std::size_t i = 0; i < rows.v.size(); ++i)
              sum -= rows.mass[i] * rows.v[i][static_cast<std::size_t>(d)];
            CHECK(std::abs(sum) <= size * tolerance::accumulated);
          }
        }
      }
}

TEST_CASE("chelsea that joins nothing stores what is, bit for bit", "[chelsea]") {
  data::cache const c({.sequences = 1, .kv_heads = 2, .tokens = 70, .head_dim = 32});
  data::compressed const plain(pipeline{dense<float>{}}, c.view(), evidence<>{},
                               {.positions = true});
  REQUIRE(plain.result.ok());
  for (chelsea::options const& o : {chelsea::options{.part = 0.0f},
                                    {.recent = 70},
                                    {.sinks = 500},
                                    {.sinks = 0, .recent = 69}}) {
    data::compressed const run(rounds_by(o), c.view());
    REQUIRE(run.result.ok());
    CHECK(run.packed.bytes() == plain.packed.bytes());
    CHECK(std::equal(run.storage.data(), run.storage.data() + run.packed.bytes(),
                     plain.storage.data()));
  }
}

TEST_CASE("chelsea in shuffled cells with padding stores the same", "[chelsea]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .tokens = 70, .head_dim = 32});
  data::shuffled const mixed(c, 13);
  chelsea::options const o{.chunk = 16, .part = 0.6f};
  data::compressed const a(rounds_by(o), c.view()), b(rounds_by(o), mixed.view());
  REQUIRE((a.result.ok() && b.result.ok()));
  for (index_t r = 0; r < 4; ++r) {
    CHECK(a.kept(r / 2, r % 2) == b.kept(r / 2, r % 2));
    CHECK(stored(a.packed, r).k == stored(b.packed, r).k);
    CHECK(stored(a.packed, r).v == stored(b.packed, r).v);
  }
}

TEST_CASE("chelsea leaves alone what it must", "[chelsea]") {
  data::cache c({.sequences = 1, .kv_heads = 1, .tokens = 12, .head_dim = 4});
  std::fill(c.k.begin(), c.k.end(), 1.0f);  // all alike
  std::vector<std::uint8_t> valid(12, 1);
  valid[4] = 2;
  std::vector<float> biases(12, 0.0f);
  biases[6] = hidden;
  auto view = c.view();
  view.valid = valid.data();
  view.bias = biases.data();
  data::compressed const run(rounds_by({.chunk = 12, .sinks = 0, .recent = 2, .mass_bias = true}),
                             view, evidence<>{}, {.biases = true});
  REQUIRE(run.result.ok());
  // 0, 2 and 8 join the first odd token, 1; pinned 4, hidden 6 and the newest stay.
  CHECK(run.kept(0, 0) == std::vector<index_t>{1, 3, 4, 5, 6, 7, 9, 10, 11});
  CHECK(std::abs(run.packed.logit_bias(0, 0) - std::log(4.0f)) < 1e-6f);
  CHECK(run.packed.logit_bias(0, 4) == hidden);
  // After a quota: what it protects stays, what it evicts is gone.
  data::compressed const chosen(
      pipeline{streaming_llm{{.sinks = 0}}, top_k{{.budget = 8, .recent = 2}},
               chelsea{{.chunk = 12, .sinks = 0, .recent = 0}}, dense<float>{}},
      c.view());
  REQUIRE(chosen.result.ok());
  CHECK(chosen.kept(0, 0) == std::vector<index_t>{5, 7, 9, 10, 11});
  // Rows of nothing, and of one token.
  for (std::int32_t const n : {0, 1}) {
    auto few = c.view();
    few.lengths = &n;
    data::compressed const small(rounds_by({.sinks = 0, .recent = 0}), few);
    REQUIRE(small.result.ok());
    CHECK(small.packed.raw_row(0).slots == n);
  }
  CHECK(chelsea{{.chunk = 1}}.check().code == errc::invalid_option);
  CHECK(chelsea{{.part = 1.5f}}.check().code == errc::invalid_option);
  CHECK(chelsea{{.part = std::nanf("")}}.check().code == errc::invalid_option);
  CHECK(chelsea{{.sinks = -1}}.check().code == errc::invalid_option);
  CHECK(chelsea{{.recent = -1}}.check().code == errc::invalid_option);
}
