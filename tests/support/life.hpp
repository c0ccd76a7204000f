// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// A packed cache that decodes: appended tokens are remembered exactly, to compare with what is
// stored. Scratch is exactly what each verb asks for.

#include "data.hpp"

#include <map>

namespace data {

template <class Packed>
class life {
 public:
  /// `rows_of` maps positions to exact K and V; a cache that was compressed from `c` starts with
  /// c's rows, whose positions are their indices.
  life(Packed const& packed, cache const& c, unsigned seed = 11)
      : packed_(packed),
        append_(kvslim::append_bytes(packed.layout())),
        settle_(kvslim::settle_bytes(packed.layout())),
        engine_(seed),
        truth_(static_cast<std::size_t>(packed.extents().rows())) {
    auto const& e = packed.extents();
    for (index_t r = 0; r < e.rows(); ++r)
      for (index_t t = 0; t < c.shape.tokens; ++t) {
        auto const at = static_cast<std::size_t>(r * c.shape.tokens + t);
        truth_[static_cast<std::size_t>(r)][static_cast<std::int32_t>(t)] = {
            slice_of(c.k, at, e.head_dim), slice_of(c.v, at, e.value_width())};
      }
  }

  /// Appends n random tokens to every row of the step.
  kvslim::status append(index_t n = 1, kvslim::step at = {}) {
    auto const& e = packed_.extents();
    index_t const sequences = at.sequences < 0 ? e.sequences - at.first_sequence : at.sequences;
    k_ = random(sequences * e.kv_heads * n * e.head_dim);
    v_ = random(sequences * e.kv_heads * n * e.value_width());
    std::vector<std::int32_t> next;
    for (index_t r = 0; r < e.rows(); ++r) next.push_back(packed_.raw_row(r).next_position);
    auto const done = kvslim::append(
        kvslim::cpu{}, packed_,
        kvslim::dense_rows(k_.data(), {sequences, e.kv_heads, n, e.head_dim}),
        kvslim::dense_rows(v_.data(), {sequences, e.kv_heads, n, e.value_width()}), append_, at);
    if (!done) return done;
    for (index_t i = 0; i < sequences * e.kv_heads; ++i) {
      if (at.active != nullptr && at.active[i / e.kv_heads] == 0) continue;
      auto const r = static_cast<std::size_t>(at.first_sequence * e.kv_heads + i);
      for (index_t t = 0; t < n; ++t) {
        auto const row = static_cast<std::size_t>(i * n + t);
        truth_[r][next[r] + static_cast<std::int32_t>(t)] = {slice_of(k_, row, e.head_dim),
                                                             slice_of(v_, row, e.value_width())};
      }
    }
    return done;
  }
  kvslim::status settle(kvslim::step at = {}) {
    return kvslim::settle(kvslim::cpu{}, packed_, settle_, at);
  }
  [[nodiscard]] bool intact() const { return append_.intact() && settle_.intact(); }

  /// The largest difference between a held token and what was given for its position, over the
  /// largest magnitude; -1 if a slot holds a position that was never given.
  [[nodiscard]] double storage_error() const {
    auto const& e = packed_.extents();
    double worst = 0, most = 1e-9;
    for (index_t r = 0; r < e.rows(); ++r)
      for (index_t slot = 0; slot < packed_.raw_row(r).slots; ++slot) {
        std::int32_t const position = packed_.position(r / e.kv_heads, r % e.kv_heads, slot);
        if (position == kvslim::empty_slot) continue;
        auto const found = truth_[static_cast<std::size_t>(r)].find(position);
        if (found == truth_[static_cast<std::size_t>(r)].end()) return -1;
        auto const& [k, v] = found->second;
        for (index_t d = 0; d < e.head_dim; ++d) {
          double const x = k[static_cast<std::size_t>(d)];
          worst = std::max(worst, std::abs(x - packed_.key(r, slot, d)));
          most = std::max(most, std::abs(x));
        }
        for (index_t d = 0; d < e.value_width(); ++d) {
          double const x = v[static_cast<std::size_t>(d)];
          worst = std::max(worst, std::abs(x - packed_.value(r, slot, d)));
          most = std::max(most, std::abs(x));
        }
      }
    return worst / most;
  }

 private:
  static std::vector<float> slice_of(std::vector<float> const& x, std::size_t row, index_t dim) {
    auto const from = x.begin() + static_cast<std::ptrdiff_t>(row) * dim;
    return {from, from + dim};
  }
  std::vector<float> random(index_t n) {
    std::normal_distribution<float> normal;
    std::vector<float> x(static_cast<std::size_t>(n));
    for (float& y : x) y = rounded(normal(engine_));
    return x;
  }

  Packed packed_;
  buffer append_, settle_;
  std::mt19937 engine_;
  std::vector<float> k_, v_;
  std::vector<std::map<std::int32_t, std::pair<std::vector<float>, std::vector<float>>>> truth_;
};

/// Positions that a row holds, ascending.
template <class Packed>
std::vector<index_t> held(Packed const& packed, index_t s, index_t h) {
  std::vector<index_t> out;
  for (index_t slot = 0; slot < packed.slots(s, h); ++slot)
    if (packed.position(s, h, slot) != kvslim::empty_slot)
      out.push_back(packed.position(s, h, slot));
  std::sort(out.begin(), out.end());
  return out;
}

/// The bytes of a filled cache, to show that a refused call wrote none.
template <class Packed>
std::vector<std::byte> bytes_of(Packed const& packed) {
  return {packed.storage(), packed.storage() + packed.size()};
}

}  // namespace data
