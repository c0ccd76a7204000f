// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Plans: every size before any data is seen.

#include "support/catch.hpp"
#include "support/policies.hpp"

#include <vector>

using namespace kvslim;

namespace {

/// Storage of rows that hold these many slots.
template <class Layout>
std::size_t bytes_for(Layout const& layout, std::vector<index_t> const& slots) {
  index_t sum = layout.table_bytes();
  for (std::size_t r = 0; r < slots.size(); ++r)
    sum += layout.parts(slots[r], static_cast<index_t>(r)).bytes;
  return static_cast<std::size_t>(sum);
}

/// bytes_at_most(total, longest) covers every way to split `total` over three rows.
template <class Policy>
void covers_every_split(Policy const& policy, plan_options options) {
  auto const plan = make_plan(policy, {1, 3, 100, 32}, options);
  REQUIRE(plan.check().ok());
  auto const layout = plan.layout();
  for (index_t total : {0, 1, 37, 64, 131})
    for (index_t longest : {0, 1, 33, 70, 140}) {
      CAPTURE(total, longest);
      std::size_t const bound = layout.bytes_at_most(total, longest);
      std::size_t most = 0;
      for (index_t a = 0; a <= std::min(total, longest); ++a)
        for (index_t b = 0; b <= std::min(total - a, longest); ++b)
          most = std::max(most, bytes_for(layout, {a, b, std::min(total - a - b, longest)}));
      REQUIRE(most <= bound);
    }
  CHECK(layout.bytes_at_most(300, 100) == bytes_for(layout, {100, 100, 100}));
  CHECK(layout.bytes_at_most(-1, 10) == 0);
  CHECK(layout.bytes_at_most(10, -1) == 0);
  CHECK(layout.bytes_at_most(1, extents::most_cells) == 0);
}

template <class Policy>
errc check(Policy const& policy, extents e, plan_options options = {}) {
  auto const plan = make_plan(policy, e, options);
  auto const s = plan.check();
  if (!s) {
    CHECK(std::string(s.message).rfind("kvslim: ", 0) == 0);
    CHECK(plan.packed_bytes() == 0);
    CHECK(plan.workspace_bytes() == 0);
    CHECK(plan.keep_bytes() == 0);
    CHECK(plan.select_bytes() == 0);
    CHECK(plan.encode_bytes() == 0);
    CHECK(plan.most_kept() == 0);
    CHECK(plan.total_kept() == 0);
  }
  return s.code;
}

constexpr extents good{2, 4, 100, 32};
constexpr pipeline half{knorm{}, top_k{{.budget = 50}}};

/// Says that it writes whole blocks and would code any number of tokens.
struct careless_key : channel_key<4> {
  [[nodiscard]] KVSLIM_HD constexpr codec_sizes sizes(index_t dim, index_t n) const noexcept {
    auto z = channel_key<4>::sizes(dim, n);
    z.settle_by = 1;
    return z;
  }
};

}  // namespace

TEST_CASE("storage bounds cover every split of a total", "[plan]") {
  covers_every_split(dense<f16>{}, {.append_tokens = 3});
  covers_every_split(kivi<2>{{.residual = 32}}, {.append_tokens = 40, .draft_tokens = 5});
  covers_every_split(pipeline{knorm{}, top_k{{.budget = 40}}, kivi<4>{{.residual = 64}}}, {});
  covers_every_split(int_per_token<4>{{.residual = 20}},
                     {.append_tokens = 9, .evicts = true, .biases = true});
  covers_every_split(pipeline{policies::heavy{}, top_k{{.budget = 40}}, int_per_token<8>{}},
                     {.append_tokens = 9, .evicts = true, .biases = true});
}

