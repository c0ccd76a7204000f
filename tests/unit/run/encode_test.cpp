// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// encode(): stores what a keep set names, select()'s or an engine's own.

#include "support/catch.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/policies.hpp"
#include "support/tolerance.hpp"

#include <limits>

using namespace kvslim;

namespace {

data::shape const shape{.sequences = 2, .kv_heads = 2, .group = 2, .tokens = 64, .head_dim = 32};

/// An engine's own keep set: begins and cells, nothing else.
struct own_set {
  std::vector<std::int64_t> begins;
  std::vector<std::int32_t> cells;
  [[nodiscard]] keep_set view() { return {.begins = begins.data(), .cells = cells.data()}; }
};

/// Every row keeps these cells.
own_set in_every_row(std::vector<std::int32_t> const& cells, index_t rows = 4) {
  own_set x{{0}, {}};
  for (index_t r = 0; r < rows; ++r) {
    x.cells.insert(x.cells.end(), cells.begin(), cells.end());
    x.begins.push_back(std::ssize(x.cells));
  }
  return x;
}

template <class Policy, class View>
errc outcome(Policy const& policy, View const& view, own_set set, plan_options options = {}) {
  data::room const room(policy, view.extents(), options);
  data::buffer scratch(room.plan.encode_bytes());
  auto const s = encode(cpu{}, room.plan, view, set.view(), room.packed, scratch);
  CHECK(room.storage.intact());
  CHECK(scratch.intact());
  if (!s) {
    CHECK(room.storage.untouched());
    CHECK(std::string(s.message).rfind("kvslim: ", 0) == 0);
  }
  return s.code;
}

}  // namespace

TEST_CASE("an engine's own set stores what select() would have", "[encode]") {
  data::cache const c(shape);
  auto const same = [&](auto const& policy) {
    data::compressed const expected(policy, c.view(), evidence<>{}, {.append_tokens = 2});
    own_set set{{0}, {}};
    for (index_t r = 0; r < 4; ++r) {
      for (index_t t : expected.kept(r / 2, r % 2))
        set.cells.push_back(static_cast<std::int32_t>(t));
      set.begins.push_back(std::ssize(set.cells));
    }
    data::room const room(policy, c.shape.extents(), {.append_tokens = 2});
    data::buffer scratch(room.plan.encode_bytes());
    REQUIRE(encode(cpu{}, room.plan, c.view(), set.view(), room.packed, scratch).ok());
    CHECK(scratch.intact());
    CHECK(data::bytes_of(room.packed) == data::bytes_of(expected.packed));
  };
  same(pipeline{knorm{}, top_k{{.budget = 40}}, kivi<4>{{.residual = 32}}});
  same(pipeline{knorm{}, top_k{{.budget = 40}}, int_per_token<8>{{.residual = 7}}});
  same(pipeline{knorm{}, policies::contested{}, dense<f16>{}});
}

TEST_CASE("select() and encode() one by one are compress()", "[encode][select]") {
  data::cache const c(shape);
  auto const same = [&](auto const& policy) {
    evidence const ev{window_queries{c.queries(4)}};
    data::compressed const expected(policy, c.view(), ev);
    data::room const room(policy, c.shape.extents(), {});
    data::buffer memory(room.plan.keep_bytes()), first(room.plan.select_bytes()),
        second(room.plan.encode_bytes());
    auto keep = room.plan.keep(memory);
    REQUIRE(select(cpu{}, room.plan, c.view(), ev, keep, first).ok());
    REQUIRE(encode(cpu{}, room.plan, c.view(), keep, room.packed, second).ok());
    CHECK(data::bytes_of(room.packed) == data::bytes_of(expected.packed));
    CHECK(memory.intact());
    CHECK(first.intact());
    CHECK(second.intact());
  };
  same(pipeline{knorm{}, top_k{{.budget = 40}}, kvmerger{{.threshold = 0.5f, .mass_bias = true}},
                kivi<4>{{.residual = 32}}});
  same(pipeline{streaming_llm{}, top_k{{.budget = 40}}, rerotate{}});
  same(pipeline{policies::heavy{}, top_k{{.budget = 40}}, int_per_token<4>{}});
}

