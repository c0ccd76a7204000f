// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// MatryoshkaKV's matrices and what attention over the first coordinates gives are the authors', at
// any rank of the same tables.

#include "reference/matryoshkakv.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/low_rank.hpp"

#include <string>

using namespace kvslim;
using namespace low_rank;

namespace {

/// A head's part of the golden file's tables.
reference::principal given(golden const& g, std::string const& half, index_t h) {
  reference::principal out;
  out.directions.resize(16);
  for (index_t d = 0; d < 16; ++d) {
    out.mean.push_back(g[half + "_mean"][at(h * 16 + d)]);
    for (index_t j = 0; j < 16; ++j)
      out.directions[at(j)].push_back(g[half + "_directions"][at((h * 16 + d) * 16 + j)]);
  }
  return out;
}
std::vector<float> table_of(std::vector<reference::principal> const& heads) {
  std::vector<float> out;
  for (auto const& head : heads) {
    for (double const x : head.mean) out.push_back(static_cast<float>(x));
    for (auto const& row : head.directions)
      for (double const x : row) out.push_back(static_cast<float>(x));
  }
  return out;
}
std::vector<reference::principal> any(index_t count, index_t dim) {
  std::vector<reference::principal> out;
  for (index_t i = 0; i < count; ++i) {
    out.push_back({{}, orthonormal(dim, dim, static_cast<unsigned>(i + 1))});
    for (index_t d = 0; d < dim; ++d)
      out.back().mean.push_back(0.3 * static_cast<double>((d * 7 + i) % 5 - 2));
  }
  return out;
}
data::cache prompt(golden const& g) {
  data::cache c({.kv_heads = 2, .tokens = 24, .head_dim = 16});
  c.k = g.floats("k");
  c.v = g.floats("v");
  return c;
}
std::vector<reference::principal> both(golden const& g, std::string const& half) {
  return {given(g, half, 0), given(g, half, 1)};
}

}  // namespace

TEST_CASE("matryoshkakv's matrices start as the authors' do", "[golden][matryoshkakv]") {
  golden const g("matryoshkakv");
  for (std::string const half : {"key", "value"})
    for (index_t h : {0, 1}) {
      auto const theirs = given(g, half, h);
      auto const ours = reference::principal_components(
          side_by_side(g.floats(half + "_features"), {.tokens = 60}, 16, {h}));
      for (std::size_t d = 0; d < 16; ++d)
        CHECK(std::abs(ours.mean[d] - theirs.mean[d]) <= tolerance::accumulated);
      // Signs are free, and the smallest directions are near ties in float.
      for (std::size_t j = 0; j < 8; ++j) {
        double const along =
            std::inner_product(ours.directions[j].begin(), ours.directions[j].end(),
                               theirs.directions[j].begin(), 0.0);
        CHECK(std::abs(along) >= 1 - tolerance::f16_storage);
      }
    }
}

TEST_CASE("matryoshkakv attends as the authors' layer does, at any rank",
          "[golden][matryoshkakv]") {
  golden const g("matryoshkakv");
  auto const c = prompt(g);
  auto const keys = both(g, "key"), values = both(g, "value");
  auto const key_table = table_of(keys), value_table = table_of(values);
  auto const q = g.floats("q");
  for (auto const& [key_rank, value_rank] : {std::pair{16, 16}, {12, 10}, {5, 7}}) {
    CAPTURE(key_rank, value_rank);
    matryoshkakv<float> const policy{
        {.kv_heads = 2, .key_rank = key_rank, .value_rank = value_rank}};
    bound const room(policy, c, {.key = key_table.data(), .value = value_table.data()});
    auto const got = attended(room.packed, q, 4, 24);
    auto const& out = g["out_" + std::to_string(key_rank) + "_" + std::to_string(value_rank)];
    for (index_t h = 0; h < 4; ++h) {
      auto const expected = reference::matryoshkakv(
          side_by_side(q, {.kv_heads = 4, .tokens = 24}, 16, {h}),
          side_by_side(c.k, c.shape, 16, {h / 2}), side_by_side(c.v, c.shape, 16, {h / 2}),
          keys[at(h / 2)], values[at(h / 2)], at(key_rank), at(value_rank));
      auto mine = expected, his = expected;
      for (std::size_t t = 0; t < 24; ++t)
        for (std::size_t d = 0; d < 16; ++d) {
          mine[t][d] = got[t][at(h) * 16 + d];
          his[t][d] = out[t * 64 + at(h) * 16 + d];
        }
      CHECK(norm(minus(his, expected)) <= tolerance::attend * norm(expected));
      CHECK(norm(minus(mine, expected)) <= tolerance::attend * norm(expected));
    }
    if (key_rank == 16)
      for (bool const half : {true, false}) {
        auto const all = side_by_side(half ? c.k : c.v, c.shape, 16, {0, 1});
        CHECK(norm(minus(room.held(half, {0, 1}), all)) <= tolerance::accumulated * norm(all));
      }
  }
}