TEST_CASE("a plan is arithmetic that a compiler can do", "[plan]") {
  constexpr auto plan =
      make_plan(pipeline{knorm{}, top_k{{.budget = 50}}, kivi<2>{{.residual = 32}}}, good,
                {.append_tokens = 10});
  static_assert(plan.packed_bytes() > 0 && plan.workspace_bytes() > 0);
  static_assert(plan.most_kept() == 50 && plan.total_kept() == 8 * 50);
  static_assert(plan.workspace_bytes() ==
                plan.keep_bytes() + (plan.select_bytes() > plan.encode_bytes()
                                         ? plan.select_bytes()
                                         : plan.encode_bytes()));
  static_assert(plan.layout().table_bytes() == 320 + 8 * 64);
  static_assert(plan.layout().draft_tokens == 1);
  CHECK(plan.packed_bytes() == plan.layout().bytes_at_most(8 * 60, 60));
  // Room for a longer row than any of these.
  auto const roomy = make_plan(half, good, {.append_tokens = 10, .row_slots = 300});
  CHECK(roomy.most_slots() == 300);
  CHECK(roomy.packed_bytes() == roomy.layout().bytes_at_most(8 * 300, 300));
  auto const enough = make_plan(half, good, {.append_tokens = 10, .row_slots = 30});
  CHECK(enough.most_slots() == 60);
}

TEST_CASE("what a plan keeps", "[plan]") {
  CHECK(make_plan(half, {1, 1, 20, 8}).most_kept() == 20);
  CHECK(make_plan(dense<f16>{}, good).total_kept() == 800);
  auto const contested = make_plan(pipeline{knorm{}, policies::contested{.kv_heads = 4}}, good);
  CHECK(contested.most_kept() == 100);
  CHECK(contested.total_kept() == 2 * 40);
  CHECK(contested.packed_bytes() <
        make_plan(dense<f16>{}, good, {.positions = true}).packed_bytes());
  CHECK(budget_for(0.3, 1000) == 300);
  CHECK(budget_for(0.1, 15) == 1);
}

TEST_CASE("what a layout stores beside K and V", "[plan]") {
  auto const has = [](auto const& policy, plan_options options, side_kind kind) {
    return make_plan(policy, good, options).layout().find(kind) >= 0;
  };
  using enum side_kind;
  CHECK_FALSE(has(kivi<2>{}, {}, position));
  CHECK(has(kivi<2>{}, {.positions = true}, position));
  CHECK(has(kivi<2>{}, {.evicts = true}, position));
  CHECK(has(half, {}, position));
  CHECK_FALSE(has(pipeline{knorm{}, top_k{{.budget = 5}}, rerotate{}}, {}, position));
  CHECK_FALSE(has(half, {}, bias));
  CHECK(has(half, {.biases = true}, bias));
  CHECK(has(pipeline{knorm{}, kvmerger{{.mass_bias = true}}}, {}, bias));
  CHECK_FALSE(has(pipeline{knorm{}, kvmerger{}}, {}, bias));
  pipeline const heavy{policies::heavy{}, top_k{{.budget = 5}}};
  CHECK_FALSE(has(heavy, {}, column));
  CHECK(has(heavy, {.evicts = true}, column));
  CHECK_FALSE(has(half, {}, pin));
  CHECK(has(half, {.evicts = true}, pin));
  // Readers must agree on what rotated the keys, and on tables.
  auto const mark = [](auto const& policy, plan_options options = {}) {
    return make_plan(policy, good, options).layout().fingerprint;
  };
  CHECK(mark(half) == 0);
  CHECK(mark(half, {.fingerprint = 7}) == 7);
  auto const turned = [&](rope r, std::uint64_t of_tables = 0) {
    return mark(pipeline{knorm{}, top_k{{.budget = 5}}, rerotate{r}}, {.fingerprint = of_tables});
  };
  CHECK(turned({}) != 0);
  CHECK(turned({}) == turned({.base = 10000.0f}));
  CHECK(turned({}) != turned({.base = 500000.0f}));
  CHECK(turned({}) != turned({.interleaved = true}));
  CHECK(turned({}) != turned({.dims = 16}));
  CHECK(turned({}) != turned({}, 1));
}