TEST_CASE("sets that no row could hold are refused", "[encode][bad_input]") {
  data::cache const c(shape);
  auto const one_bad = [&](std::vector<std::int32_t> const& cells) {
    auto set = in_every_row({1, 2, 3});
    for (std::size_t i = 0; i < cells.size(); ++i) set.cells[6 + i] = cells[i];  // row 2
    return outcome(dense<f16>{}, c.view(), set, {.positions = true});
  };
  CHECK(one_bad({1, 2, 3}) == errc::ok);
  CHECK(one_bad({1, 2, 64}) == errc::invalid_shape);  // beyond the row
  CHECK(one_bad({-1, 2, 3}) == errc::invalid_shape);
  CHECK(one_bad({3, 2, 1}) == errc::invalid_shape);  // not in text order
  CHECK(one_bad({2, 2, 3}) == errc::invalid_shape);  // twice
  auto set = in_every_row({1, 2, 3});
  set.begins[0] = 1;
  CHECK(outcome(dense<f16>{}, c.view(), set, {.positions = true}) == errc::invalid_shape);
  set = in_every_row({1, 2, 3});
  set.begins[2] = 2;  // row 1 would end before it begins
  CHECK(outcome(dense<f16>{}, c.view(), set, {.positions = true}) == errc::invalid_shape);
  set = in_every_row({1, 2, 3});
  set.begins[4] = 500;
  CHECK(outcome(dense<f16>{}, c.view(), set, {.positions = true}) == errc::invalid_shape);

  std::vector<std::uint8_t> valid(128, 1);
  valid[2] = 0;
  auto view = c.view();
  view.valid = valid.data();
  CHECK(outcome(dense<f16>{}, view, in_every_row({1, 2, 3}), {.positions = true}) ==
        errc::invalid_shape);
  CHECK(outcome(dense<f16>{}, view, in_every_row({1, 3}), {.positions = true}) == errc::ok);
}

TEST_CASE("gaps need stored positions", "[encode][bad_input]") {
  data::cache const c(shape);
  std::vector<std::int32_t> all(64), holed, short_of_one;
  for (std::int32_t i = 0; i < 64; ++i) all[static_cast<std::size_t>(i)] = i;
  holed = short_of_one = all;
  holed.erase(holed.begin() + 10);
  short_of_one.pop_back();
  CHECK(outcome(kivi<4>{}, c.view(), in_every_row(all)) == errc::ok);
  CHECK(outcome(kivi<4>{}, c.view(), in_every_row(holed)) == errc::invalid_shape);
  CHECK(outcome(kivi<4>{}, c.view(), in_every_row(short_of_one)) == errc::invalid_shape);
  CHECK(outcome(kivi<4>{}, c.view(), in_every_row(holed), {.positions = true}) == errc::ok);
  CHECK(outcome(kivi<4>{}, c.view(), in_every_row(short_of_one), {.positions = true}) == errc::ok);
  // Newest tokens without older ones are no gap: positions end at the next one.
  CHECK(outcome(kivi<4>{}, c.view(), in_every_row({60, 61, 62, 63})) == errc::ok);
}

TEST_CASE("what encode() needs besides the set", "[encode][bad_input]") {
  data::cache const c(shape);
  data::room const room(dense<f16>{}, c.shape.extents(), {.positions = true});
  auto set = in_every_row({1, 2, 3});
  data::buffer scratch(room.plan.encode_bytes());
  auto const refused = [&](auto const& plan, auto const& view, keep_set const& keep,
                           auto const& packed, workspace memory) {
    auto const s = encode(cpu{}, plan, view, keep, packed, memory);
    CHECK(room.storage.untouched());
    return s.code;
  };
  CHECK(refused(room.plan, c.view(), {}, room.packed, scratch) == errc::invalid_pointer);
  CHECK(refused(room.plan, c.view(), set.view(), room.packed, {}) == errc::invalid_pointer);
  CHECK(refused(room.plan, c.view(), set.view(), room.packed,
                {scratch.data(), scratch.size() - 1}) == errc::buffer_too_small);
  auto view = c.view();
  view.extent.tokens = 63;
  CHECK(refused(room.plan, view, set.view(), room.packed, scratch) == errc::invalid_shape);
  auto const other = make_plan(dense<f16>{}, c.shape.extents());
  CHECK(refused(other, c.view(), set.view(), room.packed, scratch) == errc::invalid_option);
  CHECK(refused(room.plan, c.view(), set.view(), packed_cache(room.plan, nullptr, 0), scratch) ==
        errc::invalid_pointer);
  CHECK(refused(room.plan, c.view(), set.view(),
                packed_cache(room.plan, room.storage.data() + 4, room.storage.size()),
                scratch) == errc::invalid_pointer);
  CHECK(refused(room.plan, c.view(), set.view(), packed_cache(room.plan, room.storage.data(), 700),
                scratch) == errc::buffer_too_small);
  auto const merging = make_plan(pipeline{knorm{}, kvmerger{}, dense<f16>{}}, c.shape.extents(),
                                 {.positions = true});
  data::buffer more(merging.encode_bytes());
  CHECK(refused(merging, c.view(), set.view(), room.packed, more) == errc::unsupported);
}

