// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Coordinates along directions, on every path of this processor: the bits of the plain loop.

#include "support/catch.hpp"
#include "support/paths.hpp"

#include <kvslim/kvslim.hpp>

#include <random>

using namespace kvslim;

namespace {

std::vector<float> numbers(index_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> out;
  for (index_t i = 0; i < n; ++i) out.push_back(i % 97 == 5 ? 0.0f : normal(engine));
  return out;
}

/// Sixteen partial sums, folded in halves; every product is rounded by itself.
float plain_sum(float const* x, float const* y, index_t dim) {
  float part[16] = {};
  for (index_t d = 0; d < dim; ++d) {
    float const volatile product = x[d] * y[d];
    part[d % 16] += product;
  }
  for (index_t half = 8; half > 0; half /= 2)
    for (index_t c = 0; c < half; ++c) part[c] += part[half + c];
  return part[0];
}

/// What a codec stores of n tokens of so many members, along `table_rows` directions each.
template <class Codec>
void stores_alike(Codec const& codec, index_t dim, index_t n, index_t members) {
  INFO("head_dim " << dim << ", rank " << codec.rank << ", members " << members);
  auto const rows = numbers(members * n * dim, 1);
  auto const table = numbers(members * codec.table_rows(dim) * dim, 2);
  auto const z = codec.sizes(dim, n);
  site at{};
  at.n = n;
  at.dim = dim;
  at.table = table.data();
  std::vector<std::byte> wanted;
  data::on_each_path([&](isa::path) {
    auto copy = rows;
    auto const blocks = static_cast<std::size_t>((n + z.block_tokens - 1) / z.block_tokens);
    std::vector<std::byte> stored(blocks * static_cast<std::size_t>(z.block_bytes));
    codec.encode(copy.data(), at, stored.data());
    if (wanted.empty()) wanted = stored;
    CHECK(stored == wanted);
  });
}

}  // namespace

TEST_CASE("coordinates are the same bits on every path", "[isa][encode][latent]") {
  for (index_t const dim : {16, 48, 80, 128, 192})
    for (index_t const rank : {1, 2, 7, 64})
      for (index_t const n : {1, 3, 4, 9}) {
        INFO("head_dim " << dim << ", rank " << rank << ", tokens " << n);
        auto const x = numbers(n * dim, 3), basis = numbers(rank * dim, 4);
        std::vector<float> wanted;
        for (index_t i = 0; i < n; ++i)
          for (index_t j = 0; j < rank; ++j)
            wanted.push_back(0.5f + plain_sum(x.data() + i * dim, basis.data() + j * dim, dim));
        data::on_each_path([&](isa::path path) {
          std::vector<float> out(wanted.size(), 0.5f);
          bool const done =
              detail::project_rows(x.data(), n, dim, basis.data(), rank, out.data(), rank);
          CHECK(done == (path != isa::path::portable));
          if (done) CHECK(out == wanted);
        });
      }
}

TEST_CASE("latents are the same bytes on every path", "[isa][encode][latent]") {
  for (index_t const dim : {64, 80, 128}) {
    for (index_t const rank : {5, 32, 64})  // f16, single rows
      stores_alike(latent<dense_value<f16>, basis_from::table, false, float>{{}, rank}, dim, 11, 1);
    stores_alike(latent<dense_key<f16>, basis_from::table_with_mean, false, float>{{}, 48}, dim, 16,
                 1);
    for (index_t const rank : {96, 300}) {  // of three rows together
      latent<dense_value<f16>, basis_from::table, true, float> codec{{}, rank};
      codec.rows = {1, 3};
      codec.bases = 3;
      if (rank <= 3 * dim) stores_alike(codec, dim, 11, 3);
    }
    palu<4> const of_two{{.kv_heads = 2, .heads = 2, .key_rank = 32, .value_rank = 64}};
    stores_alike(of_two.key_codec().inner, dim, 32, 2);
    stores_alike(of_two.value_codec(), dim, 9, 2);
    cskv<f16, 4> const in_blocks{{.key_rank = 32, .value_rank = 64}};  // four coordinates at a time
    stores_alike(in_blocks.key_codec().inner, dim, 32, 8);
  }
}
