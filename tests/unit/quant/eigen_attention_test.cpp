// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Eigen Attention's bases and what attention in them gives are the authors'.

#include "reference/eigen_attention.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/low_rank.hpp"

using namespace kvslim;
using namespace low_rank;

namespace {

using given = eigen_attention<float, key_form::as_given>;

/// Columns of a basis [channel][direction], as a reference has them: the first `rank`, one a row.
reference::matrix columns(std::vector<double> const& x, index_t basis, index_t dim, index_t rank) {
  reference::matrix out(at(rank), std::vector<double>(at(dim)));
  for (index_t d = 0; d < dim; ++d)
    for (index_t j = 0; j < rank; ++j) out[at(j)][at(d)] = x[at((basis * dim + d) * dim + j)];
  return out;
}

/// A table of one basis after another.
std::vector<float> table_of(std::vector<reference::matrix> const& bases) {
  std::vector<float> out;
  for (auto const& basis : bases)
    for (auto const& row : basis)
      for (double const x : row) out.push_back(static_cast<float>(x));
  return out;
}
std::vector<reference::matrix> any_bases(index_t count, index_t rank, index_t dim) {
  std::vector<reference::matrix> out;
  for (index_t i = 0; i < count; ++i)
    out.push_back(orthonormal(rank, dim, static_cast<unsigned>(i + 1)));
  return out;
}

/// The golden file's prompt: k and v of 2 heads, before or after RoPE as the view has them.
data::cache prompt(golden const& g) {
  data::cache c({.kv_heads = 2, .tokens = 24, .head_dim = 16});
  c.k = g.floats("k");
  c.v = g.floats("v");
  return c;
}
reference::matrix head(std::vector<float> const& x, index_t h) {
  index_t const tokens = static_cast<index_t>(x.size()) % (24 * 16) == 0 ? 24 : 60;
  return side_by_side(x, {.tokens = tokens}, 16, {h});
}

}  // namespace

TEST_CASE("eigen_attention's bases are the authors'", "[golden][eigen_attention]") {
  golden const g("eigen_attention");
  auto const features = [&](char const* name, index_t h) {
    return side_by_side(g.floats(name), {.tokens = 60}, 16, {h});
  };
  auto const same = [](reference::matrix const& all, reference::matrix const& theirs) {
    auto const ours = reference::projector(reference::eigen_basis(all, theirs.size()));
    CHECK(norm(minus(ours, reference::projector(theirs))) <= tolerance::accumulated * norm(ours));
  };
  auto keys = features("key_features", 0), second = features("key_features", 1);
  keys.insert(keys.end(), second.begin(), second.end());
  same(keys, columns(g["key_basis"], 0, 16, 10));
  for (index_t h : {0, 1}) {
    same(features("value_features", h), columns(g["value_basis"], h, 16, 12));
    auto both = features("key_features", h), queries = features("query_features", h);
    both.insert(both.end(), queries.begin(), queries.end());
    same(both, columns(g["key_query_basis"], h, 16, 9));
  }
}

TEST_CASE("eigen_attention attends as the authors' layer does", "[golden][eigen_attention]") {
  golden const g("eigen_attention");
  auto const c = prompt(g);
  auto const keys = columns(g["key_basis"], 0, 16, 10);
  std::vector<reference::matrix> const values{columns(g["value_basis"], 0, 16, 12),
                                              columns(g["value_basis"], 1, 16, 12)};
  auto const key_table = table_of({keys, keys}), value_table = table_of(values);
  eigen_attention<float> const policy{{.kv_heads = 2, .key_rank = 10, .value_rank = 12}};
  bound const room(policy, c, {.key = key_table.data(), .value = value_table.data()});
  auto const q = g.floats("q");
  auto const got = attended(room.packed, q, 4, 24);
  reference::matrix theirs(24);
  for (std::size_t t = 0; t < 24; ++t)
    for (std::size_t i = 0; i < 64; ++i) theirs[t].push_back(g["out"][t * 64 + i]);
  CHECK(norm(minus(got, theirs)) <= tolerance::attend * norm(theirs));
  for (index_t h = 0; h < 4; ++h) {
    auto k = head(c.k, h / 2);
    for (std::size_t t = 0; t < 24; ++t) reference::rotate_row(k[t], -static_cast<double>(t));
    auto const expected =
        reference::eigen_attention(side_by_side(q, {.kv_heads = 4, .tokens = 24}, 16, {h}), k,
                                   head(c.v, h / 2), keys, values[at(h / 2)], true);
    auto mine = expected, his = expected;
    for (std::size_t t = 0; t < 24; ++t)
      for (std::size_t d = 0; d < 16; ++d) {
        mine[t][d] = got[t][at(h) * 16 + d];
        his[t][d] = theirs[t][at(h) * 16 + d];
      }
    CHECK(norm(minus(mine, expected)) <= tolerance::attend * norm(expected));
    CHECK(norm(minus(his, expected)) <= tolerance::attend * norm(expected));
  }
}

