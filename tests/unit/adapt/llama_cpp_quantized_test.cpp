// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// A quantized llama.cpp cache is scored, selected and taken over from where it lies.

#include "reference/ggml.hpp"
#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <algorithm>
#include <numeric>

using namespace kvslim;

namespace {

using q8_0 = ggml_rows<ggml_block::q8_0>;
using q5_1 = ggml_rows<ggml_block::q5_1>;
using q4_0 = ggml_rows<ggml_block::q4_0>;

/// A cache as the engine has it: streams of cells in any order, a cell all heads of a token side by
/// side. The decoded values, in order of cells, are beside it.
struct engine {
  data::shape shape{.sequences = 2, .kv_heads = 3, .group = 2, .tokens = 50, .head_dim = 64};
  index_t cells = 64;
  std::vector<std::byte> k, v;
  std::vector<float> decoded_k, decoded_v;  // [stream, kv_head, cell, dim]
  std::vector<std::int32_t> positions;      // [stream, tokens]
  data::cache source{shape};

  engine(reference::ggml_type key, reference::ggml_type value) {
    fill(source.k, key, k, decoded_k);
    fill(source.v, value, v, decoded_v);
    std::mt19937 random(4);
    for (index_t s = 0; s < shape.sequences; ++s) {
      std::vector<std::int32_t> order(static_cast<std::size_t>(shape.tokens));
      std::iota(order.begin(), order.end(), 0);
      std::shuffle(order.begin(), order.end(), random);
      positions.insert(positions.end(), order.begin(), order.end());
    }
  }
  void fill(std::vector<float> const& from, reference::ggml_type type, std::vector<std::byte>& to,
            std::vector<float>& decoded) const {
    std::size_t const size = reference::ggml_bytes(type);
    to.resize(static_cast<std::size_t>(shape.rows() * cells * shape.head_dim / 32) * size);
    decoded.resize(from.size());
    each([&](index_t s, index_t h, index_t t) {
      for (index_t b = 0; b < shape.head_dim / 32; ++b) {
        auto const at = static_cast<std::size_t>(source.cell(s, h, t) * shape.head_dim + b * 32);
        auto const bytes = reference::ggml_encode(from.data() + at, type);
        std::vector<unsigned char> const block(bytes.begin(), bytes.end());
        std::memcpy(to.data() + offset(s, h, t, b) * static_cast<index_t>(size), block.data(),
                    size);
        for (int i = 0; i < 32; ++i)
          decoded[at + static_cast<std::size_t>(i)] =
              static_cast<float>(reference::ggml_decode(block.data(), type, i));
      }
    });
  }
  /// Block b of a head of a cell, in blocks.
  [[nodiscard]] index_t offset(index_t s, index_t h, index_t t, index_t b) const {
    return ((s * cells + t) * shape.kv_heads + h) * (shape.head_dim / 32) + b;
  }
  template <class F>
  void each(F const& f) const {
    for (index_t s = 0; s < shape.sequences; ++s)
      for (index_t h = 0; h < shape.kv_heads; ++h)
        for (index_t t = 0; t < shape.tokens; ++t) f(s, h, t);
  }
  template <class Key, class Value>
  [[nodiscard]] auto view() const {
    return adapt::llama_cpp_quantized<Key, Value>({.k = k.data(),
                                                   .v = v.data(),
                                                   .extent = shape.extents(),
                                                   .cells = cells,
                                                   .positions = positions.data()});
  }
  /// The same cache as floats.
  [[nodiscard]] auto floats() const {
    auto view = dense_cache(decoded_k.data(), decoded_v.data(), shape.extents());
    view.positions = positions.data();
    return view;
  }
};

/// Which cells a policy keeps.
template <class Policy, class View, class Evidence>
std::vector<std::int32_t> kept(Policy const& policy, View const& view, Evidence const& evidence) {
  auto const plan = make_plan(policy, view.extents());
  data::buffer memory(plan.keep_bytes()), scratch(plan.select_bytes());
  auto keep = plan.keep(memory);
  REQUIRE(select(cpu{}, plan, view, evidence, keep, scratch).ok());
  return {keep.cells, keep.cells + keep.begins[view.extents().rows()]};
}

template <class Policy>
void same_choice(Policy const& policy, engine const& e, index_t window = 8) {
  auto const evidence = kvslim::evidence{window_queries{e.source.queries(window)}};
  auto const expected = kept(policy, e.floats(), evidence);
  CHECK(kept(policy, e.view<q8_0, q4_0>(), evidence) == expected);
  CHECK(static_cast<index_t>(expected.size()) == 20 * e.shape.rows());
}

}  // namespace

TEST_CASE("a quantized llama.cpp cache reads as its values", "[adapt][ggml]") {
  engine const e({8, false}, {5, true});
  auto const view = e.view<q8_0, q5_1>();
  e.each([&](index_t s, index_t h, index_t t) {
    auto const key = view.key(s, h, t);
    auto const value = view.value(s, h, t);
    float const* const k = e.decoded_k.data() + e.source.cell(s, h, t) * 64;
    float const* const v = e.decoded_v.data() + e.source.cell(s, h, t) * 64;
    REQUIRE(key.size() == 64);
    float loaded[64];
    key.load(loaded);
    REQUIRE(std::equal(k, k + 64, loaded));
    index_t d = 0;
    for (float const x : value) REQUIRE(x == v[d++]);
    REQUIRE(d == 64);
    for (d = 0; d < 64; ++d) REQUIRE((key[d] == k[d] && value[d] == v[d]));
  });
}

