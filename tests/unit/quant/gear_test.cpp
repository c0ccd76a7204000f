// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// GEAR's codes and outliers are the authors', its low rank misses no more than theirs, and
// attention reads the sum as it decodes.

#include "reference/gear.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/stored.hpp"
#include "support/tolerance.hpp"

#include <kvslim/quant/gear.hpp>
#include <kvslim/quant/kivi.hpp>

#include <set>
#include <string>

using namespace kvslim;

namespace {

reference::matrix matrix_of(std::vector<float> const& x, index_t dim) {
  reference::matrix m;
  for (std::size_t i = 0; i < x.size(); i += static_cast<std::size_t>(dim))
    m.emplace_back(x.begin() + static_cast<std::ptrdiff_t>(i),
                   x.begin() + static_cast<std::ptrdiff_t>(i) + dim);
  return m;
}
reference::matrix minus(reference::matrix a, reference::matrix const& b) {
  for (std::size_t t = 0; t < a.size(); ++t)
    for (std::size_t d = 0; d < a[t].size(); ++d) a[t][d] -= b[t][d];
  return a;
}
double norm(reference::matrix const& m) {
  double sum = 0;
  for (auto const& row : m)
    for (double const x : row) sum += x * x;
  return std::sqrt(sum);
}

/// A cache of one head with these rows as K and V.
data::cache cache_of(std::vector<float> const& k, std::vector<float> const& v, index_t dim) {
  data::cache c({.sequences = 1,
                 .kv_heads = 1,
                 .tokens = static_cast<index_t>(k.size()) / dim,
                 .head_dim = dim});
  c.k = k;
  c.v = v;
  return c;
}
template <class Packed>
reference::matrix decoded(Packed const& packed, bool keys, index_t r, index_t tokens) {
  auto const& e = packed.extents();
  reference::matrix m;
  for (index_t t = 0; t < tokens; ++t) {
    m.emplace_back();
    for (index_t d = 0; d < e.head_dim; ++d)
      m.back().push_back(keys ? packed.key(r, t, d) : packed.value(r, t, d));
  }
  return m;
}

/// What codes and outliers decode to is what theirs do.
template <class Codec>
void check_sparse(golden const& g, Codec const& codec, std::vector<float> const& rows, index_t dim,
                  std::string const& name) {
  data::stored const s(codec, rows, dim);
  auto const& theirs = g[name];
  for (index_t t = 0; t < s.tokens; ++t)
    for (index_t d = 0; d < dim; ++d) {
      double const x = theirs[static_cast<std::size_t>(t * dim + d)];
      REQUIRE(std::abs(s.value(t, d) - x) <= tolerance::f16_storage * std::max(1.0, std::abs(x)));
    }
}

/// A width that the authors do not use: the first 32 channels of 32 tokens.
template <int Bits>
void check_width(golden const& g) {
  CAPTURE(Bits);
  std::string const bits = "_" + std::to_string(Bits);
  auto const corner = [&](std::string const& side) {
    auto const all = g.floats(side);
    std::vector<float> out;
    for (auto row = all.begin(); out.size() < 32 * 32; row += 64)
      out.insert(out.end(), row, row + 32);
    return out;
  };
  check_sparse(g, outlier_key<Bits, f16, float>{{16, 32}, 0.1f}, corner("k"), 32,
               "k_sparse" + bits);
  check_sparse(g, outlier_value<Bits, f16, float>{{16}, 32, 0.1f}, corner("v"), 32,
               "v_sparse" + bits);
}

template <int Bits>
void check_golden(golden const& g) {
  std::string const bits = "_" + std::to_string(Bits);
  auto const k = g.floats("k"), v = g.floats("v");
  check_sparse(g, outlier_key<Bits, f16, float>{{32, 64}, 0.1f}, k, 64, "k_sparse" + bits);
  check_sparse(g, outlier_value<Bits, f16, float>{{32}, 64, 0.1f}, v, 64, "v_sparse" + bits);
  auto const c = cache_of(k, v, 64);
  auto const missed = [&](auto const& policy, std::size_t which) {
    data::compressed const run(policy, c.view());
    REQUIRE(run.result.ok());
    CHECK(norm(minus(matrix_of(k, 64), decoded(run.packed, true, 0, 64))) <=
          g["k_missed" + bits][which] * (1 + tolerance::f16_storage));
    CHECK(norm(minus(matrix_of(v, 64), decoded(run.packed, false, 0, 64))) <=
          g["v_missed" + bits][which] * (1 + tolerance::f16_storage));
  };
  missed(gear<Bits, Bits, f16, float>{{.group = 32, .outliers = 0.1f}}, 0);
  missed(gear_l<Bits, Bits, f16, float>{{.group = 32}}, 1);
}

template <int Bits>
void check_kcvt(golden const& g) {
  std::string const bits = "_" + std::to_string(Bits);
  auto const k = g.floats("k"), v = g.floats("v");
  auto const same = [&](float outliers, index_t tokens, bool keys, std::string const& name) {
    CAPTURE(name, Bits);
    auto const c =
        cache_of({k.begin(), k.begin() + tokens * 32}, {v.begin(), v.begin() + tokens * 32}, 32);
    data::compressed const run(
        gear<Bits, Bits, f16, float>{
            {.rank = 0, .grown_rank = 0, .outliers = outliers, .kcvt = true}},
        c.view());
    REQUIRE(run.result.ok());
    auto const got = decoded(run.packed, keys, 0, tokens);
    auto const& theirs = g[name + bits];
    for (index_t t = 0; t < tokens; ++t)
      for (index_t d = 0; d < 32; ++d) {
        double const x = theirs[static_cast<std::size_t>(t * 32 + d)];
        REQUIRE(std::abs(got[static_cast<std::size_t>(t)][static_cast<std::size_t>(d)] - x) <=
                tolerance::f16_storage * std::max(1.0, std::abs(x)));
      }
  };
  same(0.0f, 192, true, "k_codes");
  same(0.1f, 64, true, "k_sparse");
  same(0.1f, 192, false, "v_sparse");
  auto const c = cache_of(k, v, 32);
  data::compressed const low(gear<Bits, Bits, f16, float>{{.outliers = 0.0f, .kcvt = true}},
                             c.view());
  REQUIRE(low.result.ok());
  CHECK(norm(minus(matrix_of(k, 32), decoded(low.packed, true, 0, 192))) <=
        g["k_missed" + bits][0] * (1 + tolerance::f16_storage));
}

/// Rows with outlying channels and tokens, and a few directions that all tokens share.
std::vector<float> rows_with_structure(index_t tokens, index_t dim, unsigned seed,
                                       bool halves = true) {
  auto x = data::rows(tokens, dim, 1.0f, 4.0f, seed);
  auto const far = data::rows(tokens, dim, 1.0f, 0.0f, seed + 1),
             axis = data::rows(3, dim, 1.0f, 0.0f, seed + 2);
  for (index_t t = 0; t < tokens; ++t)
    for (index_t d = 0; d < dim; ++d) {
      auto const i = static_cast<std::size_t>(t * dim + d);
      for (index_t j = 0; j < 3; ++j)
        x[i] += far[static_cast<std::size_t>(t * dim + j)] *
                axis[static_cast<std::size_t>(j * dim + d)];
      if ((t * 31 + d * 7) % 97 == 0) x[i] *= 9.0f;
      if (halves) x[i] = to_float(from_float<f16>(x[i]));
    }
  return x;
}

}  // namespace

