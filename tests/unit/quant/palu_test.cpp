// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Palu's tables give what the authors' factors make of hidden states, in latents as they are and in
// codes.

#include "reference/palu.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/low_rank.hpp"

#include <string>

using namespace kvslim;
using namespace low_rank;

namespace {

reference::matrix matrix_of(std::vector<double> const& x, std::size_t from, std::size_t rows,
                            std::size_t columns) {
  reference::matrix m(rows);
  for (std::size_t i = 0; i < rows; ++i)
    for (std::size_t j = 0; j < columns; ++j) m[i].push_back(x[from + i * columns + j]);
  return m;
}

}  // namespace

TEST_CASE("palu's reference is the authors' code", "[golden][palu]") {
  golden const g("palu");
  auto const x = matrix_of(g["x"], 0, 24, 24), whitening = matrix_of(g["whitening"], 0, 24, 24);
  for (index_t group : {0, 1}) {
    auto const f =
        reference::palu(matrix_of(g["weights"], at(group * 32 * 24), 32, 24), whitening, 16);
    for (int const bits : {16, 4, 3, 2}) {
      CAPTURE(group, bits);
      auto const got =
          reference::palu_rebuilt(bits == 16 ? f : reference::with_hadamard(f), x, bits);
      auto const theirs = side_by_side(
          g.floats(bits == 16 ? "rebuilt" : "rebuilt_" + std::to_string(bits)),
          {.kv_heads = 4, .tokens = 24, .head_dim = 16}, 16, {2 * group, 2 * group + 1});
      if (bits == 16) {
        CHECK(norm(minus(got, theirs)) <= tolerance::accumulated * norm(theirs));
        continue;
      }
      // The signs of singular vectors are free, and what is rounded behind the Hadamard matrix
      // depends on them.
      auto const exact = reference::palu_rebuilt(f, x, 16);
      double const ours = norm(minus(got, exact)), his = norm(minus(theirs, exact));
      CHECK(ours <= 1.2 * his);
      CHECK(his <= 1.2 * ours);
    }
  }
}

TEST_CASE("palu rebuilds what the authors' factors rebuild", "[golden][palu]") {
  golden const g("palu");
  data::cache c({.kv_heads = 4, .tokens = 24, .head_dim = 16});
  rope const rotation{.base = 5e5f, .dims = 12};
  auto const run = [&](auto const& policy, std::string const& factors) {
    c.k = c.v = g.floats("rows");
    turn(c.k, c.shape, rotation);
    std::vector<float> table;
    for (index_t group : {0, 1})
      append_maps(table, matrix_of(g[factors], at(group * 32 * 16), 32, 16), 2);
    bound const room(policy, c, {.key = table.data(), .value = table.data()});
    CHECK(oracle::attend_error(room.packed, c) <= tolerance::attend);
    return std::pair{room.held(true, {0, 1, 2, 3}), room.held(false, {0, 1, 2, 3})};
  };
  auto const theirs = [&](std::string const& name, bool keys) {
    auto x = g.floats(name);
    if (keys) turn(x, c.shape, rotation);
    return side_by_side(x, c.shape, 16, {0, 1, 2, 3});
  };
  auto const options = [&](auto policy) {
    policy.opt = {
        .kv_heads = 4, .heads = 2, .key_rank = 16, .value_rank = 16, .rotation = rotation};
    return policy;
  };
  auto const [k, v] = run(options(palu<16, float>{}), "factors");
  CHECK(norm(minus(k, theirs("rebuilt", true))) <= tolerance::accumulated * norm(k));
  CHECK(norm(minus(v, theirs("rebuilt", false))) <= tolerance::accumulated * norm(v));
  auto const coded = [&](auto const& policy, std::string const& name) {
    CAPTURE(name);
    auto const [key, value] = run(policy, "factors_hadamard");
    for (bool const keys : {true, false}) {
      auto const exact = theirs("rebuilt", keys);
      double const ours = norm(minus(keys ? key : value, exact)),
                   his = norm(minus(theirs(name, keys), exact));
      CHECK(ours <= 1.1 * his);  // their zero points are rounded, ours are not
    }
  };
  coded(options(palu<4>{}), "rebuilt_4");
  coded(options(palu<3>{}), "rebuilt_3");
  coded(options(palu<2>{}), "rebuilt_2");
}

