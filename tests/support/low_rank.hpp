// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What tests of low-rank codecs share: rows whose spectrum falls off, rotations in double, bases
// for tables, and a life that every such codec must stand.

#include "catch.hpp"
#include "life.hpp"
#include "oracle.hpp"
#include "reference/palu.hpp"
#include "tolerance.hpp"

#include <kvslim/kvslim.hpp>

#include <cmath>
#include <cstring>

namespace low_rank {

using data::index_t;
using kvslim::rope;

inline std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

/// `count` orthonormal vectors of `width` numbers.
inline reference::matrix orthonormal(index_t count, index_t width, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal;
  reference::matrix axes;
  while (static_cast<index_t>(axes.size()) < count) {
    std::vector<double> x(at(width));
    for (double& y : x) y = normal(engine);
    for (auto const& axis : axes) {
      double const along = std::inner_product(x.begin(), x.end(), axis.begin(), 0.0);
      for (std::size_t i = 0; i < x.size(); ++i) x[i] -= along * axis[i];
    }
    double const length = std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0));
    for (double& y : x) y /= length;
    axes.push_back(x);
  }
  return axes;
}

/// Rows that fall off by `ratio` from direction to direction, all rows of the view together.
inline void shape_rows(data::cache& c, double ratio, unsigned seed) {
  auto const& s = c.shape;
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal;
  auto const fill = [&](std::vector<float>& x, index_t dim) {
    index_t const width = s.rows() * dim;
    reference::matrix axes(at(width), std::vector<double>(at(width)));
    for (auto& axis : axes)
      for (double& y : axis) y = normal(engine) / std::sqrt(static_cast<double>(width));
    for (index_t t = 0; t < s.tokens; ++t) {
      std::vector<double> row(at(width));
      double size = 4;
      for (auto const& axis : axes) {
        double const share = size * normal(engine);
        for (std::size_t i = 0; i < row.size(); ++i) row[i] += share * axis[i];
        size *= ratio;
      }
      for (index_t r = 0; r < s.rows(); ++r)
        for (index_t d = 0; d < dim; ++d)
          x[at((r * s.tokens + t) * dim + d)] = static_cast<float>(row[at(r * dim + d)]);
    }
  };
  fill(c.k, s.head_dim);
  fill(c.v, s.value_width());
}

/// Tokens of several rows side by side.
inline reference::matrix side_by_side(std::vector<float> const& x, data::shape const& s,
                                      index_t dim, std::vector<index_t> const& rows) {
  reference::matrix m(at(s.tokens));
  for (index_t t = 0; t < s.tokens; ++t)
    for (index_t const r : rows)
      for (index_t d = 0; d < dim; ++d) m[at(t)].push_back(x[at((r * s.tokens + t) * dim + d)]);
  return m;
}

/// Rotates rows [row][token][channel] to positions, in double.
inline void turn(std::vector<float>& x, data::shape const& s,
                 std::vector<std::int32_t> const& positions, rope const& r) {
  index_t const dim = s.head_dim, turned = r.dims == 0 ? dim : r.dims;
  for (index_t row = 0; row < s.rows(); ++row)
    for (index_t t = 0; t < s.tokens; ++t)
      for (index_t i = 0; i < turned / 2; ++i) {
        float* const from = x.data() + (row * s.tokens + t) * dim;
        float& a = from[r.interleaved ? 2 * i : i];
        float& b = from[r.interleaved ? 2 * i + 1 : i + turned / 2];
        double const angle = positions[at(t)] *
                             std::pow(static_cast<double>(r.base),
                                      -2.0 * static_cast<double>(i) / static_cast<double>(turned));
        double const p = a, q = b;
        a = static_cast<float>(p * std::cos(angle) - q * std::sin(angle));
        b = static_cast<float>(q * std::cos(angle) + p * std::sin(angle));
      }
}
/// Likewise, to positions that are the tokens' places.
inline void turn(std::vector<float>& x, data::shape const& s, rope const& r = {}) {
  std::vector<std::int32_t> positions(at(s.tokens));
  std::iota(positions.begin(), positions.end(), 0);
  turn(x, s, positions, r);
}

/// A group's part of a table, [head][2][number][channel], from its left factor [channel][number].
inline void append_maps(std::vector<float>& table, reference::matrix const& left, index_t heads) {
  auto const up = reference::transposed(left);
  auto const down = reference::product(reference::inverse(reference::product(up, left)), up);
  std::size_t const dim = left.size() / at(heads);
  for (std::size_t h = 0; h < at(heads); ++h)
    for (auto const* const map : {&down, &up})
      for (auto const& row : *map)
        for (std::size_t d = 0; d < dim; ++d) table.push_back(static_cast<float>(row[h * dim + d]));
}