TEST_CASE("scorers choose from a quantized cache as from its values", "[adapt][ggml]") {
  engine const e({8, false}, {4, false});
  same_choice(pipeline{knorm{}, top_k{{.budget = 20, .sinks = 2}}}, e);
  same_choice(pipeline{snapkv{{.window = 8}}, top_k{{.budget = 20}}}, e);
  same_choice(pipeline{tova{}, top_k{{.budget = 20}}}, e, 1);
}

TEST_CASE("what is kept of a quantized cache keeps its bytes", "[adapt][ggml]") {
  engine const e({8, false}, {4, false});
  auto const view = e.view<q8_0, q4_0>();
  data::compressed const x(
      pipeline{knorm{}, top_k{{.budget = 20}}, ggml<ggml_block::q8_0, ggml_block::q4_0>{}}, view);
  REQUIRE(x.result.ok());
  for (index_t r = 0; r < e.shape.rows(); ++r) {
    index_t const s = r / e.shape.kv_heads, h = r % e.shape.kv_heads;
    auto const first = e.positions.begin() + s * e.shape.tokens;
    for (index_t slot = 0; slot < 20; ++slot) {
      auto const cell = std::find(first, first + e.shape.tokens, x.packed.position(s, h, slot));
      index_t const at = e.offset(s, h, cell - first, 0);
      CHECK(std::memcmp(x.packed.keys(r).block(slot), e.k.data() + at * 34, 68) == 0);
      CHECK(std::memcmp(x.packed.values(r).block(slot), e.v.data() + at * 18, 36) == 0);
    }
  }
}

TEST_CASE("codecs attend an engine's own rows", "[adapt][ggml]") {
  engine const e({8, false}, {4, false});
  auto const view = e.view<q8_0, q4_0>();
  auto const q = e.source.queries(1);
  e.each([&](index_t s, index_t h, index_t t) {
    std::vector<float> score(static_cast<std::size_t>(run_tokens)), out(64), p(score.size(), 0.5f);
    q8_0{}.dot(view.k.row(s, h, t), {.dim = 64}, q.row(s, h), 1, score.data());
    q4_0{}.accumulate(view.v.row(s, h, t), {.dim = 64}, p.data(), 1, out.data());
    double sum = 0, added = 1;
    for (index_t d = 0; d < 64; ++d) {
      auto const at = static_cast<std::size_t>(e.source.cell(s, h, t) * 64 + d);
      double const x = q.row(s, h)[d] * static_cast<double>(e.decoded_k[at]);
      sum += x;
      added += std::abs(x);
      REQUIRE(out[static_cast<std::size_t>(d)] == 0.5f * e.decoded_v[at]);
    }
    REQUIRE(std::abs(score[0] - sum) <= tolerance::accumulated * added);
  });
}

TEST_CASE("quantized K goes with a V of elements, transposed or not", "[adapt][ggml]") {
  engine const e({8, false}, {4, false});
  index_t const heads = e.shape.kv_heads, dim = e.shape.head_dim;
  std::vector<f16> major(static_cast<std::size_t>(e.shape.rows() * e.cells * dim)),
      transposed(major.size());
  auto const value = [](index_t s, index_t h, index_t t, index_t d) {
    return from_float<f16>(static_cast<float>((s * 3 + h) * 7 + t) + static_cast<float>(d) / 64);
  };
  e.each([&](index_t s, index_t h, index_t t) {
    for (index_t d = 0; d < dim; ++d) {
      major[static_cast<std::size_t>(((s * e.cells + t) * heads + h) * dim + d)] =
          value(s, h, t, d);
      transposed[static_cast<std::size_t>(((s * heads + h) * dim + d) * e.cells + t)] =
          value(s, h, t, d);
    }
  });
  adapt::llama_cpp_quantized_cache c{
      .k = e.k.data(), .v = major.data(), .extent = e.shape.extents(), .cells = e.cells};
  auto const plain = adapt::llama_cpp_quantized<q8_0, f16>(c);
  c.v = transposed.data();
  c.v_transposed = true;
  auto const turned = adapt::llama_cpp_quantized<q8_0, f16>(c);
  e.each([&](index_t s, index_t h, index_t t) {
    for (index_t d = 0; d < dim; ++d) {
      REQUIRE(plain.value(s, h, t)[d] == to_float(value(s, h, t, d)));
      REQUIRE(turned.value(s, h, t)[d] == to_float(value(s, h, t, d)));
    }
  });
  CHECK(data::compressed(ggml<ggml_block::q8_0>{}, turned).result.ok());
}

TEST_CASE("quantized caches that no engine has are refused", "[adapt][ggml]") {
  engine const e({8, false}, {4, false});
  adapt::llama_cpp_quantized_cache const good{
      .k = e.k.data(), .v = e.v.data(), .extent = e.shape.extents(), .cells = e.cells};
  auto const result = [](adapt::llama_cpp_quantized_cache const& c) {
    return data::compressed(dense<float>{}, adapt::llama_cpp_quantized<q8_0, q4_0>(c)).result.code;
  };
  CHECK(result(good) == errc::ok);
  auto c = good;
  c.v_transposed = true;
  CHECK(result(c) == errc::unsupported);
  c = good;
  c.k = nullptr;
  CHECK(result(c) == errc::invalid_pointer);
  c = good;
  c.extent.head_dim = 48;
  CHECK(result(c) == errc::invalid_shape);
  c = good;
  c.extent.value_dim = 40;
  CHECK(result(c) == errc::invalid_shape);
  // A step that an engine's overflow left infinite.
  engine bad({8, false}, {4, false});
  f16 const infinite{0x7c00};
  std::memcpy(bad.k.data() + 34, &infinite, sizeof infinite);
  auto const view = bad.view<q8_0, q4_0>();
  CHECK(data::compressed(dense<float>{}, view).result.code == errc::non_finite);
}
