// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// What holds across views, whatever the method.

#include "support/matrix.hpp"

using namespace kvslim;

TEST_CASE("16-bit sources store the same as f32 sources that hold the same values", "[matrix]") {
  matrix::scene const at;
  data::layouts<bf16> narrow(at.c);
  pipeline const policy{knorm{}, top_k{{.budget = 40}}, kivi<4>{{.residual = 32}}};
  CHECK(matrix::stored(at, policy, narrow.pages(16)) == matrix::stored(at, policy, at.c.view()));
}

TEST_CASE("K and V may lie and be typed differently", "[matrix]") {
  matrix::scene const at;
  data::layouts<bf16> keys(at.c);
  data::layouts<float> values(at.c);
  auto const k = keys.slots();
  auto const v = values.transposed_reversed();
  cache_view<decltype(k.k), decltype(v.v)> const mixed{at.c.shape.extents(), k.k, v.v};
  pipeline const policy{knorm{}, top_k{{.budget = 40}}, int_per_token<4>{}};
  CHECK(matrix::stored(at, policy, mixed) == matrix::stored(at, policy, at.c.view()));
}

TEST_CASE("permuting the KV heads permutes the result", "[matrix]") {
  data::cache a({.kv_heads = 2, .tokens = 60, .head_dim = 16});
  data::cache b = a;
  std::rotate(b.k.begin(), b.k.begin() + 60 * 16, b.k.end());
  std::rotate(b.v.begin(), b.v.begin() + 60 * 16, b.v.end());
  pipeline const policy{knorm{}, top_k{{.budget = 20}}, int_per_token<4>{}};
  data::compressed const x(policy, a.view()), y(policy, b.view());
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
  data::compressed const run(pipeline{knorm{}, top_k{{.budget = 45, .sinks = 4}}}, view);
  REQUIRE(run.result.ok());
  CHECK(run.packed.tokens(0, 0) == 40);
  CHECK(run.kept(0, 0).front() == 10);
  CHECK(run.packed.tokens(1, 0) == 0);
}

TEST_CASE("the kept set grows with the budget", "[matrix]") {
  data::cache const c({.kv_heads = 1, .tokens = 80, .head_dim = 16});
  std::vector<index_t> last;
  for (index_t budget : {5, 6, 20, 79, 80, 200}) {
    data::compressed const run(pipeline{knorm{}, top_k{{.budget = budget, .sinks = 2}}}, c.view());
    auto const kept = run.kept(0, 0);
    CHECK(std::ssize(kept) == std::min<index_t>(budget, 80));
    CHECK(std::includes(kept.begin(), kept.end(), last.begin(), last.end()));
    last = kept;
  }
}
