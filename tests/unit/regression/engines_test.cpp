// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// What an engine brings: layers anywhere, halves as words, a buffer whose form is not known,
// several caches at once, widths of V.

#include "support/catch.hpp"
#include "support/data.hpp"
#include "support/tolerance.hpp"

#include <kvslim/adapt/layers.hpp>
#include <kvslim/run/attend_segments.hpp>

#include <cstring>

using namespace kvslim;

namespace {

double distance(std::vector<float> const& a, std::vector<float> const& b) {
  double error = 0.0, norm = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    auto const x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    error += (x - y) * (x - y);
    norm += y * y;
  }
  return std::sqrt(error / norm);
}

}  // namespace

TEST_CASE("layers at any addresses are one view", "[regression][engines][layers]") {
  // Three layers of two sequences, each in memory of its own, in another order than the layers'.
  index_t const L = 3, S = 2;
  std::vector<data::cache> layers;
  for (unsigned l = 0; l < 3; ++l) layers.emplace_back(data::shape{S, 2, 1, 50, 16}, 3 - l);
  using view_type = decltype(layers[0].view());
  std::vector<view_type> views;
  for (auto const& layer : layers) views.push_back(layer.view());
  std::vector<index_t> origins(static_cast<std::size_t>(2 * L * S));
  adapt::layers_view<view_type> one;
  REQUIRE(adapt::layers(slice<view_type const>{views.data(), L}, origins.data(), one).ok());
  CHECK(one.extent == extents{L * S, 2, 50, 16});
  for (index_t l = 0; l < L; ++l)
    for (index_t s = 0; s < S; ++s)
      for (index_t t = 0; t < 50; ++t) {
        auto const& layer = layers[static_cast<std::size_t>(l)];
        REQUIRE(one.k.at(s * L + l, 1, t, 5) == layer.key(s, 1, t, 5));
        REQUIRE(one.v.at(s * L + l, 0, t, 7) == layer.value(s, 0, t, 7));
      }
  // The layers of a sequence keep one set: that of the mean score over layers and heads.
  data::compressed const c(pipeline{shared{knorm{}, {L, 2}}, top_k{{.budget = 12}}}, one);
  REQUIRE(c.result.ok());
  for (index_t s = 0; s < S; ++s) {
    std::vector<std::pair<double, index_t>> order;
    for (index_t t = 0; t < 50; ++t) {
      double sum = 0.0;
      for (auto const& layer : layers)
        for (index_t h = 0; h < 2; ++h) {
          double norm = 0.0;
          for (index_t d = 0; d < 16; ++d) norm += std::pow(layer.key(s, h, t, d), 2);
          sum += std::sqrt(norm);
        }
      order.emplace_back(sum, t);
    }
    std::sort(order.begin(), order.end());
    std::vector<index_t> want;
    for (std::size_t i = 0; i < 12; ++i) want.push_back(order[i].second);
    std::sort(want.begin(), want.end());
    for (index_t l = 0; l < L; ++l) CHECK(c.kept(s * L + l, 1) == want);
  }
  views[1].extent.tokens = 49;
  CHECK(adapt::layers(slice<view_type const>{views.data(), L}, origins.data(), one).code ==
        errc::invalid_shape);
  CHECK(adapt::layers(slice<view_type const>{views.data(), 1}, nullptr, one).code ==
        errc::invalid_pointer);
  views[1] = views[0];
  views[1].k.data = nullptr;
  CHECK(adapt::layers(slice<view_type const>{views.data(), 2}, origins.data(), one).code ==
        errc::invalid_pointer);
  std::int32_t const lengths[] = {50, 20};
  views[0].lengths = lengths;
  CHECK(adapt::layers(slice<view_type const>{views.data(), 1}, origins.data(), one).code ==
        errc::unsupported);
}

TEST_CASE("an engine's 16-bit words are halves", "[regression][engines]") {
  data::cache const logical({1, 1, 1, 30, 16});
  std::vector<std::uint16_t> k, v;  // as ggml_fp16_t
  std::vector<f16> typed;
  for (float const x : logical.k) k.push_back(from_float<f16>(x).bits);
  for (float const x : logical.v) v.push_back(from_float<f16>(x).bits);
  auto const view =
      dense_cache(as_elements<f16>(k.data()), as_elements<f16>(v.data()), logical.shape.extents());
  data::compressed const c(dense<f16>{}, view), want(dense<f16>{}, logical.view());
  REQUIRE(c.result.ok());
  CHECK(c.storage.copy() == want.storage.copy());
}

