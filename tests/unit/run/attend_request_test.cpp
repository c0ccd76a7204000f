// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Every field of a request, alone and together, and everything that attend() refuses.

#include "support/catch.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <cstring>
#include <limits>

using namespace kvslim;

namespace {

data::shape const shape{.sequences = 2, .kv_heads = 2, .group = 3, .tokens = 120, .head_dim = 32};

/// A cache with gaps, holes, appended tokens and coded ones.
auto lively(data::cache const& c) {
  return data::compressed(
      pipeline{knorm{}, top_k{{.budget = 90, .sinks = 2}}, int_per_token<8>{{.residual = 10}}},
      c.view(), evidence<>{}, {.append_tokens = 20, .draft_tokens = 20, .evicts = true});
}
template <class Run>
void age(Run const& run, data::cache const& c) {
  data::life life(run.packed, c);
  REQUIRE(life.append(9).ok());
  std::int32_t const victims[] = {5, 17, -1, 80};
  REQUIRE(evict(cpu{}, run.packed, victims).ok());
  std::int32_t const more[] = {92, -1, 0, 95};
  REQUIRE(evict(cpu{}, run.packed, more).ok());
}

}  // namespace

TEST_CASE("several queries see positions up to their own", "[attend][request]") {
  data::cache const c(shape);
  auto const run = lively(c);
  REQUIRE(run.result.ok());
  age(run, c);
  for (index_t n : {1, 2, 5, 64}) {
    CAPTURE(n);
    oracle::asked x(run.packed, c.queries(n), true);
    REQUIRE(attend(cpu{}, run.packed, x.request).ok());
    CHECK(oracle::error_of(run.packed, x.request) <= tolerance::attend);
  }
  // The last of several sees what one alone sees.
  oracle::asked many(run.packed, c.queries(4)), one(run.packed, c.queries(4));
  auto last = c.queries(4);
  last.data += 3 * shape.head_dim;
  last.tokens = 1;
  oracle::asked single(run.packed, last);
  REQUIRE(attend(cpu{}, run.packed, many.request).ok());
  REQUIRE(attend(cpu{}, run.packed, single.request).ok());
  for (std::size_t head = 0; head < 12; ++head)
    CHECK(std::abs(many.lse[head * 4 + 3] - single.lse[head]) <= tolerance::attend);
}

TEST_CASE("positions of queries are given", "[attend][request]") {
  data::cache const c(shape);
  auto const run = lively(c);
  age(run, c);
  std::int32_t const positions[] = {0, 60, 128, 3, 119, 1000};
  oracle::asked x(run.packed, c.queries(3), true);
  x.request.positions = positions;
  REQUIRE(attend(cpu{}, run.packed, x.request).ok());
  CHECK(oracle::error_of(run.packed, x.request) <= tolerance::attend);
}

TEST_CASE("a window hides what is older", "[attend][request]") {
  data::cache const c(shape);
  auto const run = lively(c);
  age(run, c);
  for (index_t window : {1, 9, 31, 200})
    for (index_t n : {1, 4}) {
      CAPTURE(window, n);
      oracle::asked x(run.packed, c.queries(n), true);
      x.request.window = window;
      REQUIRE(attend(cpu{}, run.packed, x.request).ok());
      CHECK(oracle::error_of(run.packed, x.request) <= tolerance::attend);
    }
}

TEST_CASE("a soft cap and a scale are the layout's", "[attend][request]") {
  data::cache const c(shape);
  for (logit_rule const rule : {logit_rule{0.5f, 3.0f}, logit_rule{0.01f, 0.0f}, {0.0f, 30.0f}}) {
    data::compressed const run(kivi<4>{{.residual = 32}}, c.view(), evidence<>{}, {.logit = rule});
    oracle::asked x(run.packed, c.queries(2), true);
    REQUIRE(attend(cpu{}, run.packed, x.request).ok());
    CHECK(oracle::error_of(run.packed, x.request) <= tolerance::attend);
  }
}