TEST_CASE("gear's codes and outliers are the authors', and it misses no more", "[golden][gear]") {
  golden const g("gear");
  check_golden<2>(g);
  check_golden<4>(g);
  check_width<3>(g);
  check_width<5>(g);
  check_width<6>(g);
  check_width<7>(g);
}

TEST_CASE("gear's codes of the whole prompt are the authors'", "[golden][gear]") {
  golden const g("gear_kcvt");
  check_kcvt<2>(g);
  check_kcvt<4>(g);
}

TEST_CASE("gear of one range a channel is the reference, and codes what comes later by it",
          "[gear]") {
  for (index_t dim : {20, 80}) {
    CAPTURE(dim);
    index_t const tokens = 192;
    auto k = rows_with_structure(tokens, dim, 5, false);
    auto const v = rows_with_structure(tokens, dim, 9, false);
    gear<2, 2, f16, float> const policy{
        {.group = 32, .rank = 0, .grown_rank = 0, .outliers = 0.1f, .kcvt = true}};
    auto const c = cache_of(k, v, dim);
    data::compressed const run(policy, c.view(), evidence<>{}, {.append_tokens = 64});
    REQUIRE(run.result.ok());
    CHECK(run.intact());
    auto const all = matrix_of(k, dim), expected = reference::gear_kcvt_keys(all, 2, 0.1, 64);
    auto const got = decoded(run.packed, true, 0, tokens);
    CHECK(norm(minus(got, expected)) <= tolerance::accumulated * norm(expected));
    CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
    // What was coded before is as it was; what comes is in the prompt's range, but for its
    // outliers.
    data::life life(run.packed, c);
    for (int i = 0; i < 64; ++i) {
      REQUIRE(life.append().ok());
      REQUIRE(life.settle().ok());
    }
    CHECK(run.packed.raw_row(0).key_coded == tokens + 64);
    CHECK(decoded(run.packed, true, 0, tokens) == got);
    CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
    auto const later = decoded(run.packed, true, 0, tokens + 64);
    for (std::size_t d = 0; d < static_cast<std::size_t>(dim); ++d) {
      double low = expected[0][d], high = low;
      for (auto const& row : expected) {
        low = std::min(low, row[d]);
        high = std::max(high, row[d]);
      }
      std::set<double> values;
      std::size_t beyond = 0;
      for (std::size_t t = static_cast<std::size_t>(tokens); t < later.size(); ++t) {
        values.insert(later[t][d]);
        beyond += later[t][d] < low || later[t][d] > high;
      }
      CHECK(values.size() <= 4 + 6);  // levels, and three outliers at either end
      CHECK(beyond <= 6);
    }
  }
  // A prompt that codes nothing leaves the range open.
  data::cache const c({.kv_heads = 2, .tokens = 5, .head_dim = 20});
  data::compressed const run(gear<4>{{.group = 32, .kcvt = true}}, c.view(), evidence<>{},
                             {.append_tokens = 140});
  REQUIRE(run.result.ok());
  data::life life(run.packed, c);
  for (int i = 0; i < 130; ++i) {
    REQUIRE(life.append().ok());
    REQUIRE(life.settle().ok());
  }
  CHECK(run.packed.raw_row(0).key_coded == 128);
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
}

