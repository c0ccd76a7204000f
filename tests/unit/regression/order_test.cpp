// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Order and padding, as engines have them: what is first or newest is decided by position.

#include "support/catch.hpp"
#include "support/data.hpp"

#include <cstring>

using namespace kvslim;

namespace {

/// A dense view over `lead` + T + `trail` cells per row, the tokens of `logical` between padding
/// that holds NaN.
struct padded {
  std::vector<float> k, v;
  std::vector<std::int32_t> positions;
  std::vector<std::uint8_t> valid;
  extents e;

  padded(data::cache const& logical, index_t lead, index_t trail) {
    auto const& s = logical.shape;
    index_t const cells = lead + s.tokens + trail;
    e = s.extents();
    e.tokens = cells;
    k.assign(static_cast<std::size_t>(e.rows() * cells * s.head_dim), NAN);
    v = k;
    for (index_t r = 0; r < e.rows(); ++r)
      for (index_t t = 0; t < s.tokens; ++t)
        for (index_t d = 0; d < s.head_dim; ++d) {
          auto const to = static_cast<std::size_t>((r * cells + lead + t) * s.head_dim + d);
          k[to] = logical.key(r / s.kv_heads, r % s.kv_heads, t, d);
          v[to] = logical.value(r / s.kv_heads, r % s.kv_heads, t, d);
        }
    for (index_t i = 0; i < e.sequences * cells; ++i) {
      index_t const t = i % cells - lead;
      bool const held = t >= 0 && t < s.tokens;
      positions.push_back(held ? static_cast<std::int32_t>(t) : -1);
      valid.push_back(held ? 1 : 0);
    }
  }
  [[nodiscard]] auto view() const {
    auto out = dense_cache(k.data(), v.data(), e);
    out.positions = positions.data();
    out.valid = valid.data();
    return out;
  }
};

/// Both views give the same stored bytes.
template <class Policy>
void same_stored(Policy const& policy, data::cache const& logical, index_t lead, index_t trail) {
  padded const other(logical, lead, trail);
  evidence const queries{window_queries{logical.queries(8)}};
  plan_options const o{.append_tokens = 8, .positions = true};
  data::compressed const plain(policy, logical.view(), queries, o);
  data::compressed const apart(policy, other.view(), queries, o);
  REQUIRE(plain.result.ok());
  REQUIRE(apart.result.ok());
  REQUIRE(plain.packed.bytes() == apart.packed.bytes());
  CHECK(std::memcmp(plain.storage.data(), apart.storage.data(), plain.packed.bytes()) == 0);
  CHECK(apart.packed.next_position(0) == logical.shape.tokens);
  // What is stored lives on: all of it can be taken back, and the buffer is our own.
  data::buffer again(apart.packed.bytes());
  std::vector<std::byte> file(serialized_bytes(apart.packed));
  REQUIRE(serialize(apart.packed, file.data(), file.size()).ok());
  packed_cache const back(apart.plan, again);
  CHECK(deserialize(file.data(), file.size(), back).ok());
}

}  // namespace

TEST_CASE("the first and the newest are kept of cells that an eviction left in any order",
          "[regression][order][llama_cpp]") {
  // Two streams of 16 cells; the first twelve hold positions 7..11, 0..6.
  index_t const H = 2, D = 8, W = 4, C = 16, T = 12;
  std::vector<float> k(static_cast<std::size_t>(2 * C * H * D)),
      v(static_cast<std::size_t>(2 * C * H * W));
  std::vector<std::int32_t> positions, list;
  for (index_t s = 0; s < 2; ++s)
    for (index_t c = 0; c < T; ++c) positions.push_back(static_cast<std::int32_t>((c + 7) % T));
  for (index_t i = 0; i < 2 * T; ++i) list.push_back(static_cast<std::int32_t>(i % T));
  auto const tag = [&](index_t s, index_t c) { return static_cast<float>(s * 100 + (c + 7) % T); };
  bool const transposed = GENERATE(false, true), listed = GENERATE(false, true);
  for (index_t s = 0; s < 2; ++s)
    for (index_t c = 0; c < T; ++c)
      for (index_t h = 0; h < H; ++h) {
        for (index_t d = 0; d < D; ++d)
          k[static_cast<std::size_t>(((s * C + c) * H + h) * D + d)] = tag(s, c);
        for (index_t d = 0; d < W; ++d)
          v[static_cast<std::size_t>(transposed ? ((s * H + h) * W + d) * C + c
                                                : ((s * C + c) * H + h) * W + d)] = -tag(s, c);
      }
  adapt::llama_cpp_cache<float> const engine{.k = k.data(),
                                             .v = v.data(),
                                             .extent = {2, H, T, D, W},
                                             .cells = C,
                                             .v_transposed = transposed,
                                             .positions = positions.data(),
                                             .cell_list = list.data()};
  pipeline const policy{streaming_llm{{.sinks = 2}}, top_k{{.budget = 4, .sinks = 2}}};
  auto const check = [&](auto const& view) {
    data::compressed const c(policy, view);
    REQUIRE(c.result.ok());
    for (index_t s = 0; s < 2; ++s)
      for (index_t h = 0; h < H; ++h) {
        CHECK(c.kept(s, h) == std::vector<index_t>{0, 1, 10, 11});
        CHECK(c.packed.next_position(s, h) == 12);
        for (index_t i = 0; i < 4; ++i) {
          auto const want = static_cast<float>(s * 100 + c.kept(s, h)[static_cast<std::size_t>(i)]);
          CHECK(c.packed.key(s * H + h, i, 3) == want);
          CHECK(c.packed.value(s * H + h, i, 1) == -want);
        }
      }
  };
  if (listed)
    check(adapt::llama_cpp_cells(engine));
  else
    check(adapt::llama_cpp(engine));
}