/// Factors without structure, of `groups` groups.
inline std::vector<float> any_maps(index_t groups, index_t heads, index_t dim, index_t rank,
                                   unsigned seed = 1) {
  std::vector<float> table;
  for (index_t g = 0; g < groups; ++g) {
    auto axes = orthonormal(rank, heads * dim, seed + static_cast<unsigned>(g));
    double size = 2;
    for (auto& axis : axes) {
      for (double& x : axis) x *= size;
      size = std::max(0.3, size * 0.9);
    }
    append_maps(table, reference::transposed(axes), heads);
  }
  return table;
}

inline double norm(reference::matrix const& a) {
  double sum = 0;
  for (auto const& row : a)
    for (double const x : row) sum += x * x;
  return std::sqrt(sum);
}
inline reference::matrix minus(reference::matrix a, reference::matrix const& b) {
  for (std::size_t t = 0; t < a.size(); ++t)
    for (std::size_t d = 0; d < a[t].size(); ++d) a[t][d] -= b[t][d];
  return a;
}

/// What a cache holds of several rows, side by side.
template <class Packed>
reference::matrix held(Packed const& packed, bool keys, index_t tokens,
                       std::vector<index_t> const& rows) {
  auto const& e = packed.extents();
  reference::matrix m(at(tokens));
  for (index_t t = 0; t < tokens; ++t)
    for (index_t const r : rows)
      for (index_t d = 0; d < (keys ? e.head_dim : e.value_width()); ++d)
        m[at(t)].push_back(keys ? packed.key(r, t, d) : packed.value(r, t, d));
  return m;
}

/// A cache of c's rows whose codecs read these tables.
template <class Policy>
struct bound : data::room<Policy> {
  bound(Policy const& policy, data::cache const& c, kvslim::codec_tables const& tables,
        kvslim::plan_options const& options = {})
      : data::room<Policy>(policy, c.view().extents(), options) {
    this->packed.bind(tables);
    auto const view = c.view();
    REQUIRE(kvslim::compress(kvslim::cpu{}, this->plan, view, kvslim::evidence<>{}, this->packed,
                             this->scratch)
                .ok());
    CHECK(this->intact());
  }
  /// Of several rows, side by side.
  [[nodiscard]] reference::matrix held(bool keys, std::vector<index_t> const& rows) const {
    return low_rank::held(this->packed, keys, this->packed.slots(0, 0), rows);
  }
};

/// What attention gives to queries [q_head][token][channel], each of which sees the tokens up to
/// its own: [token][q_head and channel].
template <class Packed>
reference::matrix attended(Packed const& packed, std::vector<float> const& q, index_t heads,
                           index_t tokens) {
  auto const& e = packed.extents();
  oracle::asked asked(packed, kvslim::dense_rows<kvslim::host_space, float const>(
                                  q.data(), {1, heads, tokens, e.head_dim}));
  data::buffer scratch(kvslim::attend_bytes(packed.layout(), heads, tokens));
  REQUIRE(kvslim::attend(kvslim::cpu{}, packed, asked.request,
                         kvslim::workspace{scratch.data(), scratch.size()})
              .ok());
  return side_by_side(asked.out, {.kv_heads = heads, .tokens = tokens}, e.value_width(), [&] {
    std::vector<index_t> all(at(heads));
    std::iota(all.begin(), all.end(), index_t{0});
    return all;
  }());
}

/// What attention and decode say of a cache is what its channels say one by one.
template <class Packed>
void agrees(Packed const& packed, data::cache const& c) {
  CHECK(oracle::attend_error(packed, c) <= tolerance::attend);
  auto const& e = packed.extents();
  index_t const n = packed.slots(0, 0);
  std::vector<float> k(at(e.rows() * n * e.head_dim)), v(at(e.rows() * n * e.value_width()));
  data::buffer scratch(kvslim::decode_bytes(packed.layout(), n));
  REQUIRE(
      kvslim::decode(kvslim::cpu{}, packed,
                     kvslim::dense_rows(k.data(), {e.sequences, e.kv_heads, n, e.head_dim}),
                     kvslim::dense_rows(v.data(), {e.sequences, e.kv_heads, n, e.value_width()}),
                     nullptr, kvslim::workspace{scratch.data(), scratch.size()})
          .ok());
  double key = 0, value = 0, most_key = 1e-9, most_value = 1e-9;
  for (index_t r = 0; r < e.rows(); ++r)
    for (index_t t = 0; t < n; ++t) {
      for (index_t d = 0; d < e.head_dim; ++d) {
        double const x = k[at((r * n + t) * e.head_dim + d)];
        key = std::max(key, std::abs(x - packed.key(r, t, d)));
        most_key = std::max(most_key, std::abs(x));
      }
      for (index_t d = 0; d < e.value_width(); ++d) {
        double const x = v[at((r * n + t) * e.value_width() + d)];
        value = std::max(value, std::abs(x - packed.value(r, t, d)));
        most_value = std::max(most_value, std::abs(x));
      }
    }
  CHECK(key <= tolerance::accumulated * most_key);
  CHECK(value <= tolerance::accumulated * most_value);
}