TEST_CASE("eigen_attention without RoPE never rebuilds a key", "[golden][eigen_attention]") {
  golden const g("eigen_attention");
  auto const c = prompt(g);
  std::vector<reference::matrix> keys, values;
  for (index_t h : {0, 1}) {
    keys.push_back(columns(g["key_query_basis"], h, 16, 7));
    values.push_back(columns(g["value_basis"], h, 16, 5));
  }
  auto const key_table = table_of(keys), value_table = table_of(values);
  given const policy{{.kv_heads = 2, .key_rank = 7, .value_rank = 5}};
  CHECK(policy.key_codec().sizes(16, 24).own_dim == 7);
  bound const room(policy, c, {.key = key_table.data(), .value = value_table.data()});
  auto const q = g.floats("q");
  auto const got = attended(room.packed, q, 4, 24);
  for (index_t h = 0; h < 4; ++h) {
    auto const expected = reference::eigen_attention(
        side_by_side(q, {.kv_heads = 4, .tokens = 24}, 16, {h}), head(c.k, h / 2), head(c.v, h / 2),
        keys[at(h / 2)], values[at(h / 2)], false);
    auto mine = expected;
    for (std::size_t t = 0; t < 24; ++t)
      for (std::size_t d = 0; d < 16; ++d) mine[t][d] = got[t][at(h) * 16 + d];
    CHECK(norm(minus(mine, expected)) <= tolerance::attend * norm(expected));
  }
}

TEST_CASE("eigen_attention loses less with every direction, and nothing with all",
          "[eigen_attention]") {
  data::cache c({.kv_heads = 2, .tokens = 50, .head_dim = 20});
  shape_rows(c, 0.85, 9);
  double last = 1e30;
  for (index_t const rank : {2, 6, 13, 20}) {
    std::vector<reference::matrix> bases;
    for (index_t h : {0, 1})
      bases.push_back(reference::eigen_basis(side_by_side(c.v, c.shape, 20, {h}), at(rank)));
    auto const table = table_of(bases);
    bound const room(given{{.kv_heads = 2, .key_rank = rank, .value_rank = rank}}, c,
                     {.key = table.data(), .value = table.data()});
    auto const all = side_by_side(c.v, c.shape, 20, {0, 1});
    double const missed = norm(minus(room.held(false, {0, 1}), all));
    CHECK(missed < last);
    last = missed;
    if (rank == 20) CHECK(missed <= tolerance::accumulated * norm(all));
  }
}

TEST_CASE("eigen_attention lives, layer by layer", "[eigen_attention]") {
  each_layered([](data::shape const& shape) {
    data::cache const c(shape);
    auto const keys = table_of(any_bases(2 * shape.kv_heads, 19, shape.head_dim)),
               values = table_of(any_bases(2 * shape.kv_heads, 11, shape.value_width()));
    lives(eigen_attention<>{{.layers = 2,
                             .kv_heads = shape.kv_heads,
                             .key_rank = 19,
                             .value_rank = 11,
                             .residual = 4}},
          c, {.key = keys.data(), .value = values.data()}, 4);
  });
}

TEST_CASE("eigen_attention stores so many numbers, and no table", "[eigen_attention]") {
  stores_ranks<eigen_attention<>>();
}

TEST_CASE("eigen_attention refuses what it cannot store and reads back what it wrote",
          "[eigen_attention]") {
  auto const refused = [](eigen_attention<>::options const& o) {
    return !eigen_attention<>{o}.key_codec().check(96).ok() ||
           !eigen_attention<>{o}.value_codec().check(96).ok();
  };
  CHECK_FALSE(refused({}));
  CHECK(refused({.key_rank = 97}));
  CHECK(refused({.value_rank = 0}));
  CHECK(refused({.layers = 300}));  // 2400 bases
  CHECK(refused({.residual = -1}));
  CHECK(refused({.rotation = {.dims = 98}}));
  eigen_attention<> const some{{.layers = 3, .kv_heads = 4, .key_rank = 40, .residual = 9}};
  reads_back(some.key_codec(), {0, 1, 3, 4, 5, 6});
  reads_back(some.value_codec(), {0, 1, 2, 3, 4, 5, 6});
}
