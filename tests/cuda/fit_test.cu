// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// What blocks of threads fit to a prompt, and what teams of warps encode with it: outliers byte for
// byte as on the CPU; directions, coordinates and coefficients, which are sums, within rounding.
// Exits 77 (skipped) without a GPU.

#include "both.hpp"

#include <kvslim/codec/codebook_key.cuh>
#include <kvslim/codec/codebook_value.cuh>
#include <kvslim/codec/latent.cuh>
#include <kvslim/codec/low_rank_sum.cuh>
#include <kvslim/codec/outlier_key.cuh>
#include <kvslim/codec/outlier_value.cuh>
#include <kvslim/codec/rebuilt_key.cuh>
#include <kvslim/codec/shared_direction.cuh>
#include <kvslim/run/device_row.cuh>

#include <algorithm>

using namespace on_device;
using namespace kvslim;

namespace {

constexpr int fit_threads = 256;

// A GPU contracts products and sums, a fitted threshold may be another float, and a code next to
// it.
#if defined(KVSLIM_DETAIL_CLUSTER)
constexpr double fitted_levels = 0.0;
#else
constexpr double fitted_levels = 0.3;
#endif

/// Tokens of a prompt [tokens, members, dim], read one by one or by all threads of a block, `batch`
/// at a time.
struct prompt_rows {
  float const* rows;
  index_t dim, members, batch;
  float* staged;

  KVSLIM_HD void operator()(index_t member, index_t t, float* out) const {
    for (index_t d = 0; d < dim; ++d) out[d] = rows[(t * members + member) * dim + d];
  }
  template <class Use>
  __device__ void by_block(index_t begin, index_t end, Use const& use) const {
    index_t const width = members * dim;
    for (index_t first = begin; first < end; first += batch) {
      index_t const n = detail::min(batch, end - first);
      for (index_t i = threadIdx.x; i < n * width; i += fit_threads)
        staged[i] = rows[first * width + i];
      __syncthreads();
      use(staged, first, n);
      __syncthreads();
    }
  }
};

template <class Codec>
__global__ void fit_kernel(Codec codec, prompt_rows read, index_t tokens, site at, std::byte* state,
                           float* scratch) {
  if constexpr (Codec::traits.fitted)
    warp_codec<Codec>::fit(codec, read, tokens, at, state, scratch);
}
template <int Warps, class Codec>
__global__ void encode_kernel(Codec codec, float* rows, site at, std::byte* block) {
  detail::encode_by<detail::warp_team<Warps>, warp_codec<Codec>>(codec, rows, at, block);
}

/// Few directions hold most of a token, all of it without noise; a channel and a token are loud.
std::vector<float> make_rows(index_t n, index_t dim, unsigned seed, float noise = 0.02f) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  constexpr index_t directions = 6;
  std::vector<float> basis, rows;
  for (index_t i = 0; i < directions * dim; ++i) basis.push_back(normal(engine));
  for (index_t t = 0; t < n; ++t) {
    float share[directions];
    float size = t == 5 ? 9.0f : 1.0f;
    for (float& x : share) x = normal(engine) * (size *= 0.6f);
    for (index_t d = 0; d < dim; ++d) {
      float x = noise * normal(engine) + (d == 3 ? 4.0f : 0.0f);
      for (index_t i = 0; i < directions; ++i)
        x += share[i] * basis[static_cast<std::size_t>(i * dim + d)];
      rows.push_back(x);
    }
  }
  return rows;
}

/// How far what the two stand for lies apart, as a share of the largest number.
template <class Codec>
double apart(Codec const& codec, site at, std::byte const* a, std::byte const* state_a,
             std::byte const* b, std::byte const* state_b) {
  double most = 1e-30, far = 0.0;
  index_t const end = at.first + at.n, block = codec.sizes(at.dim, at.n).block_tokens,
                bytes = codec.sizes(at.dim, at.n).block_bytes;
  for (index_t t = at.first; t < end; ++t)
    for (index_t i = 0; i < detail::group_of(codec).size() * at.dim; ++i) {
      index_t const d = i % at.dim;
      site one = at;
      one.member = i / at.dim;
      one.first = t % block;
      one.n = 1;
      one.token = at.token + t - at.first;
      one.positions.first += static_cast<std::int32_t>(t - at.first);
      one.state = state_a;
      auto const x = static_cast<double>(codec.decode(a + t / block * bytes, one, d));
      one.state = state_b;
      auto const y = static_cast<double>(codec.decode(b + t / block * bytes, one, d));
      most = std::max(most, std::abs(x));
      far = std::max(far, std::abs(x - y));
    }
  return far / most;
}

