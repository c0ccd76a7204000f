// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Extents, groups, layouts, optional arrays, rows of any type.

#include "support/catch.hpp"
#include "support/layouts.hpp"

using namespace kvslim;

TEST_CASE("row groups count their members sequence-major", "[view]") {
  extents const e{4, 6, 10, 8};
  for (row_group const& g : {row_group{1, 1}, {2, 3}, {4, 6}, {1, 2}, {4, 1}}) {
    REQUIRE(g.divides(e));
    std::vector<int> seen(24, 0);
    for (index_t i = 0; i < g.groups(e); ++i) {
      index_t const first = g.group_row(e, i);
      for (index_t m = 0; m < g.size(); ++m) {
        index_t const r = g.member_row(e, first, m);
        ++seen[static_cast<std::size_t>(r)];
        CHECK(g.member(e, r) == m);
        CHECK(g.first_row(e, r) == first);
      }
    }
    CHECK(seen == std::vector<int>(24, 1));
  }
  CHECK_FALSE(row_group{3, 1}.divides(e));
  CHECK_FALSE(row_group{1, 4}.divides(e));
  CHECK_FALSE(row_group{0, 1}.divides(e));
  CHECK_FALSE(row_group{1, -1}.divides(e));
}

TEST_CASE("extents are equal by what they mean", "[view]") {
  CHECK(extents{1, 2, 3, 8} == extents{1, 2, 3, 8, 8});
  CHECK_FALSE(extents{1, 2, 3, 8} == extents{1, 2, 3, 8, 4});
  CHECK(extents{2, 3, 1, 8}.rows() == 6);
}

TEST_CASE("optional arrays: per sequence, with strides, per head", "[view]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .tokens = 5, .head_dim = 4});
  std::int32_t positions[100];
  for (std::int32_t i = 0; i < 100; ++i) positions[i] = i;
  auto view = c.view();
  CHECK(view.position(1, 1, 3) == 3);
  CHECK(view.in_text_order());
  view.positions = positions;
  CHECK(view.position(1, 1, 3) == 8);
  CHECK_FALSE(view.in_text_order());
  CHECK_FALSE(view.orders_per_head());
  view.positions = {positions, 40, 20};
  CHECK(view.position(1, 1, 3) == 63);
  CHECK(view.orders_per_head());
  view.positions = nullptr;
  std::int32_t const lengths[] = {1, 2, 3, 4};
  view.lengths = lengths;
  CHECK(view.length(1, 1) == 2);
  CHECK_FALSE(view.orders_per_head());
  view.lengths = {lengths, 2, 1};
  CHECK(view.length(1, 1) == 4);
  CHECK(view.orders_per_head());
  std::uint8_t const valid[] = {0, 1, 2, 1, 1, 2, 0, 1, 1, 1};
  view.valid = valid;
  CHECK(view.state(0, 1, 0) == token_state::padding);
  CHECK(view.state(1, 0, 0) == token_state::pinned);
  CHECK(view.logit_bias(0, 0, 0) == 0.0f);
}

TEST_CASE("layers at addresses of their own are the sequences of one view", "[view]") {
  std::vector<float> a(100, 1.0f), b(100, 2.0f), c(100, 3.0f);
  float* const layers[] = {b.data(), a.data(), c.data()};
  index_t origin[3];
  REQUIRE(scatter_origins<float>(b.data(), layers, 3, origin).ok());
  scattered<strided> const layout{{0, 40, 8, 1}, origin};
  plane<float, scattered<strided>> const p{b.data(), layout};
  CHECK(p.at(0, 1, 2, 3) == 2.0f);
  CHECK(p.at(1, 1, 2, 3) == 1.0f);
  CHECK(p.at(2, 0, 0, 0) == 3.0f);
  CHECK(p.row(1, 1, 2) == a.data() + 56);
  float* const holed[] = {b.data(), nullptr};
  CHECK(scatter_origins<float>(b.data(), holed, 2, origin).code == errc::invalid_pointer);
  auto* const odd = reinterpret_cast<float*>(reinterpret_cast<std::byte*>(a.data()) + 2);
  float* const misaligned[] = {b.data(), odd};
  CHECK(scatter_origins<float>(b.data(), misaligned, 2, origin).code == errc::invalid_pointer);
}

TEMPLATE_TEST_CASE("rows of any type are read and written as floats", "[view]", float, f16, bf16,
                   e4m3, e5m2) {
  std::vector<TestType> memory(2 * 3 * 4 * 20);
  rows_view<TestType> const typed{memory.data(), 2, 3, 4, 5, {240, 80, 20, 4}};
  rows_out<> const out = typed;
  CHECK(out.type == dtype_of<TestType>);
  CHECK(out.has_shape(2, 3, 4, 5));
  float const in[5] = {1, -2, 0.5f, 3, -0.25f};
  out.store(1, 2, 3, in);
  out.put(1, 2, 3, 4, 8.0f);
  rows<> const read = typed;
  float back[5];
  read.load(1, 2, 3, back);
  CHECK(std::vector<float>(back, back + 5) == std::vector<float>{1, -2, 0.5f, 3, 8});
  CHECK(read.at(1, 2, 3, 1) == -2.0f);
  CHECK(to_float(memory[1 * 240 + 2 * 80 + 3 * 20 + 2 * 4]) == 0.5f);
  CHECK(read.at(0, 0, 0, 0) == 0.0f);
  rows_view<TestType const> const constant = typed;
  CHECK(rows<>(constant).at(1, 2, 3, 3) == 3.0f);
}

TEST_CASE("channels are floats whatever their type and stride", "[view]") {
  std::vector<f16> x(40 * 3);
  for (std::size_t i = 0; i < 40; ++i) x[i * 3] = from_float<f16>(static_cast<float>(i));
  channel_range<f16> const range(x.data(), 3, 40);
  float loaded[40], sum = 0;
  range.load(loaded);
  for (float y : range) sum += y;
  CHECK(sum == 780.0f);
  CHECK(loaded[39] == 39.0f);
  CHECK(range[7] == 7.0f);
  CHECK(range.size() == 40);
  std::vector<f16> dense(35);
  for (std::size_t i = 0; i < 35; ++i) dense[i] = from_float<f16>(static_cast<float>(i) * 0.5f);
  channel_range<f16>(dense.data(), 1, 35).load(loaded);
  for (std::size_t i = 0; i < 35; ++i) CHECK(loaded[i] == static_cast<float>(i) * 0.5f);
}