TEST_CASE("extents and options that no cache can have are refused", "[plan][bad_input]") {
  CHECK(check(half, good) == errc::ok);
  for (extents const& e :
       {extents{0, 4, 100, 32}, extents{2, 0, 100, 32}, extents{2, 4, 0, 32}, extents{2, 4, -1, 32},
        extents{2, 4, 100, 0}, extents{2, 4, 100, 1025}, extents{2, 4, 100, 32, -1},
        extents{2, 4, 100, 32, 1025}, extents{extents::most_rows + 1, 1, 1, 32},
        extents{extents::most_rows, 2, 1, 32}, extents{1, 1, extents::most_tokens + 1, 32},
        extents{2048, 1, extents::most_tokens, 32}})
    CHECK(check(half, e) == errc::invalid_shape);
  CHECK(check(half, good, {.append_tokens = -1}) == errc::invalid_option);
  CHECK(check(half, good, {.append_tokens = extents::most_tokens + 1}) == errc::invalid_option);
  CHECK(check(half, good, {.append_tokens = 1, .draft_tokens = -1}) == errc::invalid_option);
  CHECK(check(half, good, {.row_slots = -1}) == errc::invalid_option);
  CHECK(check(half, good, {.row_slots = extents::most_tokens + 1}) == errc::invalid_option);
  CHECK(check(half, {1 << 20, 8, 10, 8}, {.row_slots = 1 << 20}) == errc::invalid_option);
  for (logit_rule const& rule :
       {logit_rule{-1.0f}, logit_rule{1.0f, -1.0f}, logit_rule{std::nanf("")}, logit_rule{INFINITY},
        logit_rule{1.0f, std::nanf("")}})
    CHECK(check(half, good, {.logit = rule}) == errc::invalid_option);
}

TEST_CASE("options of every stage are refused by the plan", "[plan][bad_input]") {
  auto const keep = [](index_t budget, index_t sinks = 0, index_t recent = 0) {
    return pipeline{knorm{}, top_k{{.budget = budget, .sinks = sinks, .recent = recent}}};
  };
  CHECK(check(keep(0), good) == errc::invalid_option);
  CHECK(check(keep(-5), good) == errc::invalid_option);
  CHECK(check(keep(5, -1), good) == errc::invalid_option);
  CHECK(check(keep(5, 0, -1), good) == errc::invalid_option);
  CHECK(check(keep(1000), good) == errc::ok);
  auto const snap = [](index_t window, index_t pool) {
    return pipeline{snapkv{{.window = window, .pool = pool}}, top_k{{.budget = 5}}};
  };
  CHECK(check(snap(0, 5), good) == errc::invalid_option);
  CHECK(check(snap(16, 4), good) == errc::invalid_option);
  CHECK(check(snap(16, 0), good) == errc::invalid_option);
  CHECK(check(kivi<2>{{.group = 30}}, good) == errc::invalid_option);
  CHECK(check(kivi<2>{{.group = 32, .residual = 48}}, good) == errc::invalid_option);
  CHECK(check(kivi<2>{{.group = 64, .residual = 64}}, good) ==
        errc::invalid_option);  // 64 does not divide 32
  CHECK(check(int_per_token<4>{{.residual = -1}}, good) == errc::invalid_option);
  CHECK(check(int_per_token<8>{}, {1, 1, 10, 34}) == errc::invalid_shape);
  CHECK(check(pipeline{knorm{}, top_k{{.budget = 5}}, rerotate{{.dims = 33}}}, good) ==
        errc::invalid_option);
  CHECK(check(pipeline{knorm{}, top_k{{.budget = 5}}, rerotate{}}, good,
              {.append_tokens = 1, .evicts = true}) == errc::unsupported);
  CHECK(check(pipeline{knorm{}, kvmerger{{.sigma = -1.0f}}}, good) == errc::invalid_option);
  CHECK(check(pipeline{shared{knorm{}, {.sequences = 3}}, top_k{{.budget = 5}}}, good) ==
        errc::invalid_shape);
  CHECK(check(pipeline{knorm{}, policies::spendthrift{.kv_heads = 3}}, good) ==
        errc::invalid_shape);
  CHECK(check(codec_pair{careless_key{}, dense_value<f16>{}}, good) == errc::invalid_option);
}