TEST_CASE("padding before or behind the tokens changes nothing that is stored",
          "[regression][order]") {
  data::cache const logical({2, 2, 2, 60, 32});
  index_t const lead = GENERATE(0, 5, 40), trail = GENERATE(0, 3, 40);
  top_k const quota{{.budget = 20, .sinks = 3, .recent = 4}};
  same_stored(pipeline{knorm{}, quota}, logical, lead, trail);
  same_stored(pipeline{streaming_llm{}, quota, int_per_token<8>{}}, logical, lead, trail);
  same_stored(pipeline{snapkv{{.window = 8}}, quota, kivi<4>{{.residual = 32}}}, logical, lead,
              trail);
  same_stored(pipeline{knorm{}, quota, kvmerger{{.threshold = 0.3f}}}, logical, lead, trail);
}

TEST_CASE("taking back after evictions drops the newest positions", "[regression][order][rewind]") {
  data::cache const logical({1, 1, 1, 20, 16});
  data::compressed c(
      pipeline{streaming_llm{{.sinks = 2}}, top_k{{.budget = 8, .sinks = 2}}, int_per_token<8>{}},
      logical.view(), {}, {.append_tokens = 6, .draft_tokens = 4, .evicts = true});
  REQUIRE(c.result.ok());
  std::vector<std::byte> scratch(append_bytes(c.plan.layout())),
      work(settle_bytes(c.plan.layout())), find(victim_bytes(c.plan));
  std::vector<float> token(16, 0.5f);
  auto const row = dense_rows(token.data(), {1, 1, 1, 16});
  for (int i = 0; i < 5; ++i) {
    REQUIRE(append(cpu{}, c.packed, row, row, scratch).ok());
    std::int32_t victim = -1;
    REQUIRE(choose_victims(cpu{}, c.plan, c.packed, &victim, find).ok());
    REQUIRE(evict(cpu{}, c.packed, &victim).ok());
    REQUIRE(settle(cpu{}, c.packed, work).ok());
  }
  CHECK(c.packed.next_position(0) == 25);
  REQUIRE(append(cpu{}, c.packed, row, row, scratch).ok());
  REQUIRE(append(cpu{}, c.packed, row, row, scratch).ok());
  REQUIRE(rewind(c.packed, 2).ok());
  auto kept = c.kept(0, 0);
  kept.erase(std::remove(kept.begin(), kept.end(), index_t{empty_slot}), kept.end());
  std::sort(kept.begin(), kept.end());
  CHECK(kept == std::vector<index_t>{0, 1, 19, 20, 21, 22, 23, 24});
  CHECK(c.packed.next_position(0) == 25);
}

TEST_CASE("storing alone keeps the positions that were given", "[regression][order]") {
  data::cache const logical({1, 2, 1, 40, 32});
  std::vector<std::int32_t> positions;
  for (std::int32_t t = 0; t < 40; ++t) positions.push_back(t < 10 ? t : t + 90);
  auto view = logical.view();
  view.positions = positions.data();
  data::compressed const refused(kivi<4>{{.residual = 32}}, view);
  CHECK(refused.result.code == errc::invalid_shape);
  CHECK(refused.storage.untouched());
  data::compressed const c(kivi<4>{{.residual = 32}}, view, {}, {.positions = true});
  REQUIRE(c.result.ok());
  CHECK(c.kept(0, 1) == std::vector<index_t>(positions.begin(), positions.end()));
  CHECK(c.packed.next_position(0) == 130);
}

TEST_CASE("a sequence shorter than the window does not refuse its batch",
          "[regression][order][snapkv]") {
  data::cache const logical({3, 2, 2, 60, 32});
  std::int32_t const lengths[] = {60, 5, 0};
  auto view = logical.view();
  view.lengths = lengths;
  data::compressed const c(pipeline{snapkv{{.window = 16}}, top_k{{.budget = 24}}}, view,
                           evidence{window_queries{logical.queries(16)}});
  REQUIRE(c.result.ok());
  CHECK(c.packed.tokens(0, 0) == 24);
  CHECK(c.kept(1, 1) == std::vector<index_t>{0, 1, 2, 3, 4});
  CHECK(c.packed.tokens(2, 0) == 0);
  CHECK(c.packed.next_position(1) == 5);
  CHECK(c.packed.next_position(2) == 0);
}
