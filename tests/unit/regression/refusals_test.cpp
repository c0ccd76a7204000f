// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Every option at every bad value, sizes of what is refused, and memory that is not what it says.

#include "support/catch.hpp"
#include "support/data.hpp"

#include <kvslim/exec/openmp.hpp>

#include <cstring>
#include <limits>

using namespace kvslim;

namespace {

constexpr index_t most = std::numeric_limits<index_t>::max();
constexpr index_t least = std::numeric_limits<index_t>::min();
constexpr index_t odd_values[] = {least,
                                  -(index_t{1} << 40),
                                  -1,
                                  0,
                                  1,
                                  3,
                                  index_t{1} << 20,
                                  index_t{1} << 31,
                                  index_t{1} << 40,
                                  index_t{1} << 62,
                                  most};

/// A plan that is refused has no sizes; one that is not runs in the memory it asks for.
template <class Policy>
void refused_or_safe(Policy const& policy, data::cache const& logical, plan_options o = {}) {
  auto const view = logical.view();
  auto const plan = make_plan(policy, view.extents(), o);
  if (!plan.check()) {
    CHECK(plan.packed_bytes() == 0);
    CHECK(plan.workspace_bytes() == 0);
    CHECK(plan.keep_bytes() == 0);
    CHECK(plan.select_bytes() == 0);
    CHECK(plan.encode_bytes() == 0);
    CHECK(plan.most_kept() == 0);
    CHECK(plan.total_kept() == 0);
  }
  CHECK(plan.packed_bytes() < (std::size_t{1} << 62));
  CHECK(plan.workspace_bytes() < (std::size_t{1} << 62));
  if (plan.packed_bytes() > (1 << 24) || plan.workspace_bytes() > (1 << 24)) return;
  data::compressed const c(policy, view, evidence{window_queries{logical.queries(1)}}, o);
  if (!plan.check()) CHECK_FALSE(c.result.ok());
  CHECK(c.storage.intact());
  CHECK(c.scratch.intact());
}

template <class Packed>
status ask(Packed const& packed, float* out) {
  float const q[64] = {};
  float lse[8];
  auto const& e = packed.extents();
  return attend(cpu{}, packed,
                {.q = dense_rows<host_space, float const>(q, {1, e.kv_heads, 1, e.head_dim}),
                 .out = dense_rows(out, {1, e.kv_heads, 1, e.value_width()}),
                 .lse = lse});
}

}  // namespace

TEST_CASE("any option at any value is refused or safe", "[regression][refusals]") {
  data::cache const logical({1, 2, 1, 40, 32});
  for (index_t const x : odd_values) {
    INFO("option value " << x);
    refused_or_safe(kivi<4>{{.group = x}}, logical);
    refused_or_safe(kivi<2>{{.residual = x}}, logical);
    refused_or_safe(kivi<2>{{.group = x, .residual = x}}, logical);
    refused_or_safe(kivi<4>{{.group = 32, .residual = 32, .value_group = x}}, logical);
    refused_or_safe(int_per_token<8>{{.residual = x}}, logical);
    refused_or_safe(pipeline{knorm{}, top_k{{.budget = x}}}, logical);
    refused_or_safe(pipeline{knorm{}, top_k{{.budget = 8, .sinks = x}}}, logical);
    refused_or_safe(pipeline{knorm{}, top_k{{.budget = 8, .recent = x}}}, logical);
    refused_or_safe(pipeline{streaming_llm{{.sinks = x}}, top_k{{.budget = 8}}}, logical);
    refused_or_safe(pipeline{shared{knorm{}, {x, 1}}, top_k{{.budget = 8}}}, logical);
    refused_or_safe(pipeline{shared{knorm{}, {1, x}}, top_k{{.budget = 8}}}, logical);
    refused_or_safe(pipeline{snapkv{{.window = x}}, top_k{{.budget = 8}}}, logical);
    refused_or_safe(pipeline{snapkv{{.window = 1, .pool = x}}, top_k{{.budget = 8}}}, logical);
    refused_or_safe(pipeline{knorm{}, kvmerger{{.recent = x}}}, logical);
    refused_or_safe(pipeline{knorm{}, kvmerger{{.sinks = x}}}, logical);
    rerotate mover{};
    mover.opt.dims = x;
    refused_or_safe(pipeline{streaming_llm{}, top_k{{.budget = 8}}, mover}, logical);
    refused_or_safe(dense<f16>{}, logical, {.append_tokens = x});
    refused_or_safe(kivi<4>{{.residual = 32}}, logical, {.append_tokens = 4, .draft_tokens = x});
  }
  for (float const x : {NAN, INFINITY, -INFINITY, -1.0f, 0.0f, 3e38f}) {
    INFO("option value " << x);
    refused_or_safe(pipeline{knorm{}, kvmerger{{.threshold = x}}}, logical);
    refused_or_safe(pipeline{knorm{}, kvmerger{{.sigma = x}}}, logical);
    rerotate mover{};
    mover.opt.base = x;
    refused_or_safe(pipeline{streaming_llm{}, top_k{{.budget = 8}}, mover}, logical);
  }
}