TEST_CASE("gear is the reference over a prompt of several blocks", "[gear]") {
  for (index_t dim : {32, 80, 128}) {
    CAPTURE(dim);
    index_t const tokens = 192;  // of floats, of which none lies between two codes
    auto const k = rows_with_structure(tokens, dim, 5, false),
               v = rows_with_structure(tokens, dim, 9, false);
    gear<3, 5, f16, float> const policy{{.group = 16, .outliers = 0.1f}};
    auto const c = cache_of(k, v, dim);
    data::compressed const run(policy, c.view());
    REQUIRE(run.result.ok());
    auto const check = [&](std::vector<float> const& x, bool keys) {
      auto const all = matrix_of(x, dim);
      reference::matrix coded;
      for (std::size_t t = 0; t < all.size(); t += 64) {
        reference::matrix const block(all.begin() + static_cast<std::ptrdiff_t>(t),
                                      all.begin() + static_cast<std::ptrdiff_t>(t + 64));
        auto const part =
            reference::gear_coded(block, keys ? reference::gear_options{3, 16, 1, 0.1, true}
                                              : reference::gear_options{5, 1, 16, 0.1, false});
        coded.insert(coded.end(), part.begin(), part.end());
      }
      auto const residual = minus(all, coded);
      auto const low_rank = reference::projected(
          residual, reference::gear_directions(residual, 4, 3, reference::gear_start));
      auto const got = minus(decoded(run.packed, keys, 0, tokens), coded);
      CHECK(norm(minus(got, low_rank)) <= tolerance::f16_storage * norm(residual));
    };
    check(k, true);
    check(v, false);
  }
}

