// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// The table: every method, in every pipeline position, over every layout and element type, gives
// bit-identical storage.

#include "support/catch.hpp"
#include "support/oracle.hpp"

using namespace kvslim;

namespace {

template <class Policy, class View, class Evidence>
std::vector<std::byte> packed_bytes(Policy const& policy, View const& view, Evidence const& ev) {
  data::compressed const run(policy, view, ev, 3);
  INFO(run.result.message);
  REQUIRE(run.result.ok());
  return {run.storage.data(), run.storage.data() + run.packed.bytes()};
}

template <class T, class Policy>
void over_layouts(char const* name, Policy const& policy) {
  data::cache const c({.sequences = 2, .kv_heads = 2, .group = 2, .tokens = 75, .head_dim = 32});
  std::vector<float> scores;
  for (index_t i = 0; i < 2 * 2 * 75; ++i) scores.push_back(static_cast<float>(i * 7919 % 101));
  evidence const ev{window_queries{c.queries(8)}, token_scores<>{scores.data()}};
  INFO(name);
  data::layouts<T> source(c);
  std::int32_t const lengths[] = {75, 40};
  std::vector<std::uint8_t> valid(2 * 75, 1);
  valid[9] = valid[80] = 0;
  auto const with = [&](auto view) {
    view.lengths = lengths;
    view.valid = valid.data();
    return packed_bytes(policy, view, ev);
  };
  auto const expected = with(source.dense());
  CHECK(with(source.token_major()) == expected);
  CHECK(with(source.transposed_reversed()) == expected);
  CHECK(with(source.slots()) == expected);
  CHECK(with(source.pages(16)) == expected);
  CHECK(with(source.pages(7)) == expected);
  CHECK(with(source.csr(16)) == expected);
}

struct third_party_scorer {
  using stage = scorer_tag;
  KVSLIM_HD float score(auto const& token) const {
    return token.value()[3] + 0.01f * static_cast<float>(token.position());
  }
};

template <class T>
void all_policies() {
  top_k const keep{{.budget = 30, .sinks = 2, .recent = 4}};
  kvmerger const merge{{.threshold = 0.6f, .mass_bias = true}};
  kivi<2> const two{{.group = 32, .residual = 32}};
  snapkv const snap{{.window = 8, .pool = 3}};
  over_layouts<T>("dense", dense<f16>{});
  over_layouts<T>("kivi 2", two);
  over_layouts<T>("kivi 4", kivi<4>{{.residual = 64}});
  over_layouts<T>("kivi 8", kivi<8>{{.residual = 32}});
  over_layouts<T>("int 8", int_per_token<8>{});
  over_layouts<T>("int 4", int_per_token<4>{{.residual = 5}});
  over_layouts<T>("knorm", pipeline{knorm{}, keep});
  over_layouts<T>("knorm kivi", pipeline{knorm{}, keep, two});
  over_layouts<T>("streaming", pipeline{streaming_llm{}, keep, int_per_token<8>{}});
  over_layouts<T>(
      "streaming rerotated",
      pipeline{streaming_llm{}, keep, rerotate{{.interleaved = true}}, int_per_token<8>{}});
  over_layouts<T>("snapkv", pipeline{snap, keep});
  over_layouts<T>("snapkv kivi", pipeline{snap, keep, two});
  over_layouts<T>("snapkv merger", pipeline{snap, keep, merge});
  over_layouts<T>("snapkv merger kivi", pipeline{snap, keep, merge, two});
  over_layouts<T>(
      "given per layer",
      pipeline{given_scores{}, top_k{{.budget = 20, .granularity = granularity::per_layer}}});
  over_layouts<T>(
      "union of two layers",
      pipeline{knorm{}, top_k{{.budget = 20, .granularity = granularity::union_, .layers = 2}},
               kivi<4>{{.residual = 32}}});
  over_layouts<T>("merger alone", pipeline{given_scores{}, merge, int_per_token<4>{}});
  over_layouts<T>("custom", pipeline{third_party_scorer{}, keep, merge, two});
}

}  // namespace

TEST_CASE("every method gives the same bits in every layout: f32", "[matrix]") {
  all_policies<float>();
}
TEST_CASE("every method gives the same bits in every layout: f16", "[matrix]") {
  all_policies<f16>();
}
TEST_CASE("every method gives the same bits in every layout: bf16", "[matrix]") {
  all_policies<bf16>();
}
TEST_CASE("every method gives the same bits in every layout: e4m3", "[matrix]") {
  all_policies<e4m3>();
}
TEST_CASE("every method gives the same bits in every layout: e5m2", "[matrix]") {
  all_policies<e5m2>();
}

TEST_CASE("16-bit sources store the same as f32 sources that hold the same values", "[matrix]") {
  data::cache const c({.kv_heads = 2, .tokens = 70, .head_dim = 32});
  data::layouts<bf16> narrow(c);
  auto const policy = pipeline{knorm{}, top_k{{.budget = 40}}, kivi<4>{{.residual = 32}}};
  CHECK(packed_bytes(policy, narrow.pages(16), evidence<>{}) ==
        packed_bytes(policy, c.view(), evidence<>{}));
}

TEST_CASE("permuting the KV heads permutes the result", "[matrix]") {
  data::cache a({.kv_heads = 2, .tokens = 60, .head_dim = 16});
  data::cache b = a;
  std::rotate(b.k.begin(), b.k.begin() + 60 * 16, b.k.end());
  std::rotate(b.v.begin(), b.v.begin() + 60 * 16, b.v.end());
  auto const policy = pipeline{knorm{}, top_k{{.budget = 20}}, int_per_token<4>{}};
  data::compressed const x(policy, a.view(), evidence<>{}), y(policy, b.view(), evidence<>{});
  CHECK(x.kept(0, 0) == y.kept(0, 1));
  CHECK(x.kept(0, 1) == y.kept(0, 0));
  for (index_t t = 0; t < 20; ++t) CHECK(x.packed.key(0, t, 3) == y.packed.key(1, t, 3));
}

TEST_CASE("invalid tokens and short sequences are never stored", "[matrix]") {
  data::cache const c({.sequences = 2, .kv_heads = 1, .tokens = 50, .head_dim = 16});
  std::vector<std::uint8_t> valid(100, 1);
  for (std::size_t t = 0; t < 10; ++t) valid[t] = 0;  // left padding of the first sequence
  std::int32_t const lengths[] = {50, 0};
  auto view = c.view();
  view.valid = valid.data();
  view.lengths = lengths;
  data::compressed const run(pipeline{knorm{}, top_k{{.budget = 45, .sinks = 4}}}, view,
                             evidence<>{});
  REQUIRE(run.result.ok());
  CHECK(run.packed.tokens(0, 0) == 40);
  CHECK(run.kept(0, 0).front() == 10);
  CHECK(run.packed.tokens(1, 0) == 0);
}
