// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// KVQuant with loaded codebooks stores what the authors' functions give, with codebooks of the
// prompt what the reference gives, and its caches live.

#include "reference/kvquant.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <kvslim/kvslim.hpp>

#include <limits>
#include <string>

using namespace kvslim;

namespace {

using reference::codebook;
using reference::matrix;

rope const far_rope{.base = 5e5f};

/// Rows rotated to positions, or back, in double.
void turn(float* x, index_t dim, double position) {
  for (index_t i = 0; i < dim / 2; ++i) {
    double const angle =
        position * std::pow(5e5, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
    double const a = x[i], b = x[i + dim / 2];
    x[i] = static_cast<float>(a * std::cos(angle) - b * std::sin(angle));
    x[i + dim / 2] = static_cast<float>(b * std::cos(angle) + a * std::sin(angle));
  }
}
/// One row of a stored cache, K turned back to before RoPE.
template <class Packed>
matrix decoded(Packed const& packed, bool keys, index_t r, index_t tokens) {
  index_t const dim = keys ? packed.extents().head_dim : packed.extents().value_width();
  matrix out;
  for (index_t t = 0; t < tokens; ++t) {
    std::vector<float> row;
    for (index_t d = 0; d < dim; ++d)
      row.push_back(keys ? packed.key(r, t, d) : packed.value(r, t, d));
    if (keys) turn(row.data(), dim, -static_cast<double>(t));
    out.emplace_back(row.begin(), row.end());
  }
  return out;
}
matrix rows_of(std::vector<float> const& x, index_t row, index_t tokens, index_t dim) {
  matrix out;
  for (index_t t = 0; t < tokens; ++t) {
    auto const at = x.begin() + (row * tokens + t) * dim;
    out.emplace_back(at, at + dim);
  }
  return out;
}
/// Every value is the other's, but for the rounding of what is stored as f16, or of two levels one
/// that is as near to what was given.
void check_near(matrix const& got, matrix const& expected, matrix const& given) {
  REQUIRE(got.size() <= expected.size());
  for (std::size_t t = 0; t < got.size(); ++t)
    for (std::size_t d = 0; d < got[t].size(); ++d) {
      double const x = given[t][d], a = got[t][d], b = expected[t][d],
                   size = tolerance::f16_storage * std::max({1.0, std::abs(x), std::abs(b)});
      CAPTURE(t, d, x, a, b);
      REQUIRE((std::abs(a - b) <= size || std::abs(std::abs(a - x) - std::abs(b - x)) <= size));
    }
}
/// A record of a table: levels to find and to give, and what comes after.
std::vector<float> record(std::vector<float> const& find, std::vector<float> const& give,
                          std::vector<std::vector<float>> const& rest = {}) {
  std::vector<float> out = find;
  out.insert(out.end(), give.begin(), give.end());
  for (auto const& x : rest) out.insert(out.end(), x.begin(), x.end());
  return out;
}

template <int Bits>
void check_golden(golden const& g) {
  CAPTURE(Bits);
  std::string const bits = "_" + std::to_string(Bits);
  index_t const tokens = 32, dim = 32;
  data::cache c({.kv_heads = 1, .tokens = tokens, .head_dim = dim});
  c.k = g.floats("k");
  c.v = g.floats("v");
  for (index_t t = 0; t < tokens; ++t) turn(c.k.data() + t * dim, dim, static_cast<double>(t));
  auto const check = [&](std::vector<float> const& give, float part, std::string const& keys,
                         std::string const& values) {
    auto const kb = g.floats("k_codebook" + bits), vb = g.floats("v_codebook" + bits);
    auto const k_table = record(kb, give, {g.floats("k_low"), g.floats("k_high")});
    auto const v_table = record(vb, vb);
    using key = codebook_key<Bits, codebook_from::table, float>;
    codec_pair const policy{rebuilt_key<key>{{1, 0.1f, 1}, far_rope},
                            codebook_value<Bits, codebook_from::table, float, float>{1, part, 1}};
    data::room room(policy, c.view().extents(), {});
    room.packed.bind({.key = k_table.data(), .value = v_table.data()});
    REQUIRE(compress(cpu{}, room.plan, c.view(), evidence<>{}, room.packed, room.scratch).ok());
    CHECK(room.packed.raw_row(0).key_coded == tokens);
    check_near(decoded(room.packed, true, 0, tokens), rows_of(g.floats(keys), 0, tokens, dim),
               rows_of(g.floats("k"), 0, tokens, dim));
    check_near(decoded(room.packed, false, 0, tokens), rows_of(g.floats(values), 0, tokens, dim),
               rows_of(c.v, 0, tokens, dim));
    CHECK(oracle::attend_error(room.packed, c) <= tolerance::attend);
    for (index_t d = 0; d < dim; ++d) CHECK(room.packed.key(0, 0, d) == c.key(0, 0, 0, d));
  };
  auto give = g.floats("k_codebook" + bits);
  check(give, 0.01f, "k_value" + bits, "v_value" + bits);
  if (Bits == 4) check(give, 0.1f, "k_value" + bits, "v_wide_4");
  if (Bits == 2) {
    for (float& x : give) x = 1.05f * x + 0.01f;
    check(give, 0.01f, "k_norm_2", "v_value_2");
  }
}

/// Codebooks of the prompt against percentiles and means of it, codes against the reference.
template <int KeyBits, int ValueBits>
void check_fitted(data::shape const& shape, float outliers, index_t sinks) {
  CAPTURE(KeyBits, ValueBits, shape.head_dim, shape.tokens, outliers);
  data::cache const c(shape, 3);
  kvquant<KeyBits, ValueBits, codebook_from::prompt, float, float> const policy{
      {.sinks = sinks, .outliers = outliers, .rotation = far_rope}};
  data::compressed const run(policy, c.view(), {}, {.append_tokens = 40});
  INFO(run.result.message);
  REQUIRE(run.result.ok());
  CHECK(run.intact());
  index_t const dim = shape.head_dim, wide = shape.value_width(), n = shape.tokens;
  auto const as_double = [](float const* x, index_t count) {
    return std::vector<double>(x, x + count);
  };
  for (index_t r = 0; r < shape.rows(); ++r) {
    auto const row = run.packed.raw_row(r);
    auto const keys = run.packed.keys(r);
    auto k = rows_of(c.k, r, n, dim);
    for (index_t t = 0; t < n; ++t) {
      std::vector<float> x(k[static_cast<std::size_t>(t)].begin(),
                           k[static_cast<std::size_t>(t)].end());
      turn(x.data(), dim, -static_cast<double>(t));
      k[static_cast<std::size_t>(t)].assign(x.begin(), x.end());
    }
    index_t const coded = row.key_coded, levels = index_t{1} << KeyBits,
                  looked = std::min(coded, index_t{2048});
    auto const* const f = reinterpret_cast<float const*>(keys.state + 16 + 4 * sinks * dim);
    codebook const book{as_double(f, levels), as_double(f + levels, levels)};
    auto const lower = as_double(f + 2 * levels, dim), upper = as_double(f + 2 * levels + dim, dim);
    std::vector<double> sum(book.find.size()), count(book.find.size());
    for (index_t d = 0; d < dim && coded > 0; ++d) {
      std::vector<double> channel;
      auto const at = static_cast<std::size_t>(d);
      for (index_t i = 0; i < looked; ++i)
        channel.push_back(k[static_cast<std::size_t>(i * coded / looked)][at]);
      double const size = 1e-5 * (1 + std::abs(lower[at]) + std::abs(upper[at]));
      CHECK(std::abs(lower[at] - reference::percentile(channel, outliers / 2.0)) <= size);
      CHECK(std::abs(upper[at] - reference::percentile(channel, 1 - outliers / 2.0)) <= size);
      for (index_t i = 0; i < looked; ++i) {
        if (i * coded / looked < sinks) continue;
        double const y = (channel[static_cast<std::size_t>(i)] - (lower[at] + upper[at]) / 2) /
                         ((upper[at] - lower[at]) / 2);
        if (std::abs(y) > 1) continue;
        std::size_t best = 0;
        for (std::size_t level = 1; level < book.find.size(); ++level)
          if (std::abs(y - book.find[level]) < std::abs(y - book.find[best])) best = level;
        sum[best] += y;
        count[best] += 1;
      }
    }
    // A k-means: levels are the means of what is next to them, but for the bins' width.
    for (std::size_t i = 0; i < book.find.size(); ++i)
      if (count[i] > 0) CHECK(std::abs(sum[i] / count[i] - book.find[i]) <= 2 * 2.0 / 512);
    matrix given(k.begin(), k.begin() + coded);
    auto const room = static_cast<std::size_t>(32 * static_cast<float>(dim) * outliers + 0.5f);
    check_near(
        decoded(run.packed, true, r, coded),
        reference::kvquant_keys(given, lower, upper, book, static_cast<std::size_t>(sinks), room),
        given);
    auto const v = rows_of(c.v, r, n, wide);
    matrix const few(v.begin(), v.begin() + row.value_coded);
    auto const* const b =
        reinterpret_cast<float const*>(run.packed.values(r).state + 16 + 4 * sinks * wide);
    index_t const value_levels = index_t{1} << ValueBits;
    codebook const values{as_double(b, value_levels), as_double(b + value_levels, value_levels)};
    check_near(decoded(run.packed, false, r, row.value_coded),
               reference::kvquant_values(few, values, static_cast<std::size_t>(sinks), outliers),
               few);
  }
  CHECK(oracle::attend_error(run.packed, c, 2) <= tolerance::attend);
  data::life life(run.packed, c);
  for (int i = 0; i < 38; ++i) {
    REQUIRE(life.append().ok());
    REQUIRE(life.settle().ok());
  }
  CHECK(life.intact());
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  std::vector<std::byte> bytes(serialized_bytes(run.packed));
  REQUIRE(serialize(run.packed, bytes.data(), bytes.size()).ok());
  data::buffer storage(run.plan.packed_bytes());
  packed_cache const other(run.plan, storage);
  REQUIRE(deserialize(bytes.data(), bytes.size(), other).ok());
  CHECK(oracle::attend_error(other, c) <= tolerance::attend);
}

}  // namespace

TEST_CASE("kvquant stores what the authors' functions give", "[golden][kvquant]") {
  golden const g("kvquant");
  check_golden<2>(g);
  check_golden<3>(g);
  check_golden<4>(g);
}

TEST_CASE("kvquant's codebooks of the prompt are its k-means", "[kvquant]") {
  check_fitted<4, 2>({.sequences = 2, .kv_heads = 1, .group = 4, .tokens = 70, .head_dim = 64},
                     0.01f, 1);
  check_fitted<2, 3>({.kv_heads = 2, .group = 8, .tokens = 100, .head_dim = 80, .value_dim = 48},
                     0.1f, 5);
  check_fitted<3, 4>({.kv_heads = 1, .group = 1, .tokens = 33, .head_dim = 4, .value_dim = 1}, 0.0f,
                     0);
  check_fitted<4, 4>({.kv_heads = 1, .group = 2, .tokens = 1, .head_dim = 32}, 0.01f, 1);
  check_fitted<2, 2>({.kv_heads = 1, .group = 2, .tokens = 2300, .head_dim = 4}, 0.02f, 1);
}

TEST_CASE("kvquant reads each layer's and head's record of a table", "[kvquant]") {
  data::shape const shape{.sequences = 4, .kv_heads = 2, .group = 2, .tokens = 40, .head_dim = 32};
  data::cache const c(shape);
  std::vector<float> keys, values;
  for (int i = 0; i < 4; ++i) {
    std::vector<float> const book{-0.9f, -0.1f * static_cast<float>(i), 0.2f, 0.8f};
    auto const next = record(
        book, book,
        {std::vector<float>(32, -2.0f - static_cast<float>(i)), std::vector<float>(32, 2.0f)});
    keys.insert(keys.end(), next.begin(), next.end());
    auto const more = record(book, book);
    values.insert(values.end(), more.begin(), more.end());
  }
  kvquant<2, 2, codebook_from::table, float, float> const policy{
      {.layers = 2, .kv_heads = 2, .outliers = 0.1f, .rotation = far_rope}};
  data::room room(policy, c.view().extents(), {.evicts = true});
  room.packed.bind({.key = keys.data(), .value = values.data()});
  REQUIRE(compress(cpu{}, room.plan, c.view(), evidence<>{}, room.packed, room.scratch).ok());
  auto unbound = room.packed;  // as it is after loading
  unbound.bind({});
  oracle::asked ask(unbound, c.queries(1));
  CHECK(attend(cpu{}, unbound, ask.request).code == errc::invalid_pointer);
  for (index_t r = 0; r < shape.rows(); ++r) {
    auto const i = static_cast<double>(r % 4);
    codebook const book{{-0.9, -0.1 * i, 0.2, 0.8}, {-0.9, -0.1 * i, 0.2, 0.8}};
    auto const v = rows_of(c.v, r, 40, 32);
    check_near(decoded(room.packed, false, r, 40), reference::kvquant_values(v, book, 1, 0.1), v);
    auto k = rows_of(c.k, r, 32, 32);
    for (index_t t = 0; t < 32; ++t) {
      std::vector<float> x(32);
      for (index_t d = 0; d < 32; ++d) x[static_cast<std::size_t>(d)] = c.key(r / 2, r % 2, t, d);
      turn(x.data(), 32, -static_cast<double>(t));
      k[static_cast<std::size_t>(t)].assign(x.begin(), x.end());
    }
    check_near(decoded(room.packed, true, r, 32),
               reference::kvquant_keys(k, std::vector<double>(32, -2.0 - i),
                                       std::vector<double>(32, 2.0), book, 1, 102),
               k);
  }
  std::vector<std::int32_t> const victims{0, 1, 2, 3, 31, 32, 33, 39};
  REQUIRE(evict(cpu{}, room.packed, victims.data()).ok());
  CHECK(oracle::attend_error(room.packed, c) <= tolerance::attend);
}

TEST_CASE("kvquant is attended to alike on every path", "[kvquant][isa]") {
  isa::path const before = isa::current();
  auto const check = [&](data::shape const& shape, rope const& rotation, index_t first) {
    data::cache const c(shape, 7);
    kvquant<4, 4, codebook_from::prompt, float, float> const policy{
        {.sinks = 3, .outliers = 0.05f, .rotation = rotation}};
    data::compressed const run(policy, c.view(), {});
    REQUIRE(run.result.ok());
    std::vector<std::int32_t> begin_end, counts;
    for (index_t r = 0; r < shape.rows(); ++r, counts.push_back(2))
      for (index_t const x : {first, first + 9, first + 10, shape.tokens - 1})
        begin_end.push_back(static_cast<std::int32_t>(x));
    for (auto const wanted : isa::every_path) {
      if (isa::use(wanted) != wanted) continue;
      INFO("path " << isa::name_of(wanted) << ", dim " << shape.head_dim);
      CHECK(oracle::attend_error(run.packed, c, 2) <= tolerance::attend);
      oracle::asked seen(run.packed, c.queries(1));
      seen.request.visible = {begin_end.data(), counts.data(), 2};
      REQUIRE(attend(cpu{}, run.packed, seen.request).ok());
      CHECK(oracle::error_of(run.packed, seen.request) <= tolerance::attend);
    }
    isa::use(before);
  };
  check({.kv_heads = 1, .group = 8, .tokens = 75, .head_dim = 128}, far_rope, 17);
  check({.kv_heads = 2, .group = 3, .tokens = 70, .head_dim = 80, .value_dim = 20},
        {.dims = 36, .interleaved = true}, 1);
  check({.kv_heads = 1, .group = 1, .tokens = 64, .head_dim = 12, .value_dim = 33}, {.dims = 6}, 0);
  check({.kv_heads = 1, .group = 5, .tokens = 33, .head_dim = 4}, {.base = 0.5f}, 31 - 12);
}

TEST_CASE("kvquant takes as many bits as its formula says", "[kvquant]") {
  kvquant<4, 3, codebook_from::table> const policy{{.outliers = 0.0625f}};
  auto const key = policy.key_codec().sizes(128, 4096);
  CHECK(8 * key.block_bytes == 32 * (4 * 128 + 2 * 128));  // 0.0625 * 32 bits an element
  auto const value = policy.value_codec().sizes(128, 4096);
  CHECK(8 * value.block_bytes == 4 * (3 * 128 + 32 + 2 * 4 * 24));  // 1 + 3 at either end
}

TEST_CASE("kvquant says what it needs", "[kvquant]") {
  auto const check = [](auto const& policy, index_t dim) {
    return make_plan(policy, {1, 1, 10, dim}).check().code;
  };
  CHECK(check(kvquant<4>{}, 64) == errc::ok);
  CHECK(check(kvquant<4>{}, 66) == errc::invalid_shape);
  CHECK(check(kvquant<4>{}, 1024) == errc::invalid_shape);
  CHECK(check(codec_pair{dense_key<f16>{}, codebook_value<4>{}}, 1 << 17) == errc::invalid_shape);
  CHECK(check(kvquant<4>{{.layers = 0}}, 64) == errc::invalid_option);
  CHECK(check(kvquant<4>{{.sinks = -1}}, 64) == errc::invalid_option);
  CHECK(check(kvquant<4>{{.sinks = 1025}}, 64) == errc::invalid_option);
  CHECK(check(kvquant<4>{{.outliers = 0.2f}}, 64) == errc::invalid_option);
  CHECK(check(kvquant<4>{{.outliers = std::numeric_limits<float>::quiet_NaN()}}, 64) ==
        errc::invalid_option);
  CHECK(check(kvquant<4>{{.rotation = {.dims = 3}}}, 64) == errc::invalid_option);
  data::cache const c({.kv_heads = 1, .tokens = 8, .head_dim = 64});
  data::compressed const unbound(kvquant<4>{}, c.view());
  CHECK(unbound.result.code == errc::invalid_pointer);
  CHECK(unbound.storage.untouched());
  auto const key = kvquant<3>{{.sinks = 7, .outliers = 0.05f}}.key_codec();
  auto back = kvquant<3>{}.key_codec();
  REQUIRE(decltype(back)::read(key.written(), back).ok());
  CHECK(back.written() == key.written());
  auto fitted = kvquant<3, 3, codebook_from::prompt>{}.key_codec();
  CHECK(decltype(fitted)::read(key.written(), fitted).code == errc::foreign);
  form bad = key.written();
  bad.words[1] = 0x7fc00000u;
  CHECK(decltype(back)::read(bad, back).code == errc::foreign);
  auto const value = kvquant<3>{{.layers = 3}}.value_codec();
  auto other = kvquant<3>{}.value_codec();
  REQUIRE(decltype(other)::read(value.written(), other).ok());
  CHECK(other.written() == value.written());
  bad = value.written();
  bad.words[2] = 0;
  CHECK(decltype(other)::read(bad, other).code == errc::foreign);
}

TEST_CASE("kvquant stores tokens that are all alike", "[kvquant]") {
  data::cache c({.kv_heads = 1, .tokens = 64, .head_dim = 32});
  std::fill(c.k.begin(), c.k.end(), 0.0f);
  std::fill(c.v.begin(), c.v.end(), 3.0f);
  data::compressed const run(kvquant<2, 2, codebook_from::prompt>{}, c.view());
  REQUIRE(run.result.ok());
  for (index_t d = 0; d < 32; ++d) {
    CHECK(run.packed.key(0, 40, d) == 0.0f);
    CHECK(run.packed.value(0, 40, d) == 3.0f);
  }
}