TEST_CASE("matryoshkakv of a rank holds the first coordinates of a larger one", "[matryoshkakv]") {
  data::cache const c({.kv_heads = 2, .tokens = 40, .head_dim = 32});
  auto const table = table_of(any(2, 32));
  codec_tables const tables{.key = table.data(), .value = table.data()};
  matryoshkakv<> const small{{.kv_heads = 2, .key_rank = 7, .value_rank = 9}},
      large{{.kv_heads = 2, .key_rank = 20, .value_rank = 32}};
  bound const few(small, c, tables), more(large, c, tables);
  for (index_t const r : {0, 1})
    for (bool const keys : {true, false})
      for (index_t const t : {0, 17, 39}) {
        auto const numbers = [&](auto const& room) {
          std::vector<float> out;
          auto const read = [&](auto const& codec, std::byte const* block, site const& where) {
            if constexpr (requires { codec.coordinate(block, where, 0); })
              for (index_t j = 0; j < (keys ? 7 : 9); ++j)
                out.push_back(codec.coordinate(block, where, j));
          };
          if (keys)
            room.packed.keys(r).visit(t, 1, read);
          else
            room.packed.values(r).visit(t, 1, read);
          return out;
        };
        auto const first = numbers(few);
        CHECK(first.size() == (keys ? 7u : 9u));
        CHECK(first == numbers(more));
      }
}

TEST_CASE("matryoshkakv lives, beside exact tokens that know no mean", "[matryoshkakv]") {
  each_layered([](data::shape const& shape) {
    data::cache const c(shape);
    auto const keys = table_of(any(2 * shape.kv_heads, shape.head_dim)),
               values = table_of(any(2 * shape.kv_heads, shape.value_width()));
    lives(matryoshkakv<>{{.layers = 2,
                          .kv_heads = shape.kv_heads,
                          .key_rank = 13,
                          .value_rank = 11,
                          .residual = 4}},
          c, {.key = keys.data(), .value = values.data()}, 4);
  });
}

TEST_CASE("matryoshkakv stores so many numbers, and no table", "[matryoshkakv]") {
  stores_ranks<matryoshkakv<>>();
}

TEST_CASE("matryoshkakv refuses what it cannot store and reads back what it wrote",
          "[matryoshkakv]") {
  auto const refused = [](matryoshkakv<>::options const& o) {
    return !matryoshkakv<>{o}.key_codec().check(64).ok() ||
           !matryoshkakv<>{o}.value_codec().check(64).ok();
  };
  CHECK_FALSE(refused({}));
  CHECK(refused({.key_rank = 65}));
  CHECK(refused({.value_rank = 0}));
  CHECK(refused({.layers = 300}));  // 2400 bases
  CHECK(refused({.residual = -1}));
  matryoshkakv<> const some{{.layers = 3, .kv_heads = 4, .key_rank = 40, .residual = 9}};
  reads_back(some.key_codec(), {0, 1, 2, 3, 4, 5, 6});
  reads_back(some.value_codec(), {0, 1, 2, 3, 4, 5, 6});
  using narrow = latent<dense_key<f16>, basis_from::table>;
  CHECK_FALSE(narrow{{}, 8, 0, {}, 8, 1, 7}.check(64).ok());  // 8 of 7 directions
  CHECK_FALSE(narrow{{}, 8, 0, {}, 8, 1, -2}.check(64).ok());
  CHECK(narrow{{}, 8, 0, {}, 8, 1, 9}.check(64).ok());
  CHECK_FALSE(latent<dense_key<f16>>{{}, 8, 0, {}, 8, 1, 9}.check(64).ok());  // no table
}