TEST_CASE("a set that is smaller than planned needs less storage", "[encode]") {
  data::cache const c(shape);
  auto const plan = make_plan(int_per_token<8>{}, c.shape.extents(), {.positions = true});
  auto set = in_every_row({5, 9, 33});
  index_t const used = plan.layout().table_bytes() + 4 * plan.layout().parts(3, 0).bytes;
  data::buffer storage(static_cast<std::size_t>(used)), scratch(plan.encode_bytes());
  packed_cache const packed(plan, storage);
  REQUIRE(encode(cpu{}, plan, c.view(), set.view(), packed, scratch).ok());
  CHECK(static_cast<index_t>(packed.bytes()) == used);
  CHECK(storage.intact());
  CHECK(packed.position(1, 0, 1) == 9);
  CHECK(oracle::attend_error(packed, c) <= tolerance::attend);
}

TEST_CASE("NaN and infinity in what stays are refused; values beyond f16 too",
          "[encode][bad_input]") {
  for (float poison : {std::nanf(""), INFINITY, -INFINITY, 1e6f}) {
    auto const set = in_every_row({1, 2, 3});
    plan_options const options{.positions = true};
    data::cache c(shape);
    c.k[static_cast<std::size_t>(c.cell(1, 0, 2) * 32 + 7)] = poison;
    CHECK(outcome(dense<f16>{}, c.view(), set, options) == errc::non_finite);
    CHECK(outcome(dense<float>{}, c.view(), set, options) ==
          (poison == 1e6f ? errc::ok : errc::non_finite));
    CHECK(outcome(dense<f16>{}, c.view(), in_every_row({1, 3}), options) == errc::ok);
    c = data::cache(shape);
    c.v[static_cast<std::size_t>(c.cell(1, 1, 3) * 32 + 31)] = poison;
    CHECK(outcome(kivi<2>{{.residual = 32}}, c.view(), set, options) == errc::non_finite);
  }
}

/// Compresses all of a cache twice, in two passes and in one, over storage that holds something.
/// Poison is refused both times; storage is as it was then, or holds nothing.
template <class Policy>
void in_one_pass(Policy const& policy, data::shape const& of, bool merges = false) {
  data::cache const c(of);
  evidence<> const none;
  auto const compressed = [&](auto const& room, data::cache const& from) {
    auto const s = compress(cpu{}, room.plan, from.view(), none, room.packed, room.scratch);
    CHECK(room.storage.intact());
    CHECK(room.scratch.intact());
    return s.code;
  };
  data::room const two(policy, of.extents(), {}), one(policy, of.extents(), {.one_pass = true});
  REQUIRE(compressed(two, c) == errc::ok);
  REQUIRE(compressed(one, c) == errc::ok);
  auto const bytes = two.packed.bytes();
  REQUIRE(one.packed.bytes() == bytes);
  CHECK(std::memcmp(one.storage.data(), two.storage.data(), bytes) == 0);
  std::vector<std::byte> const before(two.storage.data(), two.storage.data() + bytes);
  for (index_t const token : {index_t{0}, of.tokens / 2, of.tokens - 1})
    for (bool const key : {true, false}) {
      data::cache bad = c;
      auto& half = key ? bad.k : bad.v;
      half[static_cast<std::size_t>(bad.cell(1, 1, token) * of.head_dim + 5)] = std::nanf("");
      CHECK(compressed(two, bad) == errc::non_finite);
      CHECK(std::memcmp(two.storage.data(), before.data(), bytes) == 0);
      CHECK(compressed(one, bad) == errc::non_finite);
      CHECK(one.packed.ready() == merges);
      REQUIRE(compressed(one, c) == errc::ok);
      CHECK(std::memcmp(one.storage.data(), before.data(), bytes) == 0);
    }
}