TEST_CASE("any extents are refused or have sizes that do not overflow", "[regression][refusals]") {
  for (index_t const x : odd_values)
    for (int field = 0; field < 5; ++field) {
      extents e{2, 2, 64, 32, 32};
      (field == 0   ? e.sequences
       : field == 1 ? e.kv_heads
       : field == 2 ? e.tokens
       : field == 3 ? e.head_dim
                    : e.value_dim) = x;
      auto const check = [&](auto const& plan) {
        CHECK(plan.packed_bytes() < (std::size_t{1} << 62));
        CHECK(plan.workspace_bytes() < (std::size_t{1} << 62));
        CHECK((plan.packed_bytes() > 0) == plan.check().ok());
        CHECK(attend_bytes(plan.layout(), x) < (std::size_t{1} << 62));
        CHECK(attend_bytes(plan.layout(), 4, x, x) < (std::size_t{1} << 62));
        CHECK(append_bytes(plan.layout()) < (std::size_t{1} << 62));
        CHECK(settle_bytes(plan.layout()) < (std::size_t{1} << 62));
        CHECK(decode_bytes(plan.layout(), x) < (std::size_t{1} << 62));
      };
      check(make_plan(kivi<2>{{.residual = 32}}, e, {.append_tokens = 5}));
      check(make_plan(pipeline{snapkv{{.window = 65535, .pool = 1}}, top_k{{.budget = most}}}, e));
      auto const plan = make_plan(pipeline{knorm{}, top_k{{.budget = most}}}, e,
                                  {.append_tokens = index_t{1} << 30, .evicts = true});
      check(plan);
      CHECK(victim_bytes(plan) < (std::size_t{1} << 62));
      auto const view = dense_cache(static_cast<float*>(nullptr), static_cast<float*>(nullptr), e);
      std::byte none[16];
      packed_cache const packed(plan.layout(), none, 0);
      CHECK_FALSE(compress(cpu{}, plan, view, evidence<>{}, packed, {}).ok());
    }
  CHECK(make_plan(dense<f16>{}, {1, 1, index_t{1} << 40, 8}).check().code == errc::invalid_shape);
  CHECK(budget_for(NAN, 100) == 0);
  CHECK(budget_for(1e300, 100) == 100);
  CHECK(budget_for(0.29, 100) == 28);  // as the references truncate
}

TEST_CASE("score() checks what select() does", "[regression][refusals]") {
  data::cache const logical({1, 2, 2, 60, 32});
  auto const plan =
      make_plan(pipeline{snapkv{{.window = 8}}, top_k{{.budget = 20}}}, logical.shape.extents());
  data::buffer const scratch(plan.select_bytes() + plan.keep_bytes());
  std::vector<float> out(120, 7.0f);
  score_view const scores{out.data(), 60};
  workspace const all{scratch.data(), scratch.size()};
  auto const run = [&](auto const& queries, score_view to, workspace memory) {
    return score(cpu{}, plan, logical.view(), evidence{window_queries{queries}}, to, memory).code;
  };
  CHECK(run(logical.queries(64), scores, all) == errc::invalid_shape);
  auto none = logical.queries(8);
  none.data = nullptr;
  CHECK(run(none, scores, all) == errc::invalid_pointer);
  CHECK(run(logical.queries(8), {nullptr, 60}, all) == errc::invalid_pointer);
  CHECK(run(logical.queries(8), {out.data(), 59}, all) == errc::invalid_pointer);
  CHECK(run(logical.queries(8), scores, {scratch.data(), scratch.size() - 1}) ==
        errc::buffer_too_small);
  CHECK(scratch.untouched());
  CHECK(out == std::vector<float>(120, 7.0f));
  CHECK(run(logical.queries(8), scores, all) == errc::ok);
  CHECK(scratch.intact());
}

TEST_CASE("a cache of another storage type is foreign, and another plan's is not ready",
          "[regression][refusals]") {
  data::cache const logical({1, 2, 1, 64, 32});
  data::compressed const c(kivi<4, 4, bf16>{{.residual = 32}}, logical.view());
  REQUIRE(c.result.ok());
  std::vector<std::byte> file(serialized_bytes(c.packed));
  REQUIRE(serialize(c.packed, file.data(), file.size()).ok());
  auto const foreign = [&](auto const& policy, plan_options o) {
    auto const plan = make_plan(policy, logical.shape.extents(), o);
    data::buffer storage(std::max(plan.packed_bytes(), c.storage.size()));
    packed_cache const other(plan, storage);
    CHECK(deserialize(file.data(), file.size(), other).code == errc::foreign);
    CHECK(storage.untouched());
    // The same memory, used again under this plan without filling it.
    std::memcpy(storage.data(), c.storage.data(), c.storage.size());
    float out[64];
    CHECK_FALSE(other.ready());
    CHECK(ask(other, out).code == errc::corrupt);
    CHECK(rewind(other, 1).code == errc::corrupt);
    CHECK(serialized_bytes(other) == 0);
  };
  foreign(kivi<4, 4, f16>{{.residual = 32}}, {});
  foreign(kivi<4, 4, float>{{.residual = 32}}, {});
  foreign(kivi<4, 4, bf16>{{.residual = 64}}, {});
  foreign(kivi<4, 4, bf16>{{.residual = 32}}, {.biases = true});
  foreign(kivi<4, 4, bf16>{{.residual = 32}}, {.logit = {.soft_cap = 5.0f}});
  foreign(kivi<4, 4, bf16>{{.residual = 32}}, {.fingerprint = 9});
}