TEST_CASE("sinks take mass and give nothing", "[attend][request]") {
  data::cache const c(shape);
  auto const run = lively(c);
  age(run, c);
  float const sinks[] = {0.0f, 5.0f, -3.0f, 40.0f, 1.0f, 2.0f};
  for (index_t n : {1, 3}) {
    oracle::asked x(run.packed, c.queries(n), true);
    x.request.sink_logits = sinks;
    REQUIRE(attend(cpu{}, run.packed, x.request).ok());
    CHECK(oracle::error_of(run.packed, x.request) <= tolerance::attend);
  }
}

TEST_CASE("the log-sum-exp in base 2", "[attend][request]") {
  data::cache const c(shape);
  auto const run = lively(c);
  oracle::asked x(run.packed, c.queries(2));
  x.request.base2 = true;
  REQUIRE(attend(cpu{}, run.packed, x.request).ok());
  CHECK(oracle::error_of(run.packed, x.request) <= tolerance::attend);
}

TEST_CASE("bytes outside the visible spans are not read", "[attend][request]") {
  data::cache const c(shape);
  data::compressed const run(dense<float>{}, c.view());
  // Tiles of 16 tokens: spans on tile boundaries leave the bytes of the others alone.
  std::int32_t const spans[] = {0,  16, 32, 64, 112, 120, 16, 48, 96, 112, 0, 0,
                                64, 80, 0,  0,  0,   0,   0,  0,  0,  0,   0, 0};
  std::int32_t const counts[] = {3, 2, 1, 0};
  visible_spans const visible{spans, counts, 3};
  oracle::asked x(run.packed, c.queries(1), true);
  x.request.visible = visible;
  REQUIRE(attend(cpu{}, run.packed, x.request).ok());
  CHECK(oracle::error_of(run.packed, x.request) <= tolerance::attend);
  for (std::size_t head = 9; head < 12; ++head) CHECK(x.lse[head] == -INFINITY);  // the last row
  CHECK(x.out[11 * 32] == 0.0f);
  for (index_t r = 0; r < 4; ++r)
    for (index_t tile = 0; tile < 8; ++tile) {
      bool seen = false;
      for (index_t i = 0; i < counts[r]; ++i)
        seen = seen ||
               (spans[(r * 3 + i) * 2] < (tile + 1) * 16 && spans[(r * 3 + i) * 2 + 1] > tile * 16);
      if (seen) continue;
      auto const values = run.packed.values(r);  // all bits set: NaN
      std::memset(run.packed.keys(r).block(tile * 16), 0xff, 16 * 32 * sizeof(float));
      for (index_t t = tile * 16; t < std::min<index_t>(120, tile * 16 + 16); ++t)
        std::memset(values.block(t), 0xff, static_cast<std::size_t>(values.sizes.block_bytes));
    }
  oracle::asked again(run.packed, c.queries(1), true);
  again.request.visible = visible;
  REQUIRE(attend(cpu{}, run.packed, again.request).ok());
  CHECK(again.out == x.out);
  CHECK(again.lse == x.lse);
}

TEST_CASE("spans that cut steps, blocks and the tail", "[attend][request]") {
  data::cache const c(shape);
  data::compressed const run(kivi<4>{{.residual = 32}}, c.view(), evidence<>{},
                             {.append_tokens = 30, .draft_tokens = 30});
  data::life life(run.packed, c);
  REQUIRE(life.append(30).ok());
  std::int32_t const spans[] = {3, 7, 50, 101, 90,  149, 149, 150, 0, 150, 0, 0,
                                0, 1, 2,  3,   147, 148, 95,  97,  0, 0,   0, 0};
  std::int32_t const counts[] = {2, 2, 3, 1};
  std::vector<std::int32_t> wide;
  for (std::size_t i = 0; i < 24; ++i) wide.push_back(spans[i]);
  wide[6] = 90, wide[7] = 149, wide[8] = 149, wide[9] = 150;  // row 1 has two
  oracle::asked x(run.packed, c.queries(2), true);
  x.request.visible = {wide.data(), counts, 3};
  x.request.window = 140;
  REQUIRE(attend(cpu{}, run.packed, x.request).ok());
  CHECK(oracle::error_of(run.packed, x.request) <= tolerance::attend);
}