TEST_CASE("one pass stores the same bytes and leaves a refused cache empty", "[encode]") {
  data::shape const longer{
      .sequences = 2, .kv_heads = 2, .group = 2, .tokens = 150, .head_dim = 64};
  in_one_pass(dense<f16>{}, longer);
  in_one_pass(int_per_token<4>{}, longer);
  in_one_pass(kivi<2>{{.residual = 32}}, longer);
  in_one_pass(ggml<ggml_block::q8_0>{}, longer);
  in_one_pass(pipeline{rerotate{}, int_per_token<8>{}}, longer);
  in_one_pass(int_per_token<8>{}, shape);
  in_one_pass(minicache<>{{.rows = {2, 1}}}, longer);  // rows that share blocks
  // What is read before it is encoded is checked before anything is written.
  in_one_pass(gear<4>{}, longer, true);
}

TEST_CASE("logit biases are stored or refused, never dropped", "[encode][bad_input]") {
  data::cache const c(shape);
  std::vector<float> bias(128, 0.0f), scores(4 * 64, 1.0f);
  bias[3] = -INFINITY;
  bias[90] = 2.5f;
  auto view = c.view();
  view.bias = bias.data();
  CHECK(outcome(dense<f16>{}, view, in_every_row({2, 3}), {.positions = true}) ==
        errc::unsupported);
  data::compressed const stored(dense<float>{}, view, evidence<>{}, {.biases = true});
  REQUIRE(stored.result.ok());
  CHECK(stored.packed.logit_bias(2, 26) == 2.5f);
  CHECK(oracle::attend_error(stored.packed, c) <= tolerance::attend);
  CHECK(oracle::attend_error(stored.packed, c, 3) <= tolerance::attend);
  // Per head, through the same strides as everything else.
  std::vector<float> each(4 * 64, 0.0f);
  each[3 * 64 + 9] = -1.25f;
  view.bias = {each.data(), 128, 64};
  data::compressed const heads(kivi<4>{}, view, evidence<>{}, {.biases = true});
  CHECK(heads.packed.logit_bias(3, 9) == -1.25f);
  CHECK(heads.packed.logit_bias(2, 9) == 0.0f);
  CHECK(oracle::attend_error(heads.packed, c) <= tolerance::attend);
  // A merger's masses have a bias of their own.
  view.bias = bias.data();
  evidence const ev{token_scores<>{scores.data()}};
  pipeline const policy{given_scores{}, kvmerger{{.threshold = 1.0f, .mass_bias = true}},
                        dense<float>{}};
  data::compressed const run(policy, view, ev);
  REQUIRE(run.result.ok());
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  std::fill(bias.begin(), bias.end(), -INFINITY);
  data::compressed const masked(policy, view, ev);
  CHECK(oracle::attend_error(masked.packed, c) <= tolerance::attend);
  oracle::asked x(masked.packed, c.queries(1));
  REQUIRE(attend(cpu{}, masked.packed, x.request).ok());
  CHECK(x.out[5] == 0.0f);
  CHECK(x.lse[0] == -INFINITY);
}

TEST_CASE("positions that appending would overflow are refused", "[encode][bad_input]") {
  data::cache const c(shape);
  std::vector<std::int32_t> positions(128, 3);
  for (std::size_t i = 0; i < 128; ++i) positions[i] = static_cast<std::int32_t>(i % 64);
  auto view = c.view();
  view.positions = positions.data();
  for (std::int32_t bad : {-1, std::numeric_limits<std::int32_t>::max(), (1 << 30) + 1}) {
    positions[63] = bad;
    CHECK(outcome(dense<f16>{}, view, in_every_row({62}), {.positions = true}) ==
          errc::invalid_shape);
  }
  positions[63] = 1 << 30;
  CHECK(outcome(dense<f16>{}, view, in_every_row({62, 63}), {.positions = true}) == errc::ok);
}
