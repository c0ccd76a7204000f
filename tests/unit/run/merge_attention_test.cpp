// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Attention over disjoint sets of tokens, merged by log-sum-exp.

#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <deque>

using namespace kvslim;

namespace {

/// c's tokens [begin, end) as a view.
auto part_of(data::cache const& c, index_t begin, index_t end) {
  auto view = c.view();
  view.extent.tokens = end - begin;
  view.k.data += begin * c.shape.head_dim;
  view.v.data += begin * c.shape.value_width();
  return view;
}

}  // namespace

TEST_CASE("halves of a cache merge by log-sum-exp", "[merge_attention]") {
  data::cache const c({.kv_heads = 1, .group = 1, .tokens = 60, .head_dim = 32});
  auto const run = [&](auto const& view) {
    data::compressed const packed(dense<float>{}, view);
    oracle::asked x(packed.packed, c.queries(1));
    REQUIRE(attend(cpu{}, packed.packed, x.request).ok());
    return std::pair{x.out, x.lse[0]};
  };
  auto const all = run(c.view());
  auto a = run(part_of(c, 0, 25));
  auto const b = run(part_of(c, 25, 60));
  merge_attention(a.first.data(), a.second, b.first.data(), b.second, 32);
  CHECK(std::abs(a.second - all.second) <= tolerance::accumulated * 10);
  for (std::size_t d = 0; d < 32; ++d)
    CHECK(std::abs(a.first[d] - all.first[d]) <= tolerance::accumulated);
}

TEST_CASE("what saw nothing adds nothing", "[merge_attention]") {
  float out[2] = {0, 0}, lse = -INFINITY;
  float const other[2] = {3, -4};
  merge_attention(out, lse, other, 1.5f, 2);
  CHECK(out[0] == 3.0f);
  CHECK(lse == 1.5f);
  float const nothing[2] = {0, 0};
  merge_attention(out, lse, nothing, -INFINITY, 2);
  CHECK(out[1] == -4.0f);
  CHECK(lse == 1.5f);
  float none[2] = {0, 0}, none_lse = -INFINITY;
  merge_attention(none, none_lse, nothing, -INFINITY, 2);
  CHECK(none[0] == 0.0f);
  CHECK(none_lse == -INFINITY);
}

TEST_CASE("segments of other codecs finish as one cache", "[merge_attention]") {
  data::cache const c(
      {.sequences = 2, .kv_heads = 2, .group = 3, .tokens = 100, .head_dim = 32, .value_dim = 16});
  data::compressed const whole(dense<float>{}, c.view());
  data::compressed const sinks(dense<float>{}, part_of(c, 0, 4));
  data::compressed const body(dense<f16>{}, part_of(c, 4, 90));  // exact too: bf16 values
  data::compressed const tail(dense<bf16>{}, part_of(c, 90, 100));
  float const sink_logits[] = {0, 1, 2, 3, -1, 7};
  std::uint8_t const rests[] = {1, 0};
  for (bool with_sinks : {false, true})
    for (bool base2 : {false, true})
      for (bool resting : {false, true}) {
        std::deque<oracle::asked> parts;
        std::vector<attention_part<>> segments;
        auto const add = [&](auto const& run) {
          parts.emplace_back(run.packed, c.queries(1));
          REQUIRE(attend(cpu{}, run.packed, parts.back().request).ok());
          segments.push_back({dense_rows(std::as_const(parts.back().out).data(), {2, 6, 1, 16}),
                              parts.back().lse.data()});
        };
        add(sinks);
        add(body);
        add(tail);
        oracle::asked all(whole.packed, c.queries(1));
        if (with_sinks) all.request.sink_logits = sink_logits;
        if (resting) all.request.active = rests;
        all.request.base2 = base2;
        slice<attention_part<> const> const list{segments.data(), 3};
        REQUIRE(finish(cpu{}, list, all.request).ok());
        CHECK(oracle::error_of(whole.packed, all.request) <= tolerance::attend);
        if (resting) CHECK(all.lse[6] == 777.0f);
      }
}

TEST_CASE("finish refuses, and writes nothing", "[merge_attention]") {
  data::cache const c({.kv_heads = 1, .group = 2, .tokens = 20, .head_dim = 16});
  data::compressed const run(dense<f16>{}, c.view());
  oracle::asked part(run.packed, c.queries(1)), all(run.packed, c.queries(1));
  REQUIRE(attend(cpu{}, run.packed, part.request).ok());
  attention_part<> const good{dense_rows(part.out.data(), {1, 2, 1, 16}), part.lse.data()};
  auto const refused = [&](attention_part<> const& x, index_t count, auto const& change) {
    auto a = all.request;
    change(a);
    attention_part<> const parts[] = {good, x};
    auto const s = finish(cpu{}, {count == 0 ? nullptr : parts, count}, a);
    CHECK(all.out[0] == 777.0f);
    CHECK(all.lse[1] == 777.0f);
    return s.code;
  };
  auto const as_is = [](attend_request<>&) {};
  CHECK(refused(good, 0, as_is) == errc::invalid_pointer);
  CHECK(refused({}, 2, as_is) == errc::invalid_pointer);
  CHECK(refused({good.out, nullptr}, 2, as_is) == errc::invalid_pointer);
  CHECK(refused(good, 2, [](auto& a) { a.lse = nullptr; }) == errc::invalid_pointer);
  CHECK(refused(good, 2, [](auto& a) { a.out.data = nullptr; }) == errc::invalid_pointer);
  CHECK(refused({dense_rows(part.out.data(), {1, 1, 1, 16}), part.lse.data()}, 2, as_is) ==
        errc::invalid_shape);
}
