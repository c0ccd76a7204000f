// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// What compress() refuses as a whole: every refusal leaves the storage as it was. What single verbs
// refuse is in their own tests.

#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

namespace {

/// Compresses in memory of the planned size; requires that a refusal leaves the storage untouched.
template <class Policy, class View, class Evidence = evidence<>>
errc outcome(Policy const& policy, View const& view, Evidence const& ev = {}) {
  data::compressed const run(policy, view, ev);
  CHECK(run.storage.intact());
  CHECK(run.scratch.intact());
  if (!run.result) {
    CHECK(run.storage.untouched());
    CHECK(std::string(run.result.message).rfind("kvslim: ", 0) == 0);
  }
  return run.result.code;
}

data::shape const small{.sequences = 1, .kv_heads = 2, .group = 2, .tokens = 64, .head_dim = 32};

}  // namespace

TEST_CASE("views and evidence that disagree are refused before anything is written",
          "[bad_input]") {
  data::cache const c(small);
  auto const keep = [](index_t budget) { return pipeline{knorm{}, top_k{{.budget = budget}}}; };
  CHECK(outcome(keep(0), c.view()) == errc::invalid_option);
  CHECK(outcome(keep(1000), c.view()) == errc::ok);
  evidence const window{window_queries{c.queries(16)}};
  auto const snap = [](index_t n) { return pipeline{snapkv{{.window = n}}, top_k{{.budget = 5}}}; };
  CHECK(outcome(snap(16), c.view(), window) == errc::ok);
  CHECK(outcome(snap(8), c.view(), window) == errc::invalid_shape);
  auto const queries = [&](rows<> const& q) {
    return outcome(snap(16), c.view(), evidence{window_queries<>{q}});
  };
  CHECK(queries({}) == errc::invalid_pointer);
  CHECK(queries(dense_rows(c.q.data(), {1, 3, 16, 32})) == errc::invalid_shape);
  CHECK(queries(dense_rows(c.q.data(), {1, 4, 16, 16})) == errc::invalid_shape);
  CHECK(queries(dense_rows(c.q.data(), {2, 2, 16, 32})) == errc::invalid_shape);
  CHECK(outcome(pipeline{given_scores{}, top_k{{.budget = 5}}}, c.view(),
                evidence{token_scores<>{}}) == errc::invalid_pointer);

  auto view = c.view();
  view.extent.tokens = 0;
  CHECK(outcome(keep(5), view) == errc::invalid_shape);
  view = c.view();
  view.extent.head_dim = -1;
  CHECK(outcome(keep(5), view) == errc::invalid_shape);
  view = c.view();
  view.v.data = nullptr;
  CHECK(outcome(keep(5), view) == errc::invalid_pointer);
  std::int32_t const too_long[] = {65};
  view = c.view();
  view.lengths = too_long;
  CHECK(outcome(keep(5), view) == errc::invalid_shape);
}

TEST_CASE("layouts that cannot serve a row are refused", "[bad_input]") {
  data::cache const c(small);
  std::int32_t const table[] = {0, 1, 2, 3}, indptr[] = {0, 4};
  index_t const origin[] = {0};
  auto const with = [&](auto layout) {
    using plane = kvslim::plane<float const, decltype(layout)>;
    return outcome(pipeline{knorm{}, top_k{{.budget = 5}}},
                   cache_view<plane>{small.extents(), {c.k.data(), layout}, {c.v.data(), layout}});
  };
  CHECK(with(block_table{table, 4, 16, 16 * 64, 32, 64, 1}) == errc::ok);
  CHECK(with(block_table{nullptr, 4, 16, 16 * 64, 32, 64, 1}) == errc::invalid_pointer);
  CHECK(with(block_table{table, 3, 16, 16 * 64, 32, 64, 1}) == errc::invalid_shape);
  CHECK(with(block_table{table, 4, 0, 16 * 64, 32, 64, 1}) == errc::invalid_option);
  CHECK(with(head_block_table{table, 2, 2, 32, 32 * 32, 32, 1}) == errc::ok);
  CHECK(with(head_block_table{table, 1, 2, 32, 32 * 32, 32, 1}) == errc::invalid_shape);
  CHECK(with(head_block_table{table, 2, 1, 32, 32 * 32, 32, 1}) == errc::invalid_shape);
  CHECK(with(csr_pages{indptr, table, 16, 16 * 64, 32, 64, 1}) == errc::ok);
  CHECK(with(csr_pages{nullptr, table, 16, 16 * 64, 32, 64, 1}) == errc::invalid_pointer);
  CHECK(with(csr_pages{indptr, nullptr, 16, 16 * 64, 32, 64, 1}) == errc::invalid_pointer);
  CHECK(with(csr_pages{indptr, table, 0, 16 * 64, 32, 64, 1}) == errc::invalid_option);
  CHECK(with(slot_list{nullptr, 64, 64, 32, 1}) == errc::invalid_pointer);
  CHECK(with(scattered<strided>{{0, 64 * 32, 32, 1}, origin}) == errc::ok);
  CHECK(with(scattered<strided>{{0, 64 * 32, 32, 1}, nullptr}) == errc::invalid_pointer);
  CHECK(with(scattered<block_table>{{nullptr, 4, 16, 1024, 32, 64, 1}, origin}) ==
        errc::invalid_pointer);
}

