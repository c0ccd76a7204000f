// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Attention over whole runs of tokens on matrix units, on both backends over the same stored bytes,
// and these units themselves. Exits 77 (skipped) where there is no GPU.

#include "fields.hpp"

#include <kvslim/exec/matrix_unit.cuh>

#include <cmath>

using namespace on_device;
using namespace kvslim;

namespace {

/// Two floats that bf16 holds, in a word.
__device__ std::uint32_t upper_halves(float low, float high) {
  return detail::bit_cast<std::uint32_t>(low) >> 16 | detail::bit_cast<std::uint32_t>(high);
}

/// One warp: c [16, 8] += a [16, 16] b [16, 8] of f16, again of bf16 and of TF32, and m [8, 8]
/// of words of 16 bits transposed.
__global__ void multiply(float const* a, float const* b, float* c, std::uint16_t* m) {
  int const lane = static_cast<int>(threadIdx.x), g = lane / 4, t = lane % 4;
  std::uint32_t of_a[4], of_b[2], bf16_of_a[4], bf16_of_b[2];
  for (int i = 0; i < 4; ++i) {
    float const* const from = a + (g + i % 2 * 8) * 16 + 2 * t + i / 2 * 8;
    of_a[i] = detail::halves(from[0], from[1]);
    bf16_of_a[i] = upper_halves(from[0], from[1]);
  }
  for (int i = 0; i < 2; ++i) {
    float const* const from = b + (2 * t + i * 8) * 8 + g;
    of_b[i] = detail::halves(from[0], from[8]);
    bf16_of_b[i] = upper_halves(from[0], from[8]);
  }
  float of_c[4];
  for (int i = 0; i < 4; ++i) of_c[i] = c[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  detail::mma(of_c, of_a, of_b[0], of_b[1]);
  detail::mma_bf16(of_c, bf16_of_a, bf16_of_b[0], bf16_of_b[1]);
  for (int half = 0; half < 2; ++half) {
    std::uint32_t tf32_of_a[4], tf32_of_b[2];
    for (int i = 0; i < 4; ++i)
      tf32_of_a[i] =
          detail::bit_cast<std::uint32_t>(a[(g + i % 2 * 8) * 16 + 8 * half + t + i / 2 * 4]);
    for (int i = 0; i < 2; ++i)
      tf32_of_b[i] = detail::bit_cast<std::uint32_t>(b[(8 * half + t + i * 4) * 8 + g]);
    detail::mma_tf32(of_c, tf32_of_a, tf32_of_b[0], tf32_of_b[1]);
  }
  for (int i = 0; i < 4; ++i) c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = of_c[i];
  auto* const two = m + g * 8 + 2 * t;
  std::uint32_t const turned =
      detail::transposed(two[0] | static_cast<std::uint32_t>(two[1]) << 16);
  two[0] = static_cast<std::uint16_t>(turned);
  two[1] = static_cast<std::uint16_t>(turned >> 16);
}

/// Matrix instructions against plain products; A holds subnormals of f16, as codes are.
void matrix_unit() {
  char const* const name = "matrix unit";
  std::vector<float> a(256), b(128), c(128);
  std::vector<std::uint16_t> m(64);
  for (std::size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(i * 7 % 256) * 0x1p-24f;
  for (std::size_t i = 0; i < b.size(); ++i) b[i] = static_cast<float>(i * 37 % 101) - 50.0f;
  for (std::size_t i = 0; i < c.size(); ++i) c[i] = static_cast<float>(i) * 0x1p-20f;
  for (std::size_t i = 0; i < m.size(); ++i) m[i] = static_cast<std::uint16_t>(i * 1031);
  device<float> const da(a), db(b), dc(c);
  device<std::uint16_t> const dm(m);
  passed(detail::launch(gpu, {1, 32}, multiply, da.get(), db.get(), dc.get(), dm.get()), name);
  synchronized("one warp", name);
  auto const product = dc.host();
  auto const turned = dm.host();
  for (std::size_t row = 0; row < 16; ++row)
    for (std::size_t column = 0; column < 8; ++column) {
      float sum = c[row * 8 + column];  // all of it fits a float
      for (std::size_t k = 0; k < 16; ++k) sum += 3.0f * a[row * 16 + k] * b[k * 8 + column];
      check(product[row * 8 + column] == sum, "a product of matrices", name);
    }
  for (std::size_t i = 0; i < m.size(); ++i)
    check(turned[i] == m[i % 8 * 8 + i / 8], "a transposed matrix", name);
}

/// Codecs whose units are fragments, at shapes that do not divide; stored bytes stay. Not all of
/// them take `every_width`.
template <class Policy>
void runs(char const* method, Policy const& policy_for, bool every_width = true) {
  auto const ask_of = [&](extents const& e, std::initializer_list<ask> asks) {
    char name[128];
    std::snprintf(name, sizeof name, "%d tokens, %d channels, %s", static_cast<int>(e.tokens),
                  static_cast<int>(e.head_dim), method);
    auto const plan = make_plan(policy_for(e), e);
    using layout = std::remove_cvref_t<decltype(plan.layout())>;
    static_assert(
        detail::reads_runs<typename layout::key_codec_type, typename layout::value_codec_type>());
    if (!every_width && plan.check().code == errc::invalid_shape) return;
    stored<std::remove_const_t<decltype(plan)>> s(plan);
    std::vector<float> table;  // for codecs that choose by one
    for (index_t d = 0; d < e.head_dim; ++d) table.push_back(1.0f + static_cast<float>(d * 5 % 7));
    device<float> const there(table);
    s.on_host.bind({.key = table.data()});
    s.on_gpu.bind({.key = there.get()});
    cells rows(e, {}, 11);
    for (std::size_t i = 0; i < rows.v.size(); ++i)  // tokens of very different sizes
      rows.v[i] *= std::exp2(
          static_cast<float>(i / static_cast<std::size_t>(e.value_width()) * 5 % 17) - 12.0f);
    data::buffer const scratch(plan.workspace_bytes());
    passed(compress(cpu{}, plan, rows.view<host_space>(), evidence<>{}, s.on_host, scratch), name);
    double worst = 0.0;
    for (ask const& a : asks) worst = std::max(worst, attend_both(s, a, name));
    auto const after = s.device_storage.host();
    check(same(after.data(), s.storage.data(), static_cast<index_t>(after.size())),
          "stored bytes stay", name);
    std::printf("  %-50s %.1e\n", name, worst);
  };
  ask_of({1, 1, 1, 64}, {{.group = 1}, {.group = 16}});
  ask_of({1, 1, 31, 80}, {{.group = 3}});
  ask_of({1, 1, 33, 128}, {{.group = 3}, {.group = 8}});
  ask_of({1, 1, 70, 256}, {{.group = 4}, {.group = 3, .tokens = 2, .spans = true, .logits = true}});
  ask_of({1, 1, 1000, 80}, {{.group = 4}, {.group = 7, .fast = true}});
  ask_of({1, 1, 1000, 128}, {{.group = 1, .splits = 3}, {.group = 16}, {.group = 8, .fast = true}});
  ask_of({1, 1, 300, 64, 144}, {{.group = 8, .splits = 2, .window = 77},
                                {.group = 3, .tokens = 2, .logits = true, .fast = true}});
  // Four warps share a run: of latents, of a V that ends within the third's channels.
  ask_of({1, 1, 300, 576, 512},
         {{.group = 16, .splits = 2}, {.group = 3, .logits = true, .fast = true}});
  ask_of({1, 1, 100, 576, 272}, {{.group = 5, .tokens = 2, .spans = true}, {.group = 1}});
  ask_of({1, 1, 96, 64, 384}, {{.group = 4}, {.group = 8, .splits = 2}});
}

/// Blocks that were coded after the prompt have directions of their own.
template <class Policy>
void grown(char const* name, Policy const& policy) {
  extents const e{2, 1, 140, 64};
  auto const plan = make_plan(policy, e, {.append_tokens = 300, .draft_tokens = 100});
  stored<std::remove_const_t<decltype(plan)>> s(plan);
  cells const rows(e, {}, 11);
  data::buffer const scratch(plan.workspace_bytes()), more(append_bytes(plan.layout())),
      work(settle_bytes(plan.layout()));
  passed(compress(cpu{}, plan, rows.view<host_space>(), evidence<>{}, s.on_host, scratch), name);
  for (unsigned i = 0; i < 3; ++i) {
    asked_rows<f16> const k({2, 1, 95, 64}, 31 + i), v({2, 1, 95, 64}, 41 + i);
    passed(append(cpu{}, s.on_host, k.on_host(), v.on_host(), more), name);
    passed(settle(cpu{}, s.on_host, work), name);
  }
  check(s.on_host.raw_row(0).key_coded == 384 && s.on_host.raw_row(1).value_coded == 384,
        "blocks were coded", name);
  double worst = 0.0;
  for (ask const& a : {ask{.group = 4}, ask{.group = 7, .splits = 3, .spans = true, .logits = true},
                       ask{.group = 8, .fast = true}})
    worst = std::max(worst, attend_both(s, a, name));
  std::printf("  blocks coded later, %-30s %.1e\n", name, worst);
}

/// V as a slice of K, where lanes may read 32 channels of it and where they may not.
template <element T>
void slices(char const* name) {
  for (index_t const width : {512, 80, 64, 16}) {
    index_t const dim = width == 512 ? 576 : width;
    cache const latents{"latents", {1, 2, width == 512 ? 200 : 300, dim, width}};
    ask_all(latents, name, codec_pair{dense_key<T>{}, slice_of_key{dense_key<T>{}, dim}}, false,
            {{.group = 16, .splits = 2},
             {.group = 3, .tokens = 2, .window = 100, .spans = true, .logits = true},
             {.group = 7, .fast = true}});
  }
}

}  // namespace

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: no CUDA device\n");
    return 77;
  }
  matrix_unit();
  runs("int 4", [](extents const&) { return int_per_token<4>{}; });
  auto const kivi_of = [](extents const& e) {
    index_t const width = e.value_width();
    return kivi<4>{{.residual = 32, .value_group = width % 32 == 0 ? 32 : width}};
  };
  runs("kivi 4", kivi_of);
  runs("kivi 2", [](extents const& e) {
    index_t const width = e.value_width();
    return kivi<2>{{.group = 64, .residual = 64, .value_group = width % 64 == 0 ? 64 : width}};
  });
  runs(
      "rotated int 4", [](extents const&) { return rotated{int_per_token<4>{}}; }, false);
  runs(
      "rotated kivi 4", [=](extents const& e) { return rotated{kivi_of(e)}; }, false);
  runs("zipcache 4", [](extents const&) { return zipcache<4>{}; });
  runs("zipcache 2", [](extents const&) { return zipcache<2>{{.residual = 7}}; });
  runs("fp8", [](extents const&) { return fp8<>{}; });
  runs(
      "fp8, e4m3 and e5m2", [](extents const&) { return fp8<e4m3, e5m2>{{.residual = 5}}; }, false);
  runs(
      "fp8, one scale",
      [](extents const&) { return fp8<e5m2, e4m3>{{.key_scale = 0.25f, .value_scale = 0x1p5f}}; },
      false);
  runs("dense e4m3", [](extents const&) { return dense<e4m3>{}; });
  runs(
      "rotated fp8", [](extents const&) { return rotated{fp8<>{}}; }, false);
  runs(
      "think, f16",
      [](extents const&) {
        return think{dense<f16>{}, {.share = 0.4f, .multiple = 16}};
      },
      false);
  runs(
      "think, int 4",
      [](extents const&) {
        return think{int_per_token<4>{}, {.share = 0.25f, .multiple = 16}};
      },
      false);
  runs(
      "think, kivi 4",
      [=](extents const& e) {
        return think{kivi_of(e), {.share = 0.5f, .multiple = 32}};
      },
      false);
  runs(
      "latents of bf16",
      [](extents const&) {
        return codec_pair{latent<dense_key<bf16>>{.rank = 48, .rounds = 1},
                          latent<dense_value<bf16>>{.rank = 32, .rounds = 1}};
      },
      false);
  runs(
      "latents of 4 bit",
      [](extents const&) {
        return codec_pair{latent<token_key<4>>{.rank = 32, .rounds = 1},
                          latent<token_value<4>>{.rank = 64, .rounds = 1}};
      },
      false);
  runs("gear 4", [](extents const& e) {
    index_t const width = e.value_width();
    return gear<4>{{.group = 32, .outliers = 0.1f, .value_group = width % 32 == 0 ? 32 : width}};
  });
  runs(
      "gear 2 over KCVT",
      [](extents const&) {
        return gear<2>{{.group = 64, .residual = 128, .rank = 16, .grown_rank = 1, .kcvt = true}};
      },
      false);
  runs(
      "gear 8", [](extents const& e) { return gear<8>{{.value_group = e.value_width()}}; }, false);
  runs(
      "gear_l 4",
      [](extents const& e) {
        return gear_l<4>{{.group = 32, .rank = 3, .grown_rank = 0, .value_group = e.value_width()}};
      },
      false);
  runs(
      "gear's K alone",
      [](extents const&) {
        return codec_pair{gear<4>{}.key_codec(), token_value<4>{}};
      },
      false);
  runs(
      "gear's V alone",
      [](extents const& e) {
        return codec_pair{token_key<8>{}, gear<8>{{.value_group = e.value_width()}}.value_codec()};
      },
      false);
  grown("gear 4", gear<4>{});
  grown("gear 2 over KCVT", gear<2>{{.rank = 1, .grown_rank = 16, .outliers = 0.2f, .kcvt = true}});
  grown("gear_l 8", gear_l<8>{{.rank = 0, .grown_rank = 3}});
  runs("dense f16", [](extents const&) { return dense<f16>{}; });
  runs("dense bf16", [](extents const&) { return dense<bf16>{}; });
  slices<f16>("a slice of f16");
  slices<bf16>("a slice of bf16");
  std::printf(failures == 0 ? "both backends agree\n" : "%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
