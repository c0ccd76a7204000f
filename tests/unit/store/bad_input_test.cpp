// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <limits>

using namespace kvslim;

namespace {

/// Compresses with generous buffers; requires that a refusal leaves the storage untouched.
template <class Policy, class View, class Evidence>
errc outcome(Policy const& policy, View const& view, Evidence const& ev) {
  auto const plan = make_plan(policy, view.extents());
  data::buffer storage(1 << 20), scratch(1 << 20);
  packed_cache const packed(plan, storage);
  auto const s = compress(cpu{}, plan, view, ev, packed, scratch);
  if (!s) {
    CHECK(storage.untouched());
    CHECK(std::string(s.message).rfind("kvslim: ", 0) == 0);
  }
  return s.code;
}

data::shape const small{.sequences = 1, .kv_heads = 2, .group = 2, .tokens = 64, .head_dim = 32};

constexpr pipeline knorm_half{knorm{}, top_k{{.budget = 32}}};

/// Says that it writes whole blocks and would code any number of tokens.
struct careless_key : channel_key<4> {
  [[nodiscard]] KVSLIM_HD constexpr index_t coded(index_t tokens) const noexcept { return tokens; }
};
struct careless {
  using stage = quantizer_tag;
  [[nodiscard]] constexpr careless_key key_codec() const { return {}; }
  [[nodiscard]] constexpr dense_value<f16> value_codec() const { return {}; }
  [[nodiscard]] static constexpr std::uint32_t scheme() { return 0xf005; }
};

}  // namespace

TEST_CASE("wrong shapes and options are refused before anything is written", "[bad_input]") {
  data::cache const c(small);
  auto const none = evidence<>{};
  auto const window = evidence{window_queries{c.queries(16)}};
  auto const keep = [](index_t budget) { return pipeline{knorm{}, top_k{{.budget = budget}}}; };
  CHECK(outcome(keep(0), c.view(), none) == errc::invalid_option);
  CHECK(outcome(keep(-5), c.view(), none) == errc::invalid_option);
  CHECK(outcome(keep(1000), c.view(), none) == errc::ok);
  CHECK(outcome(pipeline{knorm{}, top_k{{.budget = 5, .sinks = -1}}}, c.view(), none) ==
        errc::invalid_option);
  CHECK(outcome(pipeline{snapkv{{.window = 0}}, top_k{{.budget = 5}}}, c.view(), window) ==
        errc::invalid_option);
  CHECK(outcome(pipeline{snapkv{{.window = 16, .pool = 4}}, top_k{{.budget = 5}}}, c.view(),
                window) == errc::invalid_option);
  CHECK(outcome(pipeline{snapkv{{.window = 8}}, top_k{{.budget = 5}}}, c.view(), window) ==
        errc::invalid_shape);
  CHECK(outcome(kivi<2>{{.group = 30}}, c.view(), none) == errc::invalid_option);
  CHECK(outcome(kivi<2>{{.group = 32, .residual = 48}}, c.view(), none) == errc::invalid_option);
  CHECK(outcome(kivi<2>{{.group = 64, .residual = 64}}, c.view(), none) ==
        errc::invalid_option);  // 64 does not divide 32
  CHECK(outcome(int_per_token<4>{{.residual = -1}}, c.view(), none) == errc::invalid_option);
  CHECK(outcome(pipeline{knorm{}, top_k{{.budget = 5}}, rerotate{{.dims = 33}}}, c.view(), none) ==
        errc::invalid_option);
  CHECK(outcome(pipeline{knorm{}, kvmerger{{.sigma = -1.0f}}}, c.view(), none) ==
        errc::invalid_option);

  auto view = c.view();
  view.extent.tokens = 0;
  CHECK(outcome(keep(5), view, none) == errc::invalid_shape);
  view = c.view();
  view.extent.head_dim = -1;
  CHECK(make_plan(keep(5), view.extents()).check().code == errc::invalid_shape);
  view = c.view();
  view.k.data = nullptr;
  CHECK(outcome(keep(5), view, none) == errc::invalid_pointer);
  std::int32_t const too_long[] = {65};
  view = c.view();
  view.lengths = too_long;
  CHECK(outcome(keep(5), view, none) == errc::invalid_shape);
  data::cache const wide({.kv_heads = 1, .tokens = 10, .head_dim = 34});
  CHECK(outcome(int_per_token<8>{}, wide.view(), none) == errc::invalid_shape);
}