/// Fits and encodes a prompt of `blocks` blocks, and one block that comes later. `within`: 0 asks
/// for the same bytes.
template <class Codec>
void test_codec(Codec const& codec, index_t dim, index_t blocks, double within, char const* name,
                std::vector<float> const& table = {}, float noise = 0.02f) {
  if (!codec.check(dim)) return check(false, "the codec takes the width", name);
  auto const sizes = codec.sizes(dim, 0);
  index_t const members = detail::group_of(codec).size(), width = members * dim,
                block = detail::round_up(32, sizes.block_tokens), n = blocks * block;
  auto const prompt = make_rows(n + block, width, static_cast<unsigned>(dim), noise);
  device<float> const dprompt(prompt), dtable(table.empty() ? std::vector<float>(1) : table);
  std::vector<std::byte> state(static_cast<std::size_t>(sizes.state_bytes) + 16);
  device<std::byte> const dstate(state), of_host(state.size());
  device<float> const dscratch(static_cast<std::size_t>(sizes.fit_floats) + 1),
      dstaged(static_cast<std::size_t>(30 * width));
  site whole{.n = n, .dim = dim, .table = table.data(), .held = n};
  if constexpr (Codec::traits.fitted) {
    std::vector<float> scratch(static_cast<std::size_t>(sizes.fit_floats) + 1);
    codec.fit(prompt_rows{prompt.data(), dim, members, 0, nullptr}, n, whole, state.data(),
              scratch.data());
    check(detail::launch(kvslim::cuda{}, {1, fit_threads}, fit_kernel<Codec>, codec,
                         prompt_rows{dprompt.get(), dim, members, 30, dstaged.get()}, n, whole,
                         dstate.get(), dscratch.get())
              .ok(),
          "fit runs", name);
    if (within == 0.0) check(same(dstate.host(), state), "the same state", name);
  }
  auto const fitted = dstate.host();
  check(
      cudaMemcpy(of_host.get(), state.data(), state.size(), cudaMemcpyHostToDevice) == cudaSuccess,
      "the state is copied", name);
  for (index_t b = 0; b <= blocks; ++b) {
    std::vector<float> rows;  // [members, block, dim]
    for (index_t m = 0; m < members; ++m)
      for (index_t i = 0; i < block * dim; ++i)
        rows.push_back(prompt[static_cast<std::size_t>(((b * block + i / dim) * members + m) * dim +
                                                       i % dim)]);
    auto const bytes = static_cast<std::size_t>(sizes.block_bytes * (block / sizes.block_tokens));
    std::vector<std::byte> stored(bytes);
    device<std::byte> const mine(stored), theirs(stored);
    device<float> const first(rows), second(rows);
    site at{.n = block,
            .dim = dim,
            .token = b * block,
            .positions = {nullptr, static_cast<std::int32_t>(b * block)},
            .state = state.data(),
            .table = table.data(),
            .held = n + block};
    for (index_t t = 0; t < block; t += sizes.block_tokens) {  // the CPU's are single blocks
      site part = at;
      part.n = sizes.block_tokens;
      part.token = at.token + t;
      part.positions.first += static_cast<std::int32_t>(t);
      std::vector<float> of_part;
      for (index_t m = 0; m < members; ++m)
        of_part.insert(of_part.end(), rows.begin() + (m * block + t) * dim,
                       rows.begin() + (m * block + t + part.n) * dim);
      codec.encode(of_part.data(), part,
                   stored.data() + t / sizes.block_tokens * sizes.block_bytes);
    }
    at.table = dtable.get();
    constexpr int most = warp_codec<Codec>::warps;
    // With what was fitted on the CPU, by a team; with what was fitted here, by a warp.
    at.state = of_host.get();
    bool ran = detail::launch(kvslim::cuda{}, {1, most * 32}, encode_kernel<most, Codec>, codec,
                              first.get(), at, mine.get())
                   .ok();
    at.state = dstate.get();
    ran = detail::launch(kvslim::cuda{}, {1, 32}, encode_kernel<1, Codec>, codec, second.get(), at,
                         theirs.get())
              .ok() &&
          ran;
    check(ran, "encode runs", name);
    if (within == 0.0) {
      check(same(mine.host(), stored) && same(theirs.host(), stored), "the same bytes", name);
      continue;
    }
    at.table = table.data();
    auto const a = mine.host(), c = theirs.host();
    double const far =
        std::max(apart(codec, at, stored.data(), state.data(), a.data(), state.data()),
                 apart(codec, at, stored.data(), state.data(), c.data(), fitted.data()));
    if (!(far <= within))
      std::printf("  %s: block %d of %d channels is %.1e apart\n", name, static_cast<int>(b),
                  static_cast<int>(dim), far);
    check(far <= within, "the same numbers but for rounding", name);
  }
}

/// A record of codebook_key: levels to choose by and to read as, thresholds that some tokens pass.
std::vector<float> make_record(int bits, index_t dim) {
  std::vector<float> table;
  for (int twice = 0; twice < 2; ++twice)
    for (int i = 0; i < 1 << bits; ++i)
      table.push_back(2.0f * static_cast<float>(i) / static_cast<float>((1 << bits) - 1) - 1.0f);
  for (float const end : {-1.0f, 1.0f})
    for (index_t d = 0; d < dim; ++d) table.push_back(end * (1.5f + 0.01f * static_cast<float>(d)));
  return table;
}