TEST_CASE("gear misses less than GEAR-L, and GEAR-L less than the codes alone", "[gear]") {
  index_t const dim = 64, tokens = 256;
  auto const k = rows_with_structure(tokens, dim, 3), v = rows_with_structure(tokens, dim, 4);
  auto const c = cache_of(k, v, dim);
  auto const missed = [&](auto const& policy, bool keys) {
    data::compressed const run(policy, c.view());
    REQUIRE(run.result.ok());
    return norm(minus(matrix_of(keys ? k : v, dim), decoded(run.packed, keys, 0, tokens)));
  };
  for (bool const keys : {true, false}) {
    CAPTURE(keys);
    double const codes = missed(gear_l<2>{{.group = 32, .rank = 0}}, keys),
                 low = missed(gear_l<2>{{.group = 32}}, keys),
                 both = missed(gear<2>{{.group = 32}}, keys);
    CHECK(low < codes);
    CHECK(both < low);
    double last = codes;
    for (index_t rank : {1, 2, 8, 16}) {
      double const now = missed(gear_l<2>{{.group = 32, .rank = rank}}, keys);
      CHECK(now < last);
      last = now;
    }
  }
  // Without rank the codes are KIVI's.
  data::compressed const plain(kivi<2>{{.group = 32, .residual = 64, .value_group = 32}}, c.view());
  data::compressed const none(gear_l<2>{{.group = 32, .rank = 0, .grown_rank = 0}}, c.view());
  for (index_t t = 0; t < 192; ++t)
    for (index_t d = 0; d < dim; ++d) {
      REQUIRE(none.packed.key(0, t, d) == plain.packed.key(0, t, d));
      REQUIRE(none.packed.value(0, t, d) == plain.packed.value(0, t, d));
    }
}

TEST_CASE("gear misses as much on every path", "[gear]") {
  isa::path const before = isa::current();
  for (index_t const dim : {32, 80, 128, 300}) {
    data::cache const c({.kv_heads = 1, .tokens = 150, .head_dim = dim});
    // What K and V miss of a prompt of two blocks and a third that comes later.
    auto const missed = [&](auto const& policy) {
      data::compressed const run(policy, c.view(), evidence<>{}, {.append_tokens = 64});
      REQUIRE(run.result.ok());
      data::life life(run.packed, c);
      for (int i = 0; i < 64; ++i) {
        REQUIRE(life.append().ok());
        REQUIRE(life.settle().ok());
      }
      CHECK(run.packed.raw_row(0).key_coded == 192);
      return life.storage_error();
    };
    auto const check = [&](char const* name, auto const& policy) {
      isa::use(isa::path::portable);
      double const plain = missed(policy);
      for (auto const wanted : isa::every_path)
        if (isa::use(wanted) == wanted) {
          INFO(name << ", dim " << dim << ", path " << isa::name_of(wanted));
          CHECK(missed(policy) <= plain * 1.001);
          CHECK(missed(policy) >= plain * 0.999);
        }
    };
    check("gear", gear<2>{{.group = 32, .value_group = dim == 300 ? 4 : 16}});
    check("gear_l", gear_l<4>{{.group = 32, .rank = 3, .value_group = dim == 300 ? 4 : 16}});
    check("kcvt", gear<2>{{.kcvt = true}});
  }
  isa::use(before);
}

TEST_CASE("as many directions as channels make gear exact but for f16", "[gear]") {
  index_t const dim = 16, tokens = 64;
  auto const k = rows_with_structure(tokens, dim, 6), v = rows_with_structure(tokens, dim, 7);
  auto const c = cache_of(k, v, dim);
  data::compressed const run(
      gear<2>{{.group = 32, .rank = 16, .grown_rank = 16, .rounds = 16, .value_group = 8}},
      c.view());
  REQUIRE(run.result.ok());
  CHECK(norm(minus(matrix_of(k, dim), decoded(run.packed, true, 0, tokens))) <=
        tolerance::f16_storage * norm(matrix_of(k, dim)));
  CHECK(norm(minus(matrix_of(v, dim), decoded(run.packed, false, 0, tokens))) <=
        tolerance::f16_storage * norm(matrix_of(v, dim)));
}

TEST_CASE("gear's parts are attended as they decode", "[gear]") {
  for (index_t dim : {20, 64, 80, 300}) {
    CAPTURE(dim);
    index_t const tokens = 128;
    auto const x = rows_with_structure(tokens, dim, 8);
    auto const q = data::rows(8, dim, 1.0f, 0.0f, 2), p = data::rows(8, run_tokens, 1.0f, 0.0f, 3);
    auto const key = gear<2>{{.group = 32, .outliers = 0.1f}}.key_codec();
    auto const value = gear<4>{{.outliers = 0.1f, .value_group = 4}}.value_codec();
    data::stored const keys(key, x, dim);
    data::stored const values(value, x, dim);
    data::stored const bare_keys(key.base, x, dim);
    data::stored const bare_values(value.base, x, dim);
    for (index_t heads : {1, 3, 4, 8})
      for (index_t first : {0, 17, 32, 64, 101}) {
        index_t const n = std::min(run_tokens - first % run_tokens, tokens - first);
        CHECK(data::dot_error(keys, first, n, heads, q) <= tolerance::accumulated);
        CHECK(data::dot_error(bare_keys, first, n, heads, q) <= tolerance::accumulated);
        CHECK(data::accumulate_error(values, first, n, heads, p) <= tolerance::accumulated);
        CHECK(data::accumulate_error(bare_values, first, n, heads, p) <= tolerance::accumulated);
      }
  }
}