TEST_CASE("a buffer whose row table lies is not handed out", "[regression][engines][any_cache]") {
  data::cache const logical({1, 2, 1, 40, 32});
  data::compressed const c(pipeline{knorm{}, top_k{{.budget = 20}}, int_per_token<8>{}},
                           logical.view(), {}, {.append_tokens = 4, .biases = true});
  REQUIRE(c.result.ok());
  any_cache<stored_as<dense_key<f16>, dense_value<f16>>,
            stored_as<token_key<8>, token_value<8>>> const any(c.storage.data(), c.storage.size());
  int visits = 0;
  auto const visit = [&](auto const& packed) {
    ++visits;
    return packed.tokens(0, 1) == 20 ? status{} : status{errc::corrupt, "kvslim: test"};
  };
  REQUIRE(any.visit(visit).ok());
  REQUIRE(visits == 1);
  auto const damaged = [&](auto const& damage) {
    auto const saved = c.storage.copy();
    damage(c.packed.raw_header(), c.packed.raw_row(1));
    auto const got = any.visit(visit).code;
    std::memcpy(c.storage.data(), saved.data(), saved.size());
    return got;
  };
  using header = packed_header;
  using row = packed_row;
  CHECK(damaged([](header&, row& x) { x.offset += 64; }) == errc::corrupt);
  CHECK(damaged([](header&, row& x) { x.offset = -64; }) == errc::corrupt);
  CHECK(damaged([](header&, row& x) { x.capacity = 1 << 30; }) == errc::corrupt);
  CHECK(damaged([](header&, row& x) { x.slots = x.capacity + 1; }) == errc::corrupt);
  CHECK(damaged([](header&, row& x) { x.key_coded = x.slots + 1; }) == errc::corrupt);
  CHECK(damaged([](header&, row& x) { x.value_head = 1 << 20; }) == errc::corrupt);
  CHECK(damaged([](header&, row& x) { x.holes = 3; }) == errc::corrupt);
  CHECK(damaged([](header&, row& x) { x.next_position = 2; }) == errc::corrupt);
  CHECK(damaged([](header& h, row&) { h.used_bytes -= 64; }) == errc::corrupt);
  CHECK(damaged([](header& h, row&) { h.sides[0].unit = 0; }) != errc::ok);
  CHECK(damaged([](header& h, row&) { h.sides[0].bytes = 1 << 20; }) != errc::ok);
  CHECK(damaged([](header& h, row&) {
          h.sides[2] = {static_cast<side_kind>(77), 0, 0, 4};
        }) != errc::ok);
  CHECK(damaged([](header& h, row&) { h.kv_heads = index_t{1} << 40; }) != errc::ok);
  CHECK(damaged([](header& h, row&) { h.key.words[0] = 0xffffffffu; }) != errc::ok);
  CHECK(visits == 1);
}