TEST_CASE("palu of all channels is exact", "[palu]") {
  data::cache const c({.kv_heads = 2, .tokens = 40, .head_dim = 16});
  auto const table = any_maps(1, 2, 16, 32);
  palu<16, float> const policy{{.kv_heads = 2, .heads = 2, .key_rank = 32, .value_rank = 32}};
  bound const room(policy, c, {.key = table.data(), .value = table.data()});
  for (bool const keys : {true, false}) {
    auto const all = side_by_side(keys ? c.k : c.v, c.shape, 16, {0, 1});
    CHECK(norm(minus(room.held(keys, {0, 1}), all)) <= tolerance::accumulated * norm(all));
  }
}

TEST_CASE("palu lives, group by group and layer by layer", "[palu]") {
  for (data::shape const& shape :
       {data::shape{.sequences = 2, .kv_heads = 4, .group = 1, .tokens = 70, .head_dim = 80},
        data::shape{.sequences = 2, .kv_heads = 2, .group = 8, .tokens = 1, .head_dim = 32},
        data::shape{.sequences = 4,
        .kv_heads = 2,
        .group = 4,
        .tokens = 45,
        .head_dim = 20,
        .value_dim = 12}}) {
    data::cache const c(shape);
    palu<>::options const o{.layers = 2,
                            .kv_heads = shape.kv_heads,
                            .heads = 2,
                            .key_rank = 20,
                            .value_rank = 12,
                            .residual = 3};
    auto const keys = any_maps(shape.kv_heads, 2, shape.head_dim, 20),
               values = any_maps(shape.kv_heads, 2, shape.value_width(), 12, 7);
    codec_tables const tables{.key = keys.data(), .value = values.data()};
    lives(palu<>{o}, c, tables, 3);
    lives(palu<3>{{.layers = 2,
                   .kv_heads = shape.kv_heads,
                   .heads = 2,
                   .key_rank = 20,
                   .value_rank = 12,
                   .residual = 3}},
          c, tables, 3);
  }
}

TEST_CASE("palu stores a group's latents once, and no table", "[palu]") {
  palu<>::options const o{.kv_heads = 4, .heads = 2, .key_rank = 32, .value_rank = 48};
  auto const plan = make_plan(palu<>{o}, {1, 4, 64, 32});
  auto const first = plan.layout().parts(64, 0), second = plan.layout().parts(64, 1);
  CHECK(first.key_blocks == 0);
  CHECK(first.key_tail == 2 * 32 * 64);
  CHECK(first.value_tail - first.value_blocks == 2 * 48 * 64);
  CHECK(second.key_tail == 0);
  auto const coded = make_plan(
      palu<3>{{.kv_heads = 4, .heads = 2, .key_rank = 32, .value_rank = 64}}, {1, 4, 64, 32});
  auto const bits = coded.layout().parts(64, 2);
  CHECK(bits.key_tail == 64 * (32 * 3 / 8 + 4));
  CHECK(bits.value_tail - bits.value_blocks == 64 * (64 * 3 / 8 + 4));
}

TEST_CASE("palu refuses what it cannot store and reads back what it wrote", "[palu]") {
  auto const refused = [](palu<4>::options const& o) {
    return !palu<4>{o}.key_codec().check(64).ok() || !palu<4>{o}.value_codec().check(64).ok();
  };
  CHECK_FALSE(refused({}));
  CHECK(refused({.heads = 2}));  // 256 of 128 channels
  CHECK(refused({.key_rank = 0}));
  CHECK(refused({.key_rank = 30}));  // codes come in units of four
  CHECK(refused({.layers = 300}));   // 2400 bases
  CHECK(refused({.heads = 0}));
  CHECK(refused({.residual = -1}));
  CHECK(refused({.rotation = {.dims = 3}}));
  data::cache const c({.kv_heads = 3, .tokens = 40, .head_dim = 32});
  data::compressed const apart(palu<>{{.kv_heads = 3, .heads = 2, .key_rank = 8, .value_rank = 8}},
                               c.view());
  CHECK(apart.result.code == errc::invalid_shape);
  palu<4> const some{{.layers = 3, .kv_heads = 4, .heads = 2, .key_rank = 40, .residual = 9}};
  reads_back(some.key_codec(), {0, 1, 3, 4, 5, 6});
  reads_back(some.value_codec(), {0, 1, 2, 3, 4, 5, 6});
}
