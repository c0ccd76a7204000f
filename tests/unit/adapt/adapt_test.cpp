// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Engine layouts, written here index by index from the engines' documentation and compared through
// the adapters.

#include "support/catch.hpp"
#include "support/oracle.hpp"

using namespace kvslim;

namespace {

index_t const S = 2, H = 3, T = 37, D = 8, P = 16, width = 3;
std::int32_t const lengths[] = {37, 20};

float key(index_t s, index_t h, index_t t, index_t d) {
  return static_cast<float>(((s * 7 + h) * 101 + t) * 11 + d);
}
float value(index_t s, index_t h, index_t t, index_t d) { return -key(s, h, t, d) - 0.5f; }

template <class View>
void same(View const& view) {
  for (index_t s = 0; s < S; ++s)
    for (index_t h = 0; h < H; ++h)
      for (index_t t = 0; t < lengths[s]; ++t)
        for (index_t d = 0; d < D; ++d) {
          REQUIRE(view.k.at(s, h, t, d) == key(s, h, t, d));
          REQUIRE(view.v.at(s, h, t, d) == value(s, h, t, d));
        }
}

template <class F>
void each(F const& f) {
  for (index_t s = 0; s < S; ++s)
    for (index_t h = 0; h < H; ++h)
      for (index_t t = 0; t < lengths[s]; ++t)
        for (index_t d = 0; d < D; ++d) f(s, h, t, d);
}

auto at(std::vector<float>& v, index_t i) -> float& { return v[static_cast<std::size_t>(i)]; }

}  // namespace

TEST_CASE("Hugging Face [B, H, T_max, D]", "[adapt]") {
  index_t const most = 50;
  std::vector<float> k(static_cast<std::size_t>(S * H * most * D)), v(k.size());
  each([&](index_t s, index_t h, index_t t, index_t d) {
    at(k, ((s * H + h) * most + t) * D + d) = key(s, h, t, d);
    at(v, ((s * H + h) * most + t) * D + d) = value(s, h, t, d);
  });
  same(adapt::hugging_face<float>({.k = k.data(),
                                   .v = v.data(),
                                   .extent = {S, H, T, D},
                                   .max_tokens = most,
                                   .lengths = lengths}));
}

TEST_CASE("llama.cpp: token-major K, V token-major and transposed", "[adapt]") {
  index_t const cells = 64;
  std::vector<float> k(static_cast<std::size_t>(S * cells * H * D)), v(k.size()), vt(k.size());
  each([&](index_t s, index_t h, index_t t, index_t d) {
    at(k, ((s * cells + t) * H + h) * D + d) = key(s, h, t, d);
    at(v, ((s * cells + t) * H + h) * D + d) = value(s, h, t, d);
    at(vt, ((s * H + h) * D + d) * cells + t) = value(s, h, t, d);
  });
  same(adapt::llama_cpp<float>(
      {.k = k.data(), .v = v.data(), .extent = {S, H, T, D}, .cells = cells}));
  same(adapt::llama_cpp<float>({.k = k.data(),
                                .v = vt.data(),
                                .extent = {S, H, T, D},
                                .cells = cells,
                                .v_transposed = true}));
}

TEST_CASE("vLLM pages, NHD and HND, planes apart and interleaved", "[adapt]") {
  std::int32_t const table[] = {4, 0, 2, 5, 1, 3};
  for (bool heads_first : {false, true})
    for (bool interleaved : {false, true}) {
      index_t const page = P * H * D, stride = interleaved ? 2 * page : page;
      std::vector<float> kv(static_cast<std::size_t>(2 * 6 * page));
      float* const k = kv.data();
      float* const v = kv.data() + (interleaved ? page : 6 * page);
      each([&](index_t s, index_t h, index_t t, index_t d) {
        index_t const inside = heads_first ? (h * P + t % P) * D + d : (t % P * H + h) * D + d;
        index_t const offset = table[s * width + t / P] * stride + inside;
        k[offset] = key(s, h, t, d);
        v[offset] = value(s, h, t, d);
      });
      same(adapt::vllm<float>({.k = k,
                               .v = v,
                               .block_table = table,
                               .lengths = lengths,
                               .extent = {S, H, T, D},
                               .page_size = P,
                               .table_width = width,
                               .heads_first = heads_first,
                               .page_stride = interleaved ? stride : 0}));
    }
}

TEST_CASE("FlashInfer CSR pages", "[adapt]") {
  std::int32_t const indptr[] = {0, 3, 5}, indices[] = {4, 0, 2, 1, 3};
  std::vector<float> k(static_cast<std::size_t>(5 * P * H * D)),
      v(static_cast<std::size_t>(5 * H * P * D));
  each([&](index_t s, index_t h, index_t t, index_t d) {
    index_t const page = indices[indptr[s] + t / P];
    at(k, ((page * P + t % P) * H + h) * D + d) = key(s, h, t, d);    // K as NHD
    at(v, ((page * H + h) * P + t % P) * D + d) = value(s, h, t, d);  // V as HND
  });
  same(adapt::flashinfer<float>({.k = k.data(),
                                 .v = v.data(),
                                 .indptr = indptr,
                                 .indices = indices,
                                 .lengths = lengths,
                                 .extent = {S, H, T, D},
                                 .page_size = P,
                                 .k_page = P * H * D,
                                 .k_head = D,
                                 .k_token = H * D,
                                 .v_page = H * P * D,
                                 .v_head = P * D,
                                 .v_token = D}));
}

TEST_CASE("offsets are 64 bit", "[adapt]") {
  strided const layout{index_t{1} << 40, index_t{1} << 35, 128, 1};
  CHECK(layout.offset(3, 5, 1000000) ==
        3 * (index_t{1} << 40) + 5 * (index_t{1} << 35) + 128000000);
  slot_list const slots{nullptr, 0, index_t{1} << 33, 0, 1};
  static_assert(std::is_same_v<decltype(slots.offset(0, 0, 0)), index_t>);
}