TEST_CASE("memory that is misaligned is refused by every verb", "[regression][refusals]") {
  data::cache const logical({1, 2, 1, 64, 32});
  data::compressed const c(int_per_token<8>{}, logical.view());
  REQUIRE(c.result.ok());
  std::vector<std::byte> memory(c.storage.size() + 64), file(c.storage.size());
  std::byte* const crooked = memory.data() + 4;
  packed_cache const other(c.plan, crooked, c.storage.size());
  REQUIRE(serialize(c.packed, file.data(), file.size()).ok());
  CHECK(deserialize(file.data(), c.packed.bytes(), other).code == errc::invalid_pointer);
  std::memcpy(crooked, c.storage.data(), c.packed.bytes());
  float out[64];
  CHECK_FALSE(other.ready());
  CHECK_FALSE(ask(other, out).ok());
  CHECK_FALSE(rewind(other, 0).ok());
  CHECK_FALSE(settle(cpu{}, other, {}).ok());
  // A buffer that overlaps the cache, from both sides.
  CHECK(serialize(c.packed, c.storage.data(), c.storage.size()).code == errc::invalid_pointer);
  CHECK(deserialize(c.storage.data(), c.packed.bytes(), c.packed).code != errc::ok);
  CHECK(recompress(cpu{}, c.plan, c.packed, c.packed, c.scratch).code == errc::invalid_pointer);
}

TEST_CASE("tables that are null, short or empty are refused before a row is read",
          "[regression][refusals]") {
  std::vector<float> memory(4096);
  extents const e{2, 2, 20, 8};
  std::vector<std::int32_t> table(64), indptr{0, 5, 9};
  auto const refused = [&](auto const& layout) {
    using plane_type = plane<float, std::remove_cvref_t<decltype(layout)>>;
    cache_view<plane_type> const view{e, {memory.data(), layout}, {memory.data(), layout}};
    data::compressed const c(dense<f16>{}, view);
    CHECK_FALSE(c.result.ok());
    CHECK(c.storage.untouched());
    return c.result.code;
  };
  CHECK(refused(block_table{table.data(), 5, 0, 64, 8, 16}) == errc::invalid_option);
  CHECK(refused(block_table{table.data(), 5, -4, 64, 8, 16}) == errc::invalid_option);
  CHECK(refused(block_table{table.data(), 4, 4, 64, 8, 16}) == errc::invalid_shape);
  CHECK(refused(block_table{nullptr, 5, 4, 64, 8, 16}) == errc::invalid_pointer);
  CHECK(refused(head_block_table{table.data(), 1, 5, 4, 32, 8}) == errc::invalid_shape);
  CHECK(refused(head_block_table{table.data(), 2, 5, 0, 32, 8}) == errc::invalid_option);
  CHECK(refused(csr_pages{nullptr, table.data(), 4, 64, 8, 16}) == errc::invalid_pointer);
  CHECK(refused(csr_pages{indptr.data(), nullptr, 4, 64, 8, 16}) == errc::invalid_pointer);
  CHECK(refused(csr_pages{indptr.data(), table.data(), 0, 64, 8, 16}) == errc::invalid_option);
  CHECK(refused(csr_pages{indptr.data(), table.data(), 4, 64, 8, 16}) == errc::invalid_shape);
  CHECK(refused(slot_list{nullptr, 20, 16, 8}) == errc::invalid_pointer);
  CHECK(refused(slot_list{table.data(), 19, 16, 8}) == errc::invalid_shape);
  CHECK(refused(scattered<strided>{{0, 8, 16}, nullptr}) == errc::invalid_pointer);
  // A list of cells that was forgotten: of K and of a transposed V alike.
  auto const view = adapt::llama_cpp_cells<float>(
      {.k = memory.data(), .v = memory.data(), .extent = e, .cells = 32, .v_transposed = true});
  data::compressed const c(dense<f16>{}, view);
  CHECK(c.result.code == errc::invalid_pointer);
}

TEST_CASE("fewer than one thread is one", "[regression][refusals]") {
  data::cache const logical({1, 2, 1, 40, 32});
  data::room<pipeline<dense<f16>>> const c(pipeline{dense<f16>{}}, logical.shape.extents(), {});
  for (int const threads : {-1, 0, std::numeric_limits<int>::min()})
    CHECK(
        compress(openmp{threads}, c.plan, logical.view(), evidence<>{}, c.packed, c.scratch).ok());
}
