// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// What teams of warps encode is what the CPU encodes, byte for byte, and nothing beside it: parts
// of blocks, tokens coded again, widths that no warp divides. Exits 77 (skipped) without a GPU.

#include "on_device.hpp"

#include <kvslim/codec/centred_rows.cuh>
#include <kvslim/codec/turbo_rows.cuh>

#include <algorithm>

using namespace on_device;
using namespace kvslim;

namespace {

/// Tokens that a site of `first` has; no more than fit a block of 32 where blocks are as large.
struct piece {
  index_t first, n;
};

template <int Warps, class Codec>
__global__ void encode_kernel(Codec codec, float* rows, site at, std::byte* block) {
  detail::encode_by<detail::warp_team<Warps>, warp_codec<Codec>>(codec, rows, at, block);
}

/// Rows of every size: some are 0, too small to have a length, or one channel; neighbours tie.
std::vector<float> make_rows(index_t n, index_t dim, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> rows;
  for (index_t t = 0; t < n; ++t) {
    int const kind = static_cast<int>((t + static_cast<index_t>(seed)) % 11);
    float const size = std::ldexp(1.0f, static_cast<int>(engine() % 20) - 12);
    for (index_t d = 0; d < dim; ++d) {
      float const x = normal(engine) * size;
      rows.push_back(kind == 3   ? 0.0f
                     : kind == 5 ? 1e-30f * x
                     : kind == 7 ? (d == 3 ? 100.0f : 0.0f)
                     : kind == 9 ? std::round(x / size * 2.0f)
                                 : x);
    }
  }
  return rows;
}

/// What a fit reads.
struct prompt_rows {
  float const* rows;
  index_t dim;
  KVSLIM_HD void operator()(index_t, index_t t, float* out) const {
    for (index_t d = 0; d < dim; ++d) out[d] = rows[t * dim + d];
  }
};

template <class Codec>
void test_encode(Codec const& codec, index_t dim, unsigned seed, char const* name) {
  if (!codec.check(dim)) return check(false, "the codec takes the width", name);
  auto const sizes = codec.sizes(dim, 128);
  bool const blocks = sizes.block_tokens == 32;
  std::vector<piece> const of_block{{0, 32}, {0, 1},  {5, 7},  {31, 1},
                                    {3, 29}, {7, 20}, {0, 32}, {14, 1}},
      of_rows{{0, 1}, {0, 7}, {0, 33}, {0, 100}, {0, 32}};
  // Padding of V's last unit: only what writes whole words clears it.
  auto const bytes = static_cast<std::size_t>(sizes.block_bytes * (blocks ? 1 : 100));
  std::byte const before{static_cast<unsigned char>(dim % 32 == 0 ? 0xa5 : 0)};
  std::vector<std::byte> stored(bytes, before);
  device<std::byte> const dstored(stored);
  std::vector<std::byte> state(static_cast<std::size_t>(sizes.state_bytes) + 16);
  if constexpr (Codec::traits.fitted) {
    auto const prompt = make_rows(50, dim, seed + 100);
    std::vector<float> scratch(static_cast<std::size_t>(sizes.fit_floats));
    codec.fit(prompt_rows{prompt.data(), dim}, 50, site{.n = 50, .dim = dim, .held = 50},
              state.data(), scratch.data());
  }
  device<std::byte> const dstate(state);
  for (auto const& [first, n] : blocks ? of_block : of_rows) {
    auto rows = make_rows(n, dim, ++seed);
    device<float> const drows(rows);
    site at{.first = first, .n = n, .dim = dim, .state = state.data()};
    codec.encode(rows.data(), at, stored.data());
    at.state = dstate.get();
    constexpr int most = warp_codec<Codec>::warps;
    auto const kernel = seed % 2 == 0 ? encode_kernel<most, Codec> : encode_kernel<1, Codec>;
    check(detail::launch(kvslim::cuda{}, {1, (seed % 2 == 0 ? most : 1) * 32}, kernel, codec,
                         drows.get(), at, dstored.get())
              .ok(),
          "encode runs", name);
    auto const got = dstored.host();
    if (same(got, stored)) continue;
    auto const where = std::mismatch(got.begin(), got.end(), stored.begin()).first - got.begin();
    std::printf("  %s: %d channels, tokens [%d, %d): byte %d of %d\n", name, static_cast<int>(dim),
                static_cast<int>(first), static_cast<int>(first + n), static_cast<int>(where),
                static_cast<int>(bytes));
    return check(false, "the same bytes", name);
  }
}

/// A coordinate's code and level, a thread each.
struct found_levels {
  float const* x;
  std::uint32_t* codes;
  float* levels;
  __device__ void operator()(index_t i) const {
    auto const y = detail::upper_turbo_levels<4>(128, turbo_levels::exact).nearest(x[i]);
    codes[i] = y.code;
    levels[i] = y.level;
  }
};
/// On both sides of every boundary between levels and on it.
void test_turbo_levels() {
  float table[detail::most_turbo_levels];
  detail::fill_turbo_levels<4>(128, turbo_levels::exact, 1.0f, table);
  std::vector<float> x{0.0f, -0.0f, 1e-40f, -1e-40f, 100.0f, -100.0f, INFINITY, -INFINITY, NAN};
  for (int i = 1; i < detail::most_turbo_levels; ++i) {
    float const y = detail::between_turbo_levels(table, i);
    for (float const at : {y, std::nextafter(y, 9.0f), std::nextafter(y, -9.0f)}) x.push_back(at);
  }
  std::vector<std::uint32_t> codes;
  std::vector<float> levels;
  for (float const y : x) {
    std::uint32_t c = 0;
    for (int i = 1; i < detail::most_turbo_levels; ++i)
      c += detail::between_turbo_levels(table, i) < y ? 1u : 0u;
    codes.push_back(c);
    levels.push_back(table[c]);
  }
  device<float> const dx(x), dlevels(x.size());
  device<std::uint32_t> const dcodes(x.size());
  check(detail::launch_for_each(kvslim::cuda{}, static_cast<index_t>(x.size()),
                                found_levels{dx.get(), dcodes.get(), dlevels.get()})
            .ok(),
        "the search runs", "turbo levels");
  check(same(dcodes.host(), codes) && same(dlevels.host(), levels), "levels", "turbo levels");
}

/// 36 * 2, 40 * 2, 12 * 8, 28 * 4 and powers of two; V of 20 has half a unit.
constexpr index_t widths[] = {64, 72, 80, 96, 112, 128, 256, 1024};

template <bool Keys, int Bits, turbo_form Form>
void test_turbo(char const* name) {
  unsigned seed = Bits;
  for (index_t const dim : widths)
    for (auto const length : {turbo_length::row, turbo_length::decoded, turbo_length::least}) {
      ++seed;
      test_encode(turbo_rows<Keys, Bits, Form>{.seed = seed % 3, .length = length}, dim, seed,
                  name);
    }
  if constexpr (!Keys) test_encode(turbo_rows<Keys, Bits, Form>{}, 20, seed + 1, name);
}

template <bool Keys, int Bits>
void test_centred(char const* name) {
  unsigned seed = Bits;
  for (index_t const dim : widths) {
    ++seed;
    test_encode(centred_rows<Keys, Bits>{.seed = seed % 3}, dim, seed, name);
  }
  for (index_t const dim : {20, 2}) {
    ++seed;
    if constexpr (!Keys) test_encode(centred_rows<Keys, Bits>{}, dim, seed, name);
  }
}

}  // namespace

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: no CUDA device\n");
    return 77;
  }
  test_turbo_levels();
  test_turbo<true, 1, turbo_form::inner>("turbo_key, signs alone");
  test_turbo<true, 2, turbo_form::mse>("turbo_key, 2 bits");
  test_turbo<true, 3, turbo_form::mse>("turbo_key, 3 bits");
  test_turbo<true, 3, turbo_form::inner>("turbo_key, 3 bits, inner");
  test_turbo<true, 4, turbo_form::mse>("turbo_key, 4 bits");
  test_turbo<true, 5, turbo_form::inner>("turbo_key, 5 bits, inner");
  test_turbo<false, 1, turbo_form::mse>("turbo_value, 1 bit");
  test_turbo<false, 2, turbo_form::mse>("turbo_value, 2 bits");
  test_turbo<false, 3, turbo_form::mse>("turbo_value, 3 bits");
  test_turbo<false, 3, turbo_form::inner>("turbo_value, 3 bits, inner");
  test_turbo<false, 4, turbo_form::inner>("turbo_value, 4 bits, inner");
  test_centred<true, 1>("centred_key, 1 bit");
  test_centred<true, 5>("centred_key, 5 bits");
  test_centred<true, 8>("centred_key, 8 bits");
  test_centred<false, 2>("centred_value, 2 bits");
  test_centred<false, 3>("centred_value, 3 bits");
  test_centred<false, 7>("centred_value, 7 bits");
  check(cudaDeviceSynchronize() == cudaSuccess, "the device is well", "all");
  std::printf(failures == 0 ? "all bytes agree\n" : "%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