TEST_CASE("splits of a row give what one gives", "[attend][request]") {
  data::cache const c(shape);
  auto const run = lively(c);
  age(run, c);
  float const sinks[] = {0.0f, 5.0f, -3.0f, 40.0f, 1.0f, 2.0f};
  for (index_t splits : {2, 3, 7, 64}) {
    CAPTURE(splits);
    data::buffer scratch(attend_bytes(run.packed.layout(), 6, 2, splits));
    oracle::asked x(run.packed, c.queries(2), true);
    x.request.splits = splits;
    x.request.sink_logits = sinks;
    x.request.window = 100;
    REQUIRE(attend(cpu{}, run.packed, x.request, scratch).ok());
    CHECK(oracle::error_of(run.packed, x.request) <= tolerance::attend);
    CHECK(scratch.intact());
  }
  oracle::asked whole(run.packed, c.queries(1)), roomy(run.packed, c.queries(1));
  data::buffer scratch(attend_bytes(run.packed.layout(), 6));
  REQUIRE(attend(cpu{}, run.packed, roomy.request, scratch).ok());
  CHECK(oracle::error_of(run.packed, roomy.request) <= tolerance::attend);
  CHECK(scratch.intact());
}

TEST_CASE("one layer of several, and sequences that rest", "[attend][request]") {
  data::cache const c(shape);
  auto const run = lively(c);
  age(run, c);
  oracle::asked all(run.packed, c.queries(1));
  REQUIRE(attend(cpu{}, run.packed, all.request).ok());
  auto second = c.queries(1);
  second.data = second.row(1, 0);
  second.sequences = 1;
  for (index_t splits : {1, 2}) {
    data::buffer scratch(attend_bytes(run.packed.layout(), 6, 1, splits));
    oracle::asked x(run.packed, second, true);
    x.request.first_sequence = 1;
    x.request.splits = splits;
    REQUIRE(attend(cpu{}, run.packed, x.request, scratch).ok());
    CHECK(oracle::error_of(run.packed, x.request) <= tolerance::attend);
    std::uint8_t const rests[] = {0, 1};
    oracle::asked y(run.packed, c.queries(1));
    y.request.active = rests;
    y.request.splits = splits;
    REQUIRE(attend(cpu{}, run.packed, y.request, scratch).ok());
    CHECK(oracle::error_of(run.packed, y.request) <= tolerance::attend);
    for (std::size_t i = 0; i < 6; ++i) CHECK(y.lse[i] == 777.0f);
    for (std::size_t i = 0; i < 6 * 32; ++i) REQUIRE(y.out[i] == 777.0f);
  }
}

TEST_CASE("an empty row answers nothing", "[attend][request]") {
  data::cache const c({.sequences = 2, .kv_heads = 1, .group = 2, .tokens = 20, .head_dim = 16});
  std::int32_t const lengths[] = {20, 0};
  auto view = c.view();
  view.lengths = lengths;
  data::compressed const run(dense<f16>{}, view, evidence<>{}, {.append_tokens = 2});
  REQUIRE(run.result.ok());
  for (index_t splits : {1, 3}) {
    data::buffer scratch(attend_bytes(run.packed.layout(), 2, 1, splits));
    oracle::asked x(run.packed, c.queries(1));
    x.request.splits = splits;
    REQUIRE(attend(cpu{}, run.packed, x.request, scratch).ok());
    CHECK(oracle::error_of(run.packed, x.request) <= tolerance::attend);
    CHECK(x.lse[2] == -INFINITY);
    CHECK(x.out[2 * 16 + 3] == 0.0f);
  }
}

