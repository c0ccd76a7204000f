// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Outliers and the codes of the rest are the same bytes on every path, and what codes miss is what
// decoding says.

#include "support/catch.hpp"
#include "support/paths.hpp"
#include "support/stored.hpp"

#include <kvslim/codec/outlier_key.hpp>
#include <kvslim/codec/outlier_value.hpp>

using namespace kvslim;

namespace {

/// Rows of one kind: normal, many equal values, zeros of both signs, all equal, large.
std::vector<float> sample(int kind, index_t tokens, index_t dim) {
  auto x = data::rows(tokens, dim, 1.0f, 4.0f, 11);
  for (std::size_t i = 0; i < x.size(); ++i) switch (kind) {
      case 1:
        x[i] = std::round(x[i]);
        break;
      case 2:
        x[i] = i % 3 == 0 ? -0.0f : i % 7 == 0 ? x[i] : 0.0f;
        break;
      case 3:
        x[i] = -2.5f;
        break;
      case 4:
        x[i] *= 1e4f;
        break;
      default:
        break;
    }
  return x;
}

/// A block of `tokens` tokens in cleared memory.
template <class Codec>
void check(Codec const& codec, index_t tokens, index_t dim) {
  REQUIRE(codec.check(dim).ok());
  auto const z = codec.sizes(dim, tokens);
  REQUIRE(z.block_tokens == tokens);
  std::vector<float> ranges(static_cast<std::size_t>(z.state_bytes / 4 + 1), 0.0f);
  if (z.state_bytes > 0) {
    auto* const state = static_cast<std::byte*>(static_cast<void*>(ranges.data()));
    auto const stored = detail::parameters_at<f16>(state, dim);
    for (index_t d = 0; d < dim; ++d)
      stored.set(d,
                 {from_float<f16>(0.25f), from_float<f16>(-2.0f - 0.01f * static_cast<float>(d))});
  }
  site const at{.n = tokens,
                .dim = dim,
                .state = static_cast<std::byte const*>(static_cast<void const*>(ranges.data()))};
  for (int kind = 0; kind < 5; ++kind) {
    INFO("dim " << dim << ", kind " << kind);
    auto const x = sample(kind, tokens, dim);
    std::vector<std::byte> plain;
    isa::path const before = isa::current();
    isa::use(isa::path::portable);
    std::vector<std::byte> block(static_cast<std::size_t>(z.block_bytes), std::byte{0});
    codec.encode(x.data(), at, block.data());
    isa::use(before);
    plain = block;
    data::on_each_path([&](isa::path) {
      std::fill(block.begin(), block.end(), std::byte{0});
      codec.encode(x.data(), at, block.data());
      REQUIRE(block == plain);
      auto rest = x;
      codec.take_off(block.data(), at, rest.data());
      double worst = 0;
      for (index_t t = 0; t < tokens; ++t)
        for (index_t d = 0; d < dim; ++d) {
          auto one = at;
          one.first = t;
          one.n = 1;
          auto const i = static_cast<std::size_t>(t * dim + d);
          double const stored = static_cast<double>(codec.decode(block.data(), one, d)),
                       value = static_cast<double>(x[i]);
          double const error = std::abs(static_cast<double>(rest[i]) - (value - stored));
          worst = std::max(worst, error / (1.0 + std::abs(value) + std::abs(stored)));
        }
      CHECK(worst <= data::roundings(3));
    });
  }
}

template <int Bits>
void check_bits() {
  for (index_t const dim : {4, 20, 32, 80, 128, 256, 300})
    for (float const share : {0.0f, 0.02f, 0.1f, 0.2f, 0.5f}) {
      INFO("share " << share);
      check(outlier_key<Bits>{{32, 64}, share}, 64, dim);
      check(outlier_key<Bits>{{64, 64}, share, true}, 64, dim);
      check(outlier_value<Bits>{{}, 64, share}, 64, dim);
      check(outlier_value<Bits>{{dim % 32 == 0 ? 32 : 4}, 4, share}, 4, dim);
    }
}

}  // namespace

TEST_CASE("outliers are stored alike on every path", "[outliers]") {
  check_bits<2>();
  check_bits<4>();
  check_bits<5>();
  check(outlier_key<4>{{16, 320}, 0.05f}, 320, 16);
  check(outlier_key<4>{{48, 96}, 0.05f}, 96, 64);
  check(outlier_key<2, f16, float>{{32, 32}, 0.1f}, 32, 64);
  check(outlier_value<4, f16, float>{{16}, 32, 0.1f}, 32, 64);
}