TEST_CASE("NaN and infinity in K, V or queries are refused; values beyond f16 too", "[bad_input]") {
  for (float poison : {std::nanf(""), INFINITY, -INFINITY, 1e6f}) {
    data::cache c(small);
    c.k[77] = poison;
    CHECK(outcome(dense<f16>{}, c.view()) == errc::non_finite);
    CHECK(outcome(dense<float>{}, c.view()) == (poison == 1e6f ? errc::ok : errc::non_finite));
    c = data::cache(small);
    c.v[901] = poison;
    CHECK(outcome(kivi<2>{{.residual = 32}}, c.view()) == errc::non_finite);
    if (poison == 1e6f) continue;
    c = data::cache(small);
    c.q[5] = poison;
    CHECK(outcome(pipeline{snapkv{{.window = 16}}, top_k{{.budget = 20}}}, c.view(),
                  evidence{window_queries{c.queries(16)}}) == errc::non_finite);
  }
}

TEST_CASE("padding may hold anything", "[bad_input]") {
  data::cache c(small);
  std::vector<std::uint8_t> valid(64, 1);
  valid[9] = 0;
  for (index_t h = 0; h < 2; ++h)
    for (index_t d = 0; d < 32; ++d)
      c.k[static_cast<std::size_t>(c.cell(0, h, 9) * 32 + d)] =
          c.v[static_cast<std::size_t>(c.cell(0, h, 9) * 32 + d)] = std::nanf("");
  std::vector<std::int32_t> positions(64);
  std::vector<float> bias(64, 0.0f);
  for (std::size_t i = 0; i < 64; ++i) positions[i] = static_cast<std::int32_t>(i);
  positions[9] = -1;
  bias[9] = std::nanf("");
  auto view = c.view();
  view.valid = valid.data();
  view.positions = positions.data();
  view.bias = bias.data();
  data::compressed const run(
      pipeline{knorm{}, top_k{{.budget = 30}}, kvmerger{{.threshold = 0.3f}}, dense<float>{}}, view,
      evidence<>{}, {.biases = true});
  REQUIRE(run.result.ok());
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
}

TEST_CASE("values that f16 parameters cannot hold are refused whatever the tail holds",
          "[bad_input][kivi]") {
  data::cache c(small);
  for (float& x : c.k) x += 1e6f;
  CHECK(outcome(kivi<8, 8, bf16>{{.residual = 32}}, c.view()) == errc::non_finite);
  CHECK(outcome(int_per_token<8, float>{}, c.view()) == errc::non_finite);
  CHECK(outcome(dense<bf16>{}, c.view()) == errc::ok);
  for (std::size_t i = 0; i < c.k.size(); ++i)
    c.k[i] = i / 32 % 2 == 0 ? 50000.0f : -50000.0f;  // a span that the authors' f16 cannot hold
  CHECK(outcome(kivi<2>{{.residual = 32}}, c.view()) == errc::ok);
  CHECK(outcome(kivi<2>{{.residual = 32, .rounding = rounding::authors}}, c.view()) ==
        errc::non_finite);
}

TEST_CASE("merging and moving never overflow the storage type in silence",
          "[bad_input][kvmerger][rerotate]") {
  data::cache c(small);
  for (float& x : c.v) x = 30000.0f;
  std::vector<float> const scores(2 * 64, 1.0f);
  evidence const ev{token_scores<>{scores.data()}};
  auto const merged = [&](bool scaled, auto codec) {
    return outcome(
        pipeline{given_scores{},
                 kvmerger{{.threshold = -1.0f, .sigma = 100.0f, .value_scale_n = scaled}}, codec},
        c.view(), ev);
  };
  CHECK(merged(false, dense<f16>{}) == errc::ok);
  CHECK(merged(true, dense<f16>{}) == errc::non_finite);
  CHECK(merged(true, dense<float>{}) == errc::ok);
  for (float& x : c.k) x = 60000.0f;
  CHECK(outcome(dense<f16>{}, c.view()) == errc::ok);
  CHECK(outcome(pipeline{knorm{}, top_k{{.budget = 9}}, rerotate{}}, c.view()) == errc::non_finite);
}

TEST_CASE("small and misaligned memory is refused", "[bad_input]") {
  data::cache const c(small);
  auto const plan = make_plan(kivi<4>{{.residual = 32}}, c.shape.extents());
  data::buffer storage(plan.packed_bytes() + 16), scratch(plan.workspace_bytes() + 16);
  std::size_t const all = plan.packed_bytes(), work = plan.workspace_bytes();
  auto const run = [&](std::byte* s, std::size_t n, std::byte* w, std::size_t m) {
    return compress(cpu{}, plan, c.view(), evidence<>{}, packed_cache(plan, s, n), {w, m}).code;
  };
  CHECK(run(storage.data(), all - 1, scratch.data(), work) == errc::buffer_too_small);
  CHECK(run(storage.data(), all, scratch.data(), work - 1) == errc::buffer_too_small);
  CHECK(run(storage.data() + 1, all, scratch.data(), work) == errc::invalid_pointer);
  CHECK(run(storage.data(), all, scratch.data() + 8, work) == errc::invalid_pointer);
  CHECK(run(nullptr, all, scratch.data(), work) == errc::invalid_pointer);
  CHECK(run(storage.data(), all, nullptr, work) == errc::invalid_pointer);
  CHECK(storage.untouched());
  // Sixteen bytes of alignment are enough.
  CHECK(run(storage.data() + 16, all, scratch.data() + 16, work) == errc::ok);
  CHECK(storage.intact());
  CHECK(scratch.intact());
}