TEST_CASE("attend refuses what it cannot serve, and writes nothing", "[attend][request]") {
  data::cache const c(shape);
  auto const run = lively(c);
  auto const refused = [&](auto const& change, workspace scratch = {}) {
    oracle::asked x(run.packed, c.queries(2), true);
    change(x.request);
    auto const s = attend(cpu{}, run.packed, x.request, scratch);
    CHECK(std::string(s.message).rfind("kvslim: ", 0) == 0);
    for (auto const* all : {&x.out, &x.lse, &x.logits})
      CHECK(std::all_of(all->begin(), all->end(), [](float y) { return y == 777.0f; }));
    return s.code;
  };
  using request = attend_request<>;
  CHECK(refused([](request& a) { a.q.data = nullptr; }) == errc::invalid_pointer);
  CHECK(refused([](request& a) { a.out.data = nullptr; }) == errc::invalid_pointer);
  CHECK(refused([](request& a) { a.lse = nullptr; }) == errc::invalid_pointer);
  CHECK(refused([](request& a) { a.q.heads = 5; }) == errc::invalid_shape);
  CHECK(refused([](request& a) { a.q.head_dim = 31; }) == errc::invalid_shape);
  CHECK(refused([](request& a) { a.q.sequences = 3; }) == errc::invalid_shape);
  CHECK(refused([](request& a) { a.q.tokens = 0; }) == errc::invalid_shape);
  CHECK(refused([](request& a) { a.first_sequence = 1; }) == errc::invalid_shape);
  CHECK(refused([](request& a) { a.out.heads = 2; }) == errc::invalid_shape);
  CHECK(refused([](request& a) { a.logits_stride = 5; }) == errc::invalid_shape);
  CHECK(refused([](request& a) { a.window = -1; }) == errc::invalid_option);
  CHECK(refused([](request& a) { a.splits = 0; }) == errc::invalid_option);
  CHECK(refused([](request& a) { a.precision = static_cast<attend_precision>(2); }) ==
        errc::invalid_option);
  CHECK(refused([](request& a) { a.splits = 2; }) == errc::invalid_pointer);  // no scratch
  std::int32_t const spans[2] = {0, 1};
  CHECK(refused([&](request& a) { a.visible.begin_end = spans; }) == errc::invalid_pointer);
  float const bad[] = {0, 0, 0, std::numeric_limits<float>::infinity(), 0, 0};
  CHECK(refused([&](request& a) { a.sink_logits = bad; }) == errc::non_finite);
  std::vector<float> q(12 * 2 * 32, 1.0f);
  q[100] = std::nanf("");
  CHECK(refused([&](request& a) {
          a.q = dense_rows(q.data(), {2, 6, 2, 32});
        }) == errc::non_finite);
  data::buffer small(attend_bytes(run.packed.layout(), 6, 2, 2) - 1);
  CHECK(refused([](request& a) { a.splits = 2; }, small) == errc::buffer_too_small);
  data::buffer room(attend_bytes(run.packed.layout(), 6, 2, 2) + 8);
  CHECK(refused([](request& a) { a.splits = 2; }, {room.data() + 8, room.size() - 8}) ==
        errc::invalid_pointer);
  CHECK(small.untouched());
  CHECK(attend_bytes(run.packed.layout(), 5) == 0);
  CHECK(attend_bytes(run.packed.layout(), 6, 0) == 0);

  data::buffer never(run.plan.packed_bytes());
  packed_cache const empty(run.plan, never);
  oracle::asked x(run.packed, c.queries(1));
  CHECK(attend(cpu{}, empty, x.request).code == errc::corrupt);
  CHECK(attend(cpu{}, packed_cache(run.plan, nullptr, 0), x.request).code == errc::invalid_pointer);
}

TEST_CASE("heads too wide for the stack need scratch", "[attend][request]") {
  data::cache const c({.kv_heads = 1, .group = 2, .tokens = 20, .head_dim = 1024});
  data::compressed const run(dense<f16>{}, c.view());
  oracle::asked x(run.packed, c.queries(1));
  CHECK(attend(cpu{}, run.packed, x.request).code == errc::buffer_too_small);
  CHECK(x.lse[0] == 777.0f);
  data::buffer scratch(attend_bytes(run.packed.layout(), 2));
  REQUIRE(attend(cpu{}, run.packed, x.request, scratch).ok());
  CHECK(oracle::error_of(run.packed, x.request) <= tolerance::attend);
}