TEST_CASE("a window as long as the cache is refused", "[bad_input][snapkv]") {
  data::cache const c({.kv_heads = 1, .group = 1, .tokens = 16, .head_dim = 8});
  CHECK(outcome(pipeline{snapkv{{.window = 16}}, top_k{{.budget = 5}}}, c.view(),
                evidence{window_queries{c.queries(16)}}) == errc::invalid_shape);
}

TEST_CASE("NaN and infinity in K, V or queries are refused; values beyond f16 too", "[bad_input]") {
  for (float poison : {std::nanf(""), INFINITY, -INFINITY, 1e6f}) {
    data::cache c(small);
    c.k[77] = poison;
    CHECK(outcome(dense<f16>{}, c.view(), evidence<>{}) == errc::non_finite);
    CHECK(outcome(dense<float>{}, c.view(), evidence<>{}) ==
          (poison == 1e6f ? errc::ok : errc::non_finite));
    c = data::cache(small);
    c.v[901] = poison;
    CHECK(outcome(kivi<2>{{.residual = 32}}, c.view(), evidence<>{}) == errc::non_finite);
    if (poison == 1e6f) continue;
    c = data::cache(small);
    c.q[5] = poison;
    CHECK(outcome(pipeline{snapkv{{.window = 16}}, top_k{{.budget = 20}}}, c.view(),
                  evidence{window_queries{c.queries(16)}}) == errc::non_finite);
  }
}

TEST_CASE("values that f16 parameters cannot hold are refused whatever the tail holds",
          "[bad_input][kivi]") {
  data::cache c(small);
  for (float& x : c.k) x += 1e6f;
  CHECK(outcome(kivi<8, bf16>{{.residual = 32}}, c.view(), evidence<>{}) == errc::non_finite);
  CHECK(outcome(int_per_token<8, float>{}, c.view(), evidence<>{}) == errc::non_finite);
  CHECK(outcome(dense<bf16>{}, c.view(), evidence<>{}) == errc::ok);
  for (std::size_t i = 0; i < c.k.size(); ++i)
    c.k[i] = i / 32 % 2 == 0 ? 50000.0f : -50000.0f;  // a span that the authors' f16 cannot hold
  CHECK(outcome(kivi<2>{{.residual = 32}}, c.view(), evidence<>{}) == errc::ok);
  CHECK(outcome(kivi<2>{{.residual = 32, .rounding = rounding::authors}}, c.view(), evidence<>{}) ==
        errc::non_finite);
}

TEST_CASE("a codec that would code a part of a whole block is refused", "[bad_input]") {
  CHECK(make_plan(careless{}, {1, 1, 64, 32}).check().ok());
  CHECK(make_plan(careless{}, {1, 1, 65, 32}).check().code == errc::invalid_option);
}

TEST_CASE("positions that appending would overflow are refused", "[bad_input]") {
  data::cache const c(small);
  std::vector<std::int32_t> positions(64);
  for (std::size_t i = 0; i < positions.size(); ++i)  // std::iota would count one past the largest
    positions[i] = std::numeric_limits<std::int32_t>::max() - 63 + static_cast<std::int32_t>(i);
  auto view = c.view();
  view.positions = positions.data();
  CHECK(outcome(knorm_half, view, evidence<>{}) == errc::invalid_shape);
  for (auto& x : positions) --x;
  CHECK(outcome(knorm_half, view, evidence<>{}) == errc::ok);
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
  CHECK(outcome(dense<f16>{}, c.view(), evidence<>{}) == errc::ok);
  CHECK(outcome(pipeline{knorm{}, top_k{{.budget = 9}}, rerotate{}}, c.view(), evidence<>{}) ==
        errc::non_finite);
}

TEST_CASE("log weights are stored or refused, never dropped", "[bad_input]") {
  data::cache const c(small);
  std::vector<float> weight(64, 0.0f), scores(2 * 64, 1.0f);
  weight[3] = -INFINITY;
  auto view = c.view();
  view.log_weight = weight.data();
  CHECK(outcome(dense<f16>{}, view, evidence<>{}) == errc::unsupported);
  data::compressed const run(
      pipeline{given_scores{}, kvmerger{{.threshold = 1.0f, .mass_bias = true}}, dense<float>{}},
      view, evidence{token_scores<>{scores.data()}});
  REQUIRE(run.result.ok());
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  std::fill(weight.begin(), weight.end(), -INFINITY);
  data::compressed const masked(
      pipeline{given_scores{}, kvmerger{{.threshold = 1.0f, .mass_bias = true}}}, view,
      evidence{token_scores<>{scores.data()}});
  std::vector<float> out(4 * 32, 1.0f), lse(4);
  REQUIRE(
      attend(cpu{}, c.queries(1), masked.packed, dense_rows(out.data(), {1, 4, 1, 32}), lse.data())
          .ok());
  CHECK(out[5] == 0.0f);
  CHECK(lse[0] == -INFINITY);
}