/// A prompt, tokens that wait exactly, tokens that are coded one by one, and the way through a
/// file. A codec that reads tables is refused before they are bound.
template <class Policy>
void lives(Policy const& policy, data::cache const& c, kvslim::codec_tables const& tables,
           index_t exact) {
  CAPTURE(c.shape.tokens, c.shape.head_dim);
  kvslim::plan_options const options{.append_tokens = 60, .draft_tokens = 30};
  data::room unbound(policy, c.view().extents(), options);
  if (!unbound.packed.has_tables()) {
    CHECK(kvslim::compress(kvslim::cpu{}, unbound.plan, c.view(), kvslim::evidence<>{},
                           unbound.packed, unbound.scratch)
              .code == kvslim::errc::invalid_pointer);
    CHECK(unbound.storage.untouched());
  }
  bound const room(policy, c, tables, options);
  agrees(room.packed, c);
  data::life life(room.packed, c);
  REQUIRE(life.append(25).ok());  // exact: nothing settles
  CHECK(room.packed.raw_row(0).value_coded == std::max<index_t>(0, c.shape.tokens - exact));
  REQUIRE(life.settle().ok());
  CHECK(room.packed.raw_row(0).value_coded == std::max<index_t>(0, c.shape.tokens + 25 - exact));
  for (int i = 0; i < 20; ++i) {
    REQUIRE(life.append().ok());
    REQUIRE(life.settle().ok());
  }
  REQUIRE(life.append(5).ok());
  CHECK(life.intact());
  agrees(room.packed, c);
  std::vector<std::byte> bytes(kvslim::serialized_bytes(room.packed));
  REQUIRE(kvslim::serialize(room.packed, bytes.data(), bytes.size()).ok());
  data::buffer storage(room.plan.packed_bytes());
  kvslim::packed_cache other(room.plan, storage);
  other.bind(tables);
  REQUIRE(kvslim::deserialize(bytes.data(), bytes.size(), other).ok());
  CHECK(oracle::attend_error(other, c) <= tolerance::attend);
}

/// A codec of this form reads what it wrote, and refuses it with any of these words changed.
template <class Codec>
void reads_back(Codec const& codec, std::initializer_list<int> words) {
  auto const f = codec.written();
  auto out = Codec{};
  REQUIRE(Codec::read(f, out).ok());
  CHECK(out.written() == f);
  for (int const word : words) {
    CAPTURE(word);
    auto wrong = f;
    wrong.words[word] = 0xfffffff1u;
    CHECK(Codec::read(wrong, out).code == kvslim::errc::foreign);
  }
  auto wrong = f;
  ++wrong.id;
  CHECK(Codec::read(wrong, out).code == kvslim::errc::foreign);
}

/// Caches that codecs with tables of two layers live in: f(shape).
template <class F>
void each_layered(F const& f) {
  f(data::shape{.sequences = 4, .kv_heads = 2, .group = 1, .tokens = 70, .head_dim = 80});
  f(data::shape{.sequences = 2, .kv_heads = 3, .group = 8, .tokens = 1, .head_dim = 32});
  f(data::shape{
      .sequences = 2, .kv_heads = 2, .group = 5, .tokens = 45, .head_dim = 20, .value_dim = 12});
}

/// A head's tokens take as many f16 as its ranks say, and the table none.
template <class Policy>
void stores_ranks() {
  auto const plan =
      kvslim::make_plan(Policy{{.kv_heads = 4, .key_rank = 16, .value_rank = 24}}, {1, 4, 64, 32});
  auto const row = plan.layout().parts(64, 1);
  CHECK(row.key_blocks == 0);
  CHECK(row.key_tail == 2 * 16 * 64);
  CHECK(row.value_tail - row.value_blocks == 2 * 24 * 64);
}

}  // namespace low_rank
