// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/layouts.hpp"

#include <limits>

using namespace kvslim;

namespace {

data::shape const shape{.sequences = 2, .kv_heads = 2, .tokens = 60, .head_dim = 8, .value_dim = 4};

/// Row r keeps every third cell, 20 - r of them; the last row keeps none.
struct thirds {
  std::vector<std::int64_t> begins{0};
  std::vector<std::int32_t> cells;
  thirds() {
    for (std::int32_t r = 0; r < 4; ++r) {
      for (std::int32_t i = 0; i < (r == 3 ? 0 : 20 - r); ++i) cells.push_back(i * 3 + r % 3);
      begins.push_back(std::ssize(cells));
    }
  }
  keep_set view() { return {.begins = begins.data(), .cells = cells.data()}; }
};

}  // namespace

TEST_CASE("compact in place equals compact out of place", "[compact]") {
  data::cache const c(shape);
  thirds set;
  data::layouts<bf16> mine(c), other(c);
  auto const source = mine.pages(8);
  auto const target = other.token_major();
  REQUIRE(ops::compact(cpu{}, source, target, set.view()).ok());
  REQUIRE(ops::compact(cpu{}, source, source, set.view()).ok());
  for (index_t r = 0; r < 4; ++r)
    for (index_t i = 0; i < set.view().count(r); ++i) {
      index_t const from =
          set.cells[static_cast<std::size_t>(set.begins[static_cast<std::size_t>(r)] + i)];
      for (index_t d = 0; d < 8; ++d) {
        REQUIRE(to_float(target.k.at(r / 2, r % 2, i, d)) == c.key(r / 2, r % 2, from, d));
        REQUIRE(to_float(source.k.at(r / 2, r % 2, i, d)) == c.key(r / 2, r % 2, from, d));
      }
      for (index_t d = 0; d < 4; ++d) {
        REQUIRE(to_float(target.v.at(r / 2, r % 2, i, d)) == c.value(r / 2, r % 2, from, d));
        REQUIRE(to_float(source.v.at(r / 2, r % 2, i, d)) == c.value(r / 2, r % 2, from, d));
      }
    }
  CHECK(to_float(target.k.at(1, 1, 0, 0)) == c.key(1, 1, 0, 0));  // the empty row is as it was
}

TEST_CASE("rows of whole lines move on every path, near and far", "[compact][isa]") {
  isa::path const before = isa::current();
  for (index_t const tokens : {300, 60000}) {  // of the second more moves than a cache holds
    extents const e{
        .sequences = 1, .kv_heads = 2, .tokens = tokens, .head_dim = 64, .value_dim = 32};
    auto const elements = static_cast<std::size_t>(2 * tokens * (64 + 32));
    std::vector<std::int64_t> begins{0};
    std::vector<std::int32_t> cells;
    for (std::int32_t r = 0; r < 2; ++r) {
      for (std::int32_t t = r; t < tokens; t += 1 + (t + r) % 3) cells.push_back(t);
      begins.push_back(std::ssize(cells));
    }
    keep_set const keep{.begins = begins.data(), .cells = cells.data()};
    for (auto const wanted : isa::every_path) {
      if (isa::use(wanted) != wanted) continue;
      for (std::size_t const shift : {std::size_t{0}, std::size_t{8}}) {  // aligned or not
        data::buffer source(elements * 2 + 64), target(elements * 2 + 64);
        auto const view = [&](data::buffer& b) {
          auto* const k = static_cast<bf16*>(static_cast<void*>(b.data())) + shift;
          return dense_cache(k, k + 2 * tokens * 64, e);
        };
        auto const from = view(source), to = view(target);
        auto const value = [](index_t i) { return static_cast<std::uint16_t>(i * 40503 >> 3); };
        for (index_t i = 0; i < static_cast<index_t>(elements); ++i) from.k.data[i].bits = value(i);
        REQUIRE(ops::compact(cpu{}, from, to, keep).ok());
        REQUIRE(ops::compact(cpu{}, from, from, keep).ok());
        index_t wrong = 0;
        for (index_t r = 0; r < 2; ++r)
          for (index_t i = 0; i < keep.count(r); ++i) {
            index_t const cell = keep.cells[keep.begins[r] + i];
            for (auto const& moved : {to, from}) {
              for (index_t d = 0; d < 64; ++d)
                wrong += moved.k.at(0, r, i, d).bits != value((r * tokens + cell) * 64 + d);
              for (index_t d = 0; d < 32; ++d)
                wrong += moved.v.at(0, r, i, d).bits !=
                         value(2 * tokens * 64 + (r * tokens + cell) * 32 + d);
            }
          }
        CHECK(wrong == 0);
      }
    }
  }
  isa::use(before);
}