TEST_CASE("outliers are f16 exactly where they were, and codes hold the rest", "[gear]") {
  index_t const dim = 12, tokens = 64;
  auto x = data::rows(tokens, dim, 0.5f, 0.0f, 4);
  for (index_t d = 0; d < dim; ++d) {
    x[static_cast<std::size_t>((d * 5 % 64) * dim + d)] = 40.0f + static_cast<float>(d);
    x[static_cast<std::size_t>((63 - d * 5 % 64) * dim + d)] = -50.0f;
  }
  data::stored const s(outlier_key<2>{{32, 64}, 0.02f}, x, dim);
  auto const step = 4.0f / 3;  // far below what the outliers would make it
  for (index_t t = 0; t < tokens; ++t)
    for (index_t d = 0; d < dim; ++d) {
      float const was = x[static_cast<std::size_t>(t * dim + d)];
      if (std::abs(was) > 30)
        CHECK(s.value(t, d) == was);
      else
        CHECK(std::abs(s.value(t, d) - was) <= step);
    }
  // Equal values, and more outliers than there are different values.
  for (float const same : {0.0f, 3.0f}) {
    std::vector<float> const flat(static_cast<std::size_t>(tokens * dim), same);
    data::stored const k(outlier_key<4>{{32, 64}, 0.5f}, flat, dim);
    data::stored const v(outlier_value<4>{{4}, 64, 0.5f}, flat, dim);
    for (index_t t = 0; t < tokens; ++t)
      for (index_t d = 0; d < dim; ++d) {
        REQUIRE(k.value(t, d) == same);
        REQUIRE(v.value(t, d) == same);
      }
  }
}

TEST_CASE("gear lives: prompts of any length, decoded blocks with directions of their own",
          "[gear]") {
  for (index_t tokens : {1, 63, 64, 130})
    for (index_t dim : {64, 80}) {
      CAPTURE(tokens, dim);
      data::cache const c(
          {.sequences = 2, .kv_heads = 2, .group = 4, .tokens = tokens, .head_dim = dim});
      gear<4> const policy{{.group = 32, .value_group = 16}};
      data::compressed const run(policy, c.view(), evidence<>{},
                                 {.append_tokens = 150, .draft_tokens = 3});
      REQUIRE(run.result.ok());
      CHECK(run.intact());
      CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
      data::life life(run.packed, c);
      for (int i = 0; i < 140; ++i) {
        REQUIRE(life.append().ok());
        REQUIRE(life.settle().ok());
      }
      CHECK(run.packed.raw_row(0).key_coded == (tokens + 140) / 64 * 64);
      CHECK(life.intact());
      CHECK(life.storage_error() <= tolerance::four_bits);
      CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
    }
}

TEST_CASE("a decoded block misses less with directions of its own", "[gear]") {
  index_t const dim = 64, tokens = 64;
  auto const x = rows_with_structure(tokens, dim, 12);
  auto const missed = [&](auto const& codec) {
    data::stored const s(codec, x, dim);
    reference::matrix m;
    for (index_t t = 0; t < tokens; ++t) {
      m.emplace_back();
      for (index_t d = 0; d < dim; ++d) m.back().push_back(s.value(t, d));
    }
    return norm(minus(matrix_of(x, dim), m));
  };
  double last_key = 1e30, last_value = 1e30;
  for (index_t rank : {0, 1, 2, 4}) {
    gear_l<2> const policy{{.group = 32, .grown_rank = rank, .rounds = 8}};
    double const key = missed(policy.key_codec()), value = missed(policy.value_codec());
    CHECK(key < last_key);
    CHECK(value < last_value);
    last_key = key;
    last_value = value;
  }
  // Two directions by power iteration against the reference's two over the same rows.
  auto const all = matrix_of(x, dim);
  auto const residual = minus(all, reference::gear_coded(all, {2, 32, 1, 0, true}));
  auto const best = reference::gear_directions(residual, 2, 40, reference::gear_start);
  double const least = norm(minus(residual, reference::projected(residual, best)));
  gear_l<2, 2, f16, float> const long_run{{.group = 32, .grown_rank = 2, .rounds = 16}};
  CHECK(missed(long_run.key_codec()) >= least * (1 - tolerance::f16_storage));
  CHECK(missed(long_run.key_codec()) <= norm(residual));
}