TEST_CASE("several caches attend as one", "[regression][engines][attend_segments]") {
  // Sinks and body exact in f32, then 40 tokens in another codec's own layout.
  index_t const T = 120, H = 2, G = 3, D = 32, W = 16, first = 30, second = 80;
  data::shape const shape{2, H, G, T, D, W};
  data::cache const logical(shape);
  auto const part = [&](index_t begin, index_t end) {
    auto view = logical.view();
    view.k.data += begin * D;
    view.v.data += begin * W;
    view.extent.tokens = end - begin;
    return view;
  };
  std::vector<std::int32_t> where;
  for (std::int32_t t = 0; t < T; ++t) where.push_back(t);
  auto const placed = [&](index_t begin, index_t end) {
    auto view = part(begin, end);
    view.positions = {where.data() + begin, 0, 0};
    return view;
  };
  plan_options const o{.positions = true, .logit = {.scale = 0.3f, .soft_cap = 20.0f}};
  data::compressed const whole(dense<float>{}, placed(0, T), {}, o);
  data::compressed const a(dense<float>{}, placed(0, first), {}, o);
  data::compressed const b(codec_pair{dense_key<float>{}, dense_value<float>{}},
                           placed(first, second), {}, o);
  data::compressed const c(dense<float>{}, placed(second, T), {}, o);
  REQUIRE((whole.result.ok() && a.result.ok() && b.result.ok() && c.result.ok()));
  index_t const n = GENERATE(1, 3), splits = GENERATE(1, 2), window = GENERATE(0, 60);
  bool const sinks = GENERATE(false, true);
  std::vector<std::int32_t> positions;
  for (index_t i = 0; i < 2 * n; ++i) positions.push_back(static_cast<std::int32_t>(T - n + i % n));
  std::vector<float> const sink_logits{1.0f, -2.0f, 0.5f, 3.0f, 0.0f, 2.0f};
  auto const count = static_cast<std::size_t>(2 * H * G * n);
  std::vector<float> one(count * W), many(count * W), lse(count), lses(count);
  std::uint8_t const active[] = {1, 1};
  attend_request<> request{.q = logical.queries(n),
                           .out = dense_rows(one.data(), {2, H * G, n, W}),
                           .lse = lse.data(),
                           .positions = positions.data(),
                           .active = active,
                           .window = window,
                           .sink_logits = sinks ? sink_logits.data() : nullptr,
                           .base2 = sinks,
                           .splits = splits};
  std::vector<std::byte> scratch(attend_bytes(whole.plan.layout(), H * G, n, splits));
  REQUIRE(attend(cpu{}, whole.packed, request, scratch).ok());
  data::buffer const room(
      segments_bytes(H * G, n, splits, a.plan.layout(), b.plan.layout(), c.plan.layout()));
  workspace const memory{room.data(), room.size()};
  request.out = dense_rows(many.data(), {2, H * G, n, W});
  request.lse = lses.data();
  REQUIRE(attend_segments(cpu{}, request, memory, a.packed, b.packed, c.packed).ok());
  CHECK(room.intact());
  CHECK(distance(many, one) <= tolerance::attend);
  CHECK(distance(lses, lse) <= tolerance::attend);

  // Refusals write nothing.
  std::fill(many.begin(), many.end(), 7.0f);
  auto const refused = [&](attend_request<> const& r, workspace w) {
    auto const code = attend_segments(cpu{}, r, w, a.packed, b.packed, c.packed).code;
    CHECK(many == std::vector<float>(many.size(), 7.0f));
    return code;
  };
  CHECK(refused(request, {room.data(), room.size() - 1}) == errc::buffer_too_small);
  auto bad = request;
  bad.logits = lse.data();
  CHECK(refused(bad, memory) == errc::unsupported);
  bad = request;
  bad.positions = nullptr;
  bad.window = 5;
  CHECK(refused(bad, memory) == errc::invalid_pointer);
  float const no_number[] = {NAN, 0, 0, 0, 0, 0};
  bad = request;
  bad.sink_logits = no_number;
  CHECK(refused(bad, memory) == errc::non_finite);
}

TEST_CASE("adapters know the width of V", "[regression][engines][adapt]") {
  index_t const S = 2, H = 2, T = 8, D = 16, W = 4;
  std::vector<float> k(static_cast<std::size_t>(S * H * T * D)),
      v(static_cast<std::size_t>(S * H * T * W));
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(i);
  extents const e{S, H, T, D, W};
  auto const hugging_face = adapt::hugging_face<float>({.k = k.data(), .v = v.data(), .extent = e});
  CHECK(hugging_face.v.at(1, 1, 7, 3) == static_cast<float>(v.size() - 1));
  CHECK(hugging_face.v.at(1, 0, 2, 1) == static_cast<float>(((2 * T) + 2) * W + 1));
  std::vector<std::int32_t> const table{1, 0, 2, 3};
  auto const vllm = adapt::vllm<float>({.k = k.data(),
                                        .v = v.data(),
                                        .block_table = table.data(),
                                        .extent = e,
                                        .page_size = 4,
                                        .table_width = 2});
  CHECK(vllm.v.at(1, 1, 7, 3) == static_cast<float>(v.size() - 1));
  CHECK(vllm.v.at(0, 1, 1, 2) == static_cast<float>(((4 + 1) * H + 1) * W + 2));
  auto const cells = adapt::llama_cpp<float>(
      {.k = k.data(), .v = v.data(), .extent = e, .cells = T, .v_transposed = true});
  CHECK(cells.v.at(1, 1, 7, 3) == static_cast<float>(v.size() - 1));
}