TEST_CASE("NaN scores rank last and infinities rank by the total order", "[bad_input][top_k]") {
  data::cache const c({.kv_heads = 1, .tokens = 6, .head_dim = 8});
  std::vector<float> const scores{std::nanf(""), -INFINITY, INFINITY, 0, std::nanf(""), 1};
  data::compressed const run(pipeline{given_scores{}, top_k{{.budget = 5}}}, c.view(),
                             evidence{token_scores<>{scores.data()}});
  CHECK(run.kept(0, 0) == std::vector<index_t>{0, 1, 2, 3, 5});
}

TEST_CASE("small and misaligned memory is refused", "[bad_input]") {
  data::cache const c(small);
  auto const plan = make_plan(kivi<4>{{.residual = 32}}, c.shape.extents());
  data::buffer storage(plan.packed_bytes()), scratch(plan.workspace_bytes());
  auto const run = [&](std::byte* s, std::size_t n, std::byte* w, std::size_t m) {
    return compress(cpu{}, plan, c.view(), evidence<>{}, packed_cache(plan, s, n), w, m).code;
  };
  CHECK(run(storage.data(), plan.packed_bytes() - 1, scratch.data(), plan.workspace_bytes()) ==
        errc::buffer_too_small);
  CHECK(run(storage.data(), plan.packed_bytes(), scratch.data(), plan.workspace_bytes() - 1) ==
        errc::buffer_too_small);
  CHECK(run(storage.data() + 1, plan.packed_bytes(), scratch.data(), plan.workspace_bytes()) ==
        errc::invalid_pointer);
  CHECK(run(storage.data(), plan.packed_bytes(), scratch.data() + 8, plan.workspace_bytes()) ==
        errc::invalid_pointer);
  CHECK(run(nullptr, plan.packed_bytes(), scratch.data(), plan.workspace_bytes()) ==
        errc::invalid_pointer);
  CHECK(storage.untouched());
  CHECK(run(storage.data(), plan.packed_bytes(), scratch.data(), plan.workspace_bytes()) ==
        errc::ok);
  CHECK(storage.intact());
  CHECK(scratch.intact());
}

TEST_CASE("attend and append refuse shapes that disagree", "[bad_input]") {
  data::cache const c(small);
  data::compressed const run(dense<f16>{}, c.view(), evidence<>{}, 1);
  std::vector<float> out(4 * 32), lse(4);
  auto const good = dense_rows(out.data(), {1, 4, 1, 32});
  CHECK(attend(cpu{}, c.queries(1), run.packed, dense_rows(out.data(), {1, 2, 1, 32}), lse.data())
            .code == errc::invalid_shape);
  CHECK(attend(cpu{}, dense_rows<host_space, float const>(c.q.data(), {1, 3, 1, 32}), run.packed,
               good, lse.data())
            .code == errc::invalid_shape);
  CHECK(attend(cpu{}, c.queries(1), run.packed, good, nullptr).code == errc::invalid_pointer);
  std::vector<float> k(2 * 32, 1.0f), scratch(append_scratch_floats(run.plan));
  auto const one = dense_rows<host_space, float const>(k.data(), {1, 2, 1, 32}),
             wrong = dense_rows<host_space, float const>(k.data(), {1, 1, 1, 32});
  CHECK(append(cpu{}, run.packed, one, wrong, scratch.data()).code == errc::invalid_shape);
  k[3] = std::nanf("");
  CHECK(append(cpu{}, run.packed, one, one, scratch.data()).code == errc::non_finite);
  CHECK(run.packed.tokens(0, 0) == 64);
  data::buffer storage(run.plan.packed_bytes());
  std::fill(storage.data(), storage.data() + 256, std::byte{0});
  CHECK(attend(cpu{}, c.queries(1), packed_cache(run.plan, storage), good, lse.data()).code ==
        errc::corrupt);
}

TEST_CASE("rerotate refuses rows of different lengths", "[bad_input][rerotate]") {
  data::cache c(small);
  std::vector<float> const scores(2 * 64, 0.0f);
  std::fill(c.k.begin(), c.k.begin() + 64 * 32, 1.0f);  // every key of head 0 is the same
  // Merging alone leaves a different number of tokens in each head.
  CHECK(outcome(pipeline{given_scores{}, kvmerger{{.threshold = 0.7f}}, rerotate{}}, c.view(),
                evidence{token_scores<>{scores.data()}}) == errc::unsupported);
}
