// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What a stored cache should hold: tokens by position with the floats they came from, kept beside
// it through every operation.

#include "life/attend.hpp"

#include <cstring>
#include <map>

namespace life {

struct token {
  std::vector<float> k, v;
  float bias = 0.0f;
  bool pinned = false;
};

/// How far a stored channel may lie from what was given, as a fraction of the row's spread.
struct losses {
  double k = 0.0, v = 0.0;
  double floor = 1e-7;  // and this much: subnormal steps
};

struct shadow {
  std::vector<std::map<std::int32_t, token>> rows;
  std::vector<std::int32_t> next;
  losses loss;
  std::vector<double> k_spread, v_spread;  // [rows] of everything that ever came

  void came(index_t r, token const& t) {
    for (float x : t.k) k_spread[at(r)] = std::max(k_spread[at(r)], 2.0 * std::abs(double(x)));
    for (float x : t.v) v_spread[at(r)] = std::max(v_spread[at(r)], 2.0 * std::abs(double(x)));
  }
};

template <class Packed>
shadow read_back(Packed const& packed, losses loss) {
  auto const& e = packed.extents();
  shadow out;
  out.loss = loss;
  out.rows.resize(at(e.rows()));
  out.k_spread.assign(at(e.rows()), 0.0);
  out.v_spread.assign(at(e.rows()), 0.0);
  for (index_t r = 0; r < e.rows(); ++r) {
    auto const row = decode_row(packed, r);
    for (std::size_t i = 0; i < row.slots.size(); ++i) {
      token t;
      for (index_t d = 0; d < e.head_dim; ++d)
        t.k.push_back(float(row.k[i * at(e.head_dim) + at(d)]));
      for (index_t d = 0; d < e.value_width(); ++d)
        t.v.push_back(float(row.v[i * at(e.value_width()) + at(d)]));
      t.bias = float(row.bias[i]);
      t.pinned = packed.pinned(r / e.kv_heads, r % e.kv_heads, row.slots[i]);
      LIFE_CHECK(out.rows[at(r)].emplace(row.positions[i], t).second);
      out.came(r, t);
    }
    out.next.push_back(packed.raw_row(r).next_position);
  }
  return out;
}

/// The cache holds exactly these tokens, close to what they were.
template <class Packed>
void compare(Packed const& packed, shadow const& x) {
  auto const& e = packed.extents();
  LIFE_CHECK(packed.ready());
  for (index_t r = 0; r < e.rows(); ++r) {
    auto const& entry = packed.raw_row(r);
    LIFE_CHECK(entry.next_position == x.next[at(r)]);
    LIFE_CHECK(entry.tokens() == static_cast<index_t>(x.rows[at(r)].size()));
    LIFE_CHECK(entry.slots >= 0 && entry.slots <= entry.capacity && entry.holes >= 0);
    LIFE_CHECK(entry.key_coded <= entry.slots && entry.value_coded <= entry.slots);
    auto const row = decode_row(packed, r);
    LIFE_CHECK(row.slots.size() == x.rows[at(r)].size());
    double const k_loss = x.loss.k * x.k_spread[at(r)] + (x.loss.k > 0 ? x.loss.floor : 0.0);
    double const v_loss = x.loss.v * x.v_spread[at(r)] + (x.loss.v > 0 ? x.loss.floor : 0.0);
    for (std::size_t i = 0; i < row.slots.size(); ++i) {
      auto const found = x.rows[at(r)].find(row.positions[i]);
      LIFE_CHECK(found != x.rows[at(r)].end());
      LIFE_CHECK(row.positions[i] < entry.next_position);
      LIFE_CHECK(float(row.bias[i]) == found->second.bias);
      if (packed.layout().find(kvslim::side_kind::pin) >= 0)
        LIFE_CHECK(packed.pinned(r / e.kv_heads, r % e.kv_heads, row.slots[i]) ==
                   found->second.pinned);
      for (std::size_t d = 0; d < found->second.k.size(); ++d)
        LIFE_CHECK(std::abs(row.k[i * at(e.head_dim) + d] - double(found->second.k[d])) <= k_loss);
      for (std::size_t d = 0; d < found->second.v.size(); ++d)
        LIFE_CHECK(std::abs(row.v[i * at(e.value_width()) + d] - double(found->second.v[d])) <=
                   v_loss);
    }
  }
  LIFE_CHECK(packed.live_bytes() <= packed.bytes() && packed.bytes() <= packed.size());
}

/// Written, read again, and damaged.
template <class Packed>
void check_serialize(dice& d, Packed const& packed) {
  memory file(kvslim::serialized_bytes(packed));
  LIFE_OK(kvslim::serialize(packed, file.data(), file.size()));
  kvslim::inspected seen;
  LIFE_OK(kvslim::inspect(file.data(), file.size(), seen));
  LIFE_CHECK(seen.bytes == packed.bytes() && seen.extent.head_dim == packed.extents().head_dim);
  memory other(packed.bytes(), 16 * at(d.in(0, 2)));
  Packed const back(packed.layout(), other.data(), other.size());
  auto const before = other.copy();
  auto const at_byte = at(d.in(0, static_cast<index_t>(file.size()) - 1));
  auto const flip = static_cast<std::byte>(1 << d.in(0, 7));
  file.data()[at_byte] ^= flip;
  LIFE_CHECK(!kvslim::deserialize(file.data(), file.size(), back).ok());
  LIFE_CHECK(other.equals(before));
  file.data()[at_byte] ^= flip;
  std::size_t const cut = at(d.in(0, static_cast<index_t>(file.size()) - 1));
  LIFE_CHECK(!kvslim::deserialize(file.data(), cut, back).ok());
  LIFE_CHECK(other.equals(before));
  LIFE_OK(kvslim::deserialize(file.data(), file.size(), back));
  LIFE_CHECK(std::memcmp(other.data(), packed.storage(), other.size()) == 0);
}

template <class Packed>
void check_decode(dice& d, Packed const& packed, shadow const& x) {
  auto const& e = packed.extents();
  index_t n = 1;
  for (index_t r = 0; r < e.rows(); ++r) n = std::max<index_t>(n, packed.raw_row(r).slots);
  n += d.in(0, 2);
  std::vector<float> k(at(e.rows() * n * e.head_dim), asked::untouched);
  std::vector<float> v(at(e.rows() * n * e.value_width()), asked::untouched);
  std::vector<std::int32_t> positions(at(e.rows() * n), -9);
  memory scratch(kvslim::decode_bytes(packed.layout(), n));
  LIFE_OK(kvslim::decode(
      kvslim::cpu{}, packed, kvslim::dense_rows(k.data(), {e.sequences, e.kv_heads, n, e.head_dim}),
      kvslim::dense_rows(v.data(), {e.sequences, e.kv_heads, n, e.value_width()}), positions.data(),
      kvslim::workspace{scratch.data(), scratch.size()}));
  for (index_t r = 0; r < e.rows(); ++r) {
    index_t i = 0;
    auto const row = decode_row(packed, r);
    for (auto const& [position, held] : x.rows[at(r)]) {
      LIFE_CHECK(positions[at(r * n + i)] == position);
      auto const slot = static_cast<std::size_t>(
          std::find(row.positions.begin(), row.positions.end(), position) - row.positions.begin());
      for (index_t c = 0; c < e.head_dim; ++c)
        LIFE_CHECK(double(k[at((r * n + i) * e.head_dim + c)]) ==
                   row.k[slot * at(e.head_dim) + at(c)]);
      ++i;
    }
    if (i < n)
      LIFE_CHECK(positions[at(r * n + i)] == -9 &&
                 k[at((r * n + i) * e.head_dim)] == asked::untouched);
  }
}

}  // namespace life