TEST_CASE("gear's bytes are codes, outliers, coefficients and directions", "[gear]") {
  auto const key = gear<2>{}.key_codec();
  auto const value = gear<2>{}.value_codec();
  // 64 tokens of 128 channels: codes, two f16 a channel; two outliers a line with an f16 and a
  // byte of place; (64 + 128) * 2 numbers, which is more than 64 * 4.
  CHECK(key.sizes(128, 0).block_bytes == 64 * 128 / 4 + 4 * 128 + 2 * 3 * 128 + 2 * 384);
  CHECK(value.sizes(128, 0).block_bytes == 64 * 128 / 4 + 64 * 2 * 4 + 2 * 3 * 64 + 2 * 384);
  CHECK(key.sizes(128, 0).state_bytes == 16 + 2 * 4 * 128);
  // One range a channel of the prompt is in the state: no block has any.
  auto const wide = gear<2>{{.kcvt = true}};
  CHECK(wide.key_codec().sizes(128, 0).block_bytes == 64 * 128 / 4 + 2 * 3 * 128 + 2 * 384);
  CHECK(wide.key_codec().sizes(128, 0).state_bytes == 16 + 2 * 4 * 128 + 4 * 128);
  CHECK(wide.value_codec().sizes(128, 0).block_bytes ==
        64 * 128 / 4 + 64 * 4 + 2 * 3 * 64 + 2 * 384);
  auto const low = gear_l<2>{{.residual = 128}}.key_codec();  // nothing is spared: both are 512
  CHECK(low.sizes(128, 0).block_bytes == 128 * 128 / 4 + 2 * 4 * 128 + 2 * 512);
}

TEST_CASE("gear refuses what it cannot store and reads back what it wrote", "[gear]") {
  auto const refused = [](gear<2>::options const& o, index_t dim = 64) {
    gear<2> const p{o};
    return !p.key_codec().check(dim).ok() || !p.value_codec().check(dim).ok();
  };
  CHECK_FALSE(refused({}));
  CHECK(refused({.group = 48}));
  CHECK(refused({.residual = 96}));  // not whole groups of 64
  CHECK(refused({.residual = 2048}));
  CHECK(refused({.rank = 17}));
  CHECK(refused({.grown_rank = -1}));
  CHECK(refused({.rounds = 0}));
  CHECK(refused({.outliers = 0.6f}));
  CHECK(refused({.outliers = NAN}));
  CHECK(refused({}, 62));
  CHECK(refused({.outliers = 0.1f}, 131072));
  CHECK(gear_l<2>{{.residual = 8}}.value_codec().check(64).code == errc::invalid_option);
  auto const again = [](auto codec) {
    auto const f = codec.written();
    decltype(codec) out{};
    REQUIRE(decltype(codec)::read(f, out).ok());
    CHECK(out.written() == f);
    for (auto& word : {0, 1, 2, 4, 5, 6}) {
      auto wrong = f;
      wrong.words[word] = 0xfffffff1u;
      CHECK(decltype(codec)::read(wrong, out).code == errc::foreign);
    }
    auto wrong = f;
    ++wrong.id;
    CHECK(decltype(codec)::read(wrong, out).code == errc::foreign);
  };
  gear<2> const policy{
      {.group = 32, .residual = 96, .rank = 3, .grown_rank = 1, .outliers = 0.05f}};
  again(policy.key_codec());
  again(policy.value_codec());
  again(policy.key_codec().base);
  auto const wide = gear<2>{{.group = 32, .kcvt = true}}.key_codec();
  CHECK_FALSE(wide.written() == gear<2>{{.group = 32}}.key_codec().written());
  again(wide);
  again(policy.value_codec().base);
}
