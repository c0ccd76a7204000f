// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/paths.hpp"
#include "support/stored.hpp"

#include <kvslim/codec/slice_of_key.hpp>
#include <kvslim/codec/token_key.hpp>

#include <limits>

using namespace kvslim;

namespace {

/// Weighted sums over [first, first + n) against double, added to what was there; the weights of a
/// run lie `gap` floats behind the last one's.
template <class Key>
void check(data::stored<Key> const& k, index_t dim, index_t first, index_t n, index_t heads,
           index_t gap) {
  INFO(dim << " of " << k.dim << " channels, " << heads << " heads, tokens from " << first << ", "
           << n);
  slice_of_key const v{k.codec, k.dim};
  index_t const apart = heads * run_tokens + gap, runs = (n + run_tokens - 1) / run_tokens;
  auto const p = data::rows(1, runs * apart, 1.0f, 0.0f, 3);
  auto at = k.site(first, n);
  at.dim = dim;
  at.apart = apart;
  std::vector<float> out(static_cast<std::size_t>(heads * dim + 1), 2.0f);
  v.accumulate(k.block(first), at, p.data(), heads, out.data());
  CHECK(out.back() == 2.0f);
  double worst = 0;
  for (index_t h = 0; h < heads; ++h)
    for (index_t d = 0; d < dim; ++d) {
      double sum = 2.0, added = 2.0;
      for (index_t i = 0; i < n; ++i) {
        index_t const w = i / run_tokens * apart + h * run_tokens + i % run_tokens;
        double const product = static_cast<double>(p[static_cast<std::size_t>(w)]) *
                               static_cast<double>(k.value(first + i, d));
        sum += product;
        added += std::abs(product);
      }
      double const got = static_cast<double>(out[static_cast<std::size_t>(h * dim + d)]);
      worst = std::max(worst, std::abs(got - sum) / added);
    }
  CHECK(worst <= data::roundings(static_cast<int>(n) + 3));
}

template <class T>
void check_tiles() {
  constexpr index_t tokens = 165;
  for (index_t const dim : {1, 15, 16, 37, 64, 80, 136, 512})
    for (index_t const more : {0, 24, 64}) {
      auto const x = data::rows(tokens, dim + more);
      data::stored k(dense_key<T>{}, x, dim + more);
      // What no token was written to may hold anything.
      T* const last = reinterpret_cast<T*>(k.bytes.data() + k.offset(tokens - 1));
      for (index_t d = 0; d < k.dim; ++d)
        for (index_t t = tokens % 16; t < 16; ++t)
          last[d * 16 + t] = from_float<T>(std::numeric_limits<float>::quiet_NaN());
      data::on_each_path([&](isa::path) {
        for (index_t const heads : {1, 3, 5, 8}) {
          check(k, dim, 0, 32, heads, 0);
          check(k, dim, 3, 29, heads, 0);
          check(k, dim, 19, 2, heads, 0);
          check(k, dim, 28, 32, heads, 0);
          check(k, dim, 160, 5, heads, 0);
        }
        check(k, dim, 0, 128, 4, 0);
        check(k, dim, 16, 96, 7, 40);
      });
    }
}

}  // namespace

TEST_CASE("V may be read out of keys in tiles", "[slice_of_key]") {
  check_tiles<f16>();
  check_tiles<bf16>();
  check_tiles<float>();
  check_tiles<e4m3>();
}

TEST_CASE("V may be read out of coded keys", "[slice_of_key]") {
  auto const x = data::rows(70, 96);
  data::stored const k(token_key<8>{}, x, 96);
  data::on_each_path([&](isa::path) {
    check(k, 80, 0, 32, 5, 0);
    check(k, 80, 35, 9, 3, 0);
  });
}

TEST_CASE("V has no more channels than the K that it is read out of", "[slice_of_key]") {
  CHECK(slice_of_key{dense_key<f16>{}, 576}.check(512).ok());
  CHECK(slice_of_key{dense_key<f16>{}, 64}.check(80).code == errc::invalid_option);
}
