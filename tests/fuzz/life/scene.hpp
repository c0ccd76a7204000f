// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What a cache holds, before it lies anywhere: tokens in text order, and all that is said of them.

#include "life/dice.hpp"

#include <algorithm>
#include <cmath>
#include <set>

namespace life {

/// How the cells of a scene may lie.
enum class order {
  plain,   // cells are positions, nothing is padding
  padded,  // cells are positions, some are padding
  free     // positions are given: any order, padding anywhere
};

struct scene {
  kvslim::extents e;  // tokens: of the longest row
  index_t group = 1, window = 1;
  life::order order = life::order::plain;
  bool per_head = false, has_pins = false, has_biases = false;
  std::vector<index_t> lengths;                      // [rows]
  std::vector<std::vector<std::int32_t>> positions;  // [rows][tokens], ascending
  std::vector<std::vector<std::uint8_t>> pins;       // [rows][tokens]
  std::vector<std::vector<float>> biases;            // [rows][tokens]
  std::vector<std::vector<float>> k, v;              // [rows][tokens * dim]
  std::vector<std::vector<float>> scores;            // [rows][tokens]
  std::vector<float> queries;                        // [s][q_head][window][head_dim]
  float reach = 1.0f;                                // largest magnitude of K

  [[nodiscard]] index_t rows() const { return e.rows(); }
  [[nodiscard]] index_t q_heads() const { return e.kv_heads * group; }
};

/// K and V with one of several characters: plain, outlier channels, shifted, equal keys, zeros.
template <class TK, class TV>
void draw_rows(dice& d, scene& x, index_t r, int character) {
  index_t const n = x.lengths[at(r)], dim = x.e.head_dim, wide = x.e.value_width();
  auto& k = x.k[at(r)];
  auto& v = x.v[at(r)];
  k.resize(at(n * dim));
  v.resize(at(n * wide));
  for (index_t t = 0; t < n; ++t) {
    for (index_t c = 0; c < dim; ++c) {
      float y = d.normal();
      if (character == 1 && c % 13 == 3) y = y * 10.0f + 20.0f;
      if (character == 2) y += 8.0f;
      if (character == 3 && t > 0) y = k[at(c)];
      if (character == 4) y = 0.0f;
      if (character == 5) y *= 1e-6f;
      if (character == 6 && t > 0) y = 0.95f * k[at((t - 1) * dim + c)] + 0.1f * y;
      k[at(t * dim + c)] = rounded<TK>(y);
      x.reach = std::max(x.reach, std::abs(k[at(t * dim + c)]));
    }
    for (index_t c = 0; c < wide; ++c) {
      float y = d.normal();
      if (character == 1 && c % 11 == 2) y *= 20.0f;
      if (character == 4) y = 1.0f;
      if (character == 5) y *= 1e-5f;
      v[at(t * wide + c)] = rounded<TV>(y);
    }
  }
}

template <class TK, class TV>
scene draw_scene(dice& d, kvslim::extents const& e, index_t group, index_t window) {
  scene x;
  x.e = e;
  x.group = group;
  x.window = window;
  x.order = d.pick({order::plain, order::padded, order::free});
  x.per_head = d.one_in(3);
  x.has_pins = d.one_in(4);
  x.has_biases = d.one_in(4);
  bool const ragged = d.one_in(2), gaps = x.order == order::free && d.one_in(2);
  int const character = static_cast<int>(d.in(0, 6));
  index_t longest = 0;
  for (auto* list : {&x.k, &x.v, &x.biases, &x.scores}) list->resize(at(e.rows()));
  x.lengths.resize(at(e.rows()));
  x.positions.resize(at(e.rows()));
  x.pins.resize(at(e.rows()));
  for (index_t r = 0; r < e.rows(); ++r) {
    bool const leads = x.per_head || r % e.kv_heads == 0;
    index_t const first = r - r % e.kv_heads;
    x.lengths[at(r)] = !leads ? x.lengths[at(first)] : ragged ? d.in(0, e.tokens) : e.tokens;
    index_t const n = x.lengths[at(r)];
    longest = std::max(longest, n);
    std::int32_t p = gaps ? static_cast<std::int32_t>(d.in(0, 20)) : 0;
    for (index_t t = 0; t < n; ++t) {
      if (leads) {
        x.positions[at(r)].push_back(p);
        p += 1 + static_cast<std::int32_t>(gaps && d.one_in(4) ? d.in(0, 9) : 0);
        x.pins[at(r)].push_back(x.has_pins && d.one_in(8) ? 2 : 1);
      }
      float b = d.one_in(10) ? -INFINITY : d.normal();
      x.biases[at(r)].push_back(x.has_biases ? (leads ? b : x.biases[at(first)][at(t)]) : 0.0f);
      x.scores[at(r)].push_back(d.one_in(8) ? 0.5f : d.normal());
    }
    if (!leads) {
      x.positions[at(r)] = x.positions[at(first)];
      x.pins[at(r)] = x.pins[at(first)];
    }
    draw_rows<TK, TV>(d, x, r, character);
  }
  x.e.tokens = std::max<index_t>(longest, 1);
  x.queries.resize(at(e.sequences * e.kv_heads * group * window * e.head_dim));
  float const spread = d.one_in(6) ? 5.0f : 1.0f;
  for (float& q : x.queries) q = spread * d.normal();
  return x;
}

}  // namespace life
