// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// CSKV's tables give what the authors' projections give, K before RoPE, beside an exact window.

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/low_rank.hpp"

#include <kvslim/kvslim.hpp>

#include <cmath>
#include <string>

using namespace kvslim;
using namespace low_rank;

namespace {

/// Rows of the authors' B [head and channel][number], of length 1, as a table [head][number][dim].
std::vector<float> table_of(std::vector<double> const& b, index_t heads, index_t dim,
                            index_t rank) {
  std::vector<float> out(static_cast<std::size_t>(heads * rank * dim));
  for (index_t j = 0; j < rank; ++j) {
    double length = 0;
    for (index_t i = 0; i < heads * dim; ++i)
      length += std::pow(b[static_cast<std::size_t>(i * rank + j)], 2);
    for (index_t h = 0; h < heads; ++h)
      for (index_t d = 0; d < dim; ++d)
        out[static_cast<std::size_t>((h * rank + j) * dim + d)] = static_cast<float>(
            b[static_cast<std::size_t>((h * dim + d) * rank + j)] / std::sqrt(length));
  }
  return out;
}

/// Some orthonormal rows over all heads: channels in another order.
std::vector<float> any_table(index_t rows, index_t heads, index_t dim, index_t rank) {
  std::vector<float> out(static_cast<std::size_t>(rows * rank * dim));
  for (index_t r = 0; r < rows; ++r)
    for (index_t j = 0; j < rank; ++j) {
      index_t const at = (5 * j + r / heads) % (heads * dim);
      if (at / dim == r % heads)
        out[static_cast<std::size_t>((r * rank + j) * dim + at % dim)] = j % 3 == 0 ? -1.0f : 1.0f;
    }
  return out;
}

}  // namespace

TEST_CASE("cskv rebuilds what the authors' projections rebuild", "[golden][cskv]") {
  golden const g("cskv");
  index_t const heads = 3, tokens = 60, dim = 16, rank = 21, window = 8;
  for (std::string const start : {"svd", "asvd"}) {
    CAPTURE(start);
    data::cache c({.kv_heads = heads, .tokens = tokens, .head_dim = dim});
    c.k = c.v = g.floats("rows");
    auto keys = g.floats("rebuilt_" + start);
    auto const values = keys;
    rope const rotation{.base = 5e5f};
    turn(c.k, c.shape, rotation);
    turn(keys, c.shape, rotation);
    auto const table = table_of(g["b_" + start], heads, dim, rank);
    cskv<float> const policy{{.kv_heads = heads,
                              .key_rank = rank,
                              .value_rank = rank,
                              .window = window,
                              .rotation = rotation}};
    data::room room(policy, c.view().extents(), {});
    room.packed.bind({.key = table.data(), .value = table.data()});
    REQUIRE(compress(cpu{}, room.plan, c.view(), evidence<>{}, room.packed, room.scratch).ok());
    CHECK(room.intact());
    for (bool const key : {true, false}) {
      double missed = 0, size = 0;
      for (index_t h = 0; h < heads; ++h)
        for (index_t t = 0; t < tokens; ++t)
          for (index_t d = 0; d < dim; ++d) {
            auto const i = static_cast<std::size_t>((h * tokens + t) * dim + d);
            double const got = key ? room.packed.key(h, t, d) : room.packed.value(h, t, d);
            if (t >= tokens - window) {
              REQUIRE(got == (key ? c.k : c.v)[i]);
              continue;
            }
            double const theirs = (key ? keys : values)[i];
            missed += std::pow(got - theirs, 2);
            size += theirs * theirs;
          }
      CHECK(std::sqrt(missed) <= tolerance::accumulated * std::sqrt(size));
    }
    CHECK(oracle::attend_error(room.packed, c) <= tolerance::attend);
  }
}

TEST_CASE("cskv lives, layer by layer", "[cskv]") {
  for (index_t const tokens : {1, 20, 70})
    for (index_t const dim : {32, 80}) {
      data::cache const c(
          {.sequences = 4, .kv_heads = 2, .group = 4, .tokens = tokens, .head_dim = dim});
      index_t const rank = 40;
      auto const table = any_table(4, 2, dim, rank);  // two layers of two heads, of two requests
      cskv<> const policy{
          {.layers = 2, .kv_heads = 2, .key_rank = rank, .value_rank = rank, .window = 9}};
      lives(policy, c, {.key = table.data(), .value = table.data()}, 9);
    }
}

TEST_CASE("cskv stores a layer's numbers once, and no table", "[cskv]") {
  auto const plan = make_plan(
      cskv<>{{.kv_heads = 4, .key_rank = 64, .value_rank = 96, .window = 0}}, {1, 4, 64, 32});
  auto const first = plan.layout().parts(64, 0), other = plan.layout().parts(64, 2);
  CHECK(first.key_blocks == 0);
  CHECK(first.key_tail == 2 * 64 * 64);
  CHECK(first.value_tail - first.value_blocks == 2 * 96 * 64);
  CHECK(other.key_tail == 0);
}

TEST_CASE("cskv refuses what it cannot store", "[cskv]") {
  auto const refused = [](cskv<>::options const& o) {
    return !cskv<>{o}.key_codec().check(64).ok() || !cskv<>{o}.value_codec().check(64).ok();
  };
  CHECK_FALSE(refused({}));
  CHECK(refused({.kv_heads = 4}));  // 512 of 256 channels
  CHECK(refused({.key_rank = 0}));
  CHECK(refused({.layers = 300}));  // 2400 bases
  CHECK(refused({.layers = 0}));
  CHECK(refused({.window = -1}));
  CHECK(refused({.rotation = {.dims = 3}}));
  data::cache const c({.kv_heads = 2, .tokens = 40, .head_dim = 32});
  data::compressed const heads(cskv<>{{.kv_heads = 4, .key_rank = 8, .value_rank = 8}}, c.view());
  CHECK(heads.result.code == errc::invalid_shape);
  data::compressed const unbound(cskv<>{{.kv_heads = 2, .key_rank = 8, .value_rank = 8}}, c.view());
  CHECK(unbound.result.code == errc::invalid_pointer);
  CHECK(unbound.storage.untouched());
}