/// A prompt fitted and encoded by compress: by as many blocks as rows and directions are worth.
template <class Policy>
void test_prompt(extents const& e, Policy const& policy, char const* name) {
  stored s(make_plan(policy, e, {.append_tokens = 8, .positions = true}));
  passed(s.plan.check(), name);
  cells const c(e, {.positions = true}, 5);
  s.compress(c, evidence<>{}, evidence<>{}, name);
  s.same(name, false, false);
}

}  // namespace

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: no CUDA device\n");
    return 77;
  }
  for (index_t const dim : {80, 128}) {
    test_codec(outlier_key<4>{{32, 64}, 0.05f}, dim, 2, 0.0, "outlier_key");
    test_codec(outlier_key<2>{{32, 96}, 0.1f, true}, dim, 2, 0.0,
               "outlier_key, the prompt's ranges");
    test_codec(outlier_value<4>{.codes = {16}, .tokens = 64, .outliers = 0.05f}, dim, 2, 0.0,
               "outlier_value");
    test_codec(outlier_value<2>{.codes = {16}, .tokens = 20, .outliers = 0.05f}, dim, 2, 0.0,
               "outlier_value of short blocks");
    test_codec(codebook_key<3>{.outliers = 0.02f}, dim, 2, 0.0, "codebook_key, 3 bits",
               make_record(3, dim));
    test_codec(codebook_key<3, codebook_from::prompt>{.sinks = 2, .outliers = 0.02f}, dim, 3,
               fitted_levels, "codebook_key of the prompt");
    test_codec(codebook_value<4, codebook_from::prompt>{.sinks = 3, .outliers = 0.03f}, dim, 3,
               fitted_levels, "codebook_value of the prompt");
    test_codec(codebook_key<4>{.outliers = 0.0f}, dim, 1, 0.0, "codebook_key, 4 bits",
               make_record(4, dim));
    constexpr double sums = 5e-4;
    test_codec(latent<dense_key<f16>>{.rank = 7}, dim, 3, sums, "latent, dense");
    test_codec(latent<dense_value<f16>>{.rank = 40}, dim, 3, sums, "latent of V, dense");
    test_codec(latent<token_key<8>>{.rank = 32}, dim, 2, 2e-2, "latent, 8 bits");
    test_codec(latent<dense_key<f16>, basis_from::table_with_mean, false, float>{.rank = 9}, dim, 2,
               sums, "latent of a table with a mean", make_rows(10, dim, 7));
    test_codec(latent<dense_key<f16>>{.rank = 50}, dim, 2, sums, "latent, directions to spare", {},
               0.0f);
    row_group const pair{1, 2}, four{2, 2};
    test_codec(latent<dense_key<f16>, basis_from::prompt, true>{.rank = 24, .rows = four}, dim, 2,
               sums, "latent of a group");
    test_codec(latent<dense_value<f16>, basis_from::prompt, true>{.rank = 9, .rows = pair}, dim, 2,
               sums, "latent of a group's V");
    test_codec(
        latent<channel_key<4>, basis_from::table, true, float>{
            .base = {32, 32}, .rank = 44, .rows = pair, .bases = 2},
        dim, 2, 0.1, "latent of a group, 4 bits", make_rows(88, dim, 7));
    test_codec(
        rebuilt_key<latent<dense_key<f16>, basis_from::prompt, true>>{{.rank = 13, .rows = pair},
                                                                      {}},
        dim, 2, sums, "latent of a group before RoPE");
    test_codec(rebuilt_key<codebook_key<4>>{{.outliers = 0.02f}, {.dims = 32, .interleaved = true}},
               dim, 2, 0.1, "codebook_key before RoPE", make_record(4, dim));
    test_codec(
        shared_direction<dense_key<f16>, detail::form_kind::shared_key>{{0.05f, 0.6f, 64, pair}},
        dim, 2, 5e-4, "shared_direction");
    using keys = outlier_key<4>;
    using values = token_value<2>;
    test_codec(low_rank_sum<keys>{.base = {{32, 64}, 0.05f}}, dim, 3, 2e-3, "low_rank_sum of K");
    test_codec(low_rank_sum<keys>{.base = {{32, 64}, 0.05f, true}, .rank = 2}, dim, 3, 2e-3,
               "low_rank_sum of K, the prompt's ranges");
    test_codec(low_rank_sum<values>{.base = {16}, .rank = 3}, dim, 3, 2e-3, "low_rank_sum of V");
  }
  extents const e{1, 8, 150, 48};
  row_group const all{1, 8};
  xkv<> const wide{{.rows = all, .key_rank = 100, .value_rank = 70, .residual = 3, .rounds = 3}};
  test_prompt(e, wide, "xkv of many directions");
  test_prompt(e,
              codec_pair{latent<dense_key<f16>>{.rank = 45, .rounds = 2},
                         latent<dense_value<f16>>{.rank = 33, .rounds = 2}},
              "latents of every row");
  test_prompt({1, 8, 5, 48}, wide, "xkv, fewer tokens than rows");
  test_prompt(
      e,
      pipeline{shared{knorm{}, all}, top_k{{.budget = 60, .sinks = 4, .recent = 8}}, d2o{}, wide},
      "xkv of merged tokens");
  check(cudaDeviceSynchronize() == cudaSuccess, "the device is well", "all");
  std::printf(failures == 0 ? "all agree\n" : "%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