TEST_CASE("channels of any stride move", "[compact]") {
  data::cache const c(shape);
  thirds set;
  data::layouts<float> mine(c), other(c);
  auto const source = mine.transposed_reversed();
  auto const target = other.dense();
  REQUIRE(ops::compact(cpu{}, source, target, set.view()).ok());
  CHECK(target.k.at(1, 0, 5, 7) == c.key(1, 0, 17, 7));
  CHECK(target.v.at(0, 1, 5, 3) == c.value(0, 1, 16, 3));
}

TEST_CASE("select() and compact() keep what encode() would store", "[compact]") {
  data::cache const c(shape);
  data::layouts<float> mine(c);
  auto const view = mine.slots();
  auto const plan = make_plan(pipeline{knorm{}, top_k{{.budget = 25}}}, view.extents());
  data::buffer memory(plan.keep_bytes()), scratch(plan.select_bytes());
  auto keep = plan.keep(memory);
  REQUIRE(select(cpu{}, plan, view, evidence<>{}, keep, scratch).ok());
  REQUIRE(ops::compact(cpu{}, view, view, keep).ok());
  for (index_t r = 0; r < 4; ++r)
    for (index_t i = 0; i < 25; ++i)
      CHECK(view.k.at(r / 2, r % 2, i, 5) == c.key(r / 2, r % 2, keep.ranks[r * 25 + i], 5));
}

TEST_CASE("compact refuses, and moves nothing", "[compact]") {
  data::cache const c(shape);
  data::layouts<float> mine(c), other(c);
  auto const source = mine.dense();
  auto const target = other.dense();
  auto const refused = [&](auto const& from, auto const& to, auto const& change) {
    thirds set;
    auto keep = set.view();
    change(set, keep);
    auto const s = ops::compact(cpu{}, from, to, keep);
    for (index_t t = 0; t < 60; ++t) CHECK(target.k.at(0, 0, t, 3) == c.key(0, 0, t, 3));
    return s.code;
  };
  auto const as_is = [](thirds&, keep_set&) {};
  CHECK(refused(source, target, [](auto&, auto& k) { k.cells = nullptr; }) ==
        errc::invalid_pointer);
  CHECK(refused(source, target, [](auto&, auto& k) { k.begins = nullptr; }) ==
        errc::invalid_pointer);
  CHECK(refused(source, target, [](auto& s, auto&) { s.cells[40] = 60; }) == errc::invalid_shape);
  CHECK(refused(source, target, [](auto& s, auto&) { s.cells[40] = -1; }) == errc::invalid_shape);
  CHECK(refused(source, target, [](auto& s, auto&) { s.begins[2] = 3; }) == errc::invalid_shape);
  CHECK(refused(target, target, [](auto& s, auto&) { s.cells[1] = 0; }) == errc::invalid_shape);
  auto shorter = target;
  shorter.extent.tokens = 19;
  CHECK(refused(source, shorter, as_is) == errc::invalid_shape);
  auto fewer = target;
  fewer.extent.kv_heads = 1;
  CHECK(refused(source, fewer, as_is) == errc::invalid_shape);
  auto null = target;
  null.v.data = nullptr;
  CHECK(refused(source, null, as_is) == errc::invalid_pointer);
  CHECK(refused(null, target, as_is) == errc::invalid_pointer);
}
