// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// A scene laid out as some engine would have it: any of the library's layouts, cells in any order,
// padding, arrays per sequence or per head. One layout type stands for all, so that a policy is
// compiled once.

#include "life/scene.hpp"

#include <numeric>

namespace life {

enum class kind { dense, token_major, transposed, slots, pages, head_pages, csr, scattered };
inline constexpr kind all_kinds[] = {kind::dense, kind::token_major, kind::transposed,
                                     kind::slots, kind::pages,       kind::head_pages,
                                     kind::csr,   kind::scattered};

/// Any of the library's layouts, chosen at run time.
struct any_layout {
  life::kind kind = life::kind::dense;
  kvslim::strided dense = {};
  kvslim::slot_list slots = {};
  kvslim::block_table pages = {};
  kvslim::head_block_table head_pages = {};
  kvslim::csr_pages csr = {};
  kvslim::scattered<kvslim::strided> scattered = {};

  template <class F>
  decltype(auto) visit(F const& f) const {
    switch (kind) {
      case life::kind::slots:
        return f(slots);
      case life::kind::pages:
        return f(pages);
      case life::kind::head_pages:
        return f(head_pages);
      case life::kind::csr:
        return f(csr);
      case life::kind::scattered:
        return f(scattered);
      default:
        return f(dense);
    }
  }
  [[nodiscard]] index_t offset(index_t s, index_t h, index_t t) const noexcept {
    return visit([&](auto const& l) { return l.offset(s, h, t); });
  }
  [[nodiscard]] index_t channel_stride() const noexcept {
    return visit([](auto const& l) { return l.channel_stride(); });
  }
  [[nodiscard]] kvslim::status check(kvslim::extents const& e, index_t longest) const noexcept {
    return visit([&](auto const& l) { return l.check(e, longest); });
  }
};

/// The memory of one plane, with a layout over it.
template <class T>
struct laid_plane {
  std::vector<T> memory;
  std::vector<std::int32_t> table, indptr;
  std::vector<index_t> origins;
  any_layout layout;

  void make(dice& d, kind k, kvslim::extents const& e, index_t cells, index_t dim) {
    index_t const S = e.sequences, H = e.kv_heads, row = cells * dim;
    layout = {};
    layout.kind = k;
    index_t elements = S * H * row;
    layout.dense = {H * row, row, dim, 1};
    if (k == kind::token_major) layout.dense = {H * row, dim, H * dim, 1};
    if (k == kind::transposed) layout.dense = {H * row, row, 1, cells};
    index_t const page = d.in(1, 7), width = (cells + page - 1) / page;
    auto const shuffled = [&](index_t n) {
      table.resize(at(n));
      std::iota(table.begin(), table.end(), 0);
      for (index_t i = n - 1; i > 0; --i) std::swap(table[at(i)], table[at(d.in(0, i))]);
    };
    if (k == kind::slots) {
      shuffled(S * cells);
      layout.slots = {table.data(), cells, H * dim, dim, 1};
    }
    if (k == kind::pages || k == kind::csr) {
      shuffled(S * width);
      elements = S * width * page * H * dim;
      layout.pages = {table.data(), width, page, page * H * dim, dim, H * dim, 1};
      for (index_t s = 0; s <= S; ++s) indptr.push_back(static_cast<std::int32_t>(s * width));
      layout.csr = {indptr.data(), table.data(), page, page * H * dim, page * dim, dim, 1};
    }
    if (k == kind::head_pages) {
      shuffled(S * H * width);
      elements = S * H * width * page * dim;
      layout.head_pages = {table.data(), H, width, page, page * dim, dim, 1};
    }
    if (k == kind::scattered) {
      shuffled(S);
      for (index_t s = 0; s < S; ++s) origins.push_back(table[at(s)] * H * row);
      layout.scattered = {layout.dense, origins.data()};
    }
    // What no token owns is NaN where the type has one: nobody may read it.
    memory.assign(at(elements), kvslim::from_float<T>(NAN));
  }
};

template <class TK, class TV>
class laid_out {
 public:
  using view_type =
      kvslim::cache_view<kvslim::plane<TK const, any_layout>, kvslim::plane<TV const, any_layout>>;

  laid_out(dice& d, scene const& x) : x_(x) { arrange(d); }

  /// The same cells in other memory.
  void lay(dice& d, kind keys, kind values) {
    k_ = {};
    v_ = {};
    k_.make(d, keys, x_.e, cells_, x_.e.head_dim);
    v_.make(d, values, x_.e, cells_, x_.e.value_width());
    for (index_t r = 0; r < x_.rows(); ++r)
      for (index_t c = 0; c < length(r); ++c) {
        index_t const t = place_[at(r)][at(c)], s = r / x_.e.kv_heads, h = r % x_.e.kv_heads;
        if (t < 0) continue;
        put(k_, s, h, c, x_.k[at(r)].data() + t * x_.e.head_dim, x_.e.head_dim);
        put(v_, s, h, c, x_.v[at(r)].data() + t * x_.e.value_width(), x_.e.value_width());
      }
  }
  [[nodiscard]] view_type view() const {
    view_type out{};
    out.extent = x_.e;
    out.extent.tokens = cells_;
    out.k = {k_.memory.data(), k_.layout};
    out.v = {v_.memory.data(), v_.layout};
    index_t const H = x_.e.kv_heads, step = x_.per_head ? cells_ : 0;
    if (given_lengths_)
      out.lengths = x_.per_head ? kvslim::row_lengths{lengths_.data(), H, 1}
                                : kvslim::row_lengths{lengths_.data(), H, 0};
    index_t const sequence = H * cells_;
    if (x_.order == order::free) out.positions = {positions_.data(), sequence, step};
    if (x_.order != order::plain || x_.has_pins) out.valid = {valid_.data(), sequence, step};
    if (x_.has_biases) out.bias = {biases_.data(), sequence, step};
    return out;
  }
  [[nodiscard]] float const* scores() const { return scores_.data(); }
  [[nodiscard]] index_t cells() const { return cells_; }
  /// Positions as the view says them, by (row, token in text order).
  [[nodiscard]] std::int32_t position(index_t r, index_t t) const { return said_[at(r)][at(t)]; }

 private:
  [[nodiscard]] index_t length(index_t r) const { return lengths_[at(r)]; }
  template <class T>
  static void put(laid_plane<T>& p, index_t s, index_t h, index_t c, float const* from,
                  index_t dim) {
    for (index_t i = 0; i < dim; ++i)
      p.memory[at(p.layout.offset(s, h, c) + i * p.layout.channel_stride())] =
          kvslim::from_float<T>(from[i]);
  }
  /// Which token lies in which cell.
  void arrange(dice& d) {
    index_t const H = x_.e.kv_heads, rows = x_.rows();
    place_.resize(at(rows));
    index_t longest = 1;
    for (index_t r = 0; r < rows; ++r) {
      auto& mine = place_[at(r)];
      if (!x_.per_head && r % H != 0) {
        mine = place_[at(r - r % H)];
        continue;
      }
      index_t const left = x_.order == order::padded ? d.small(9) : 0;
      for (index_t i = 0; i < left; ++i) mine.push_back(-1);
      for (index_t t = 0; t < x_.lengths[at(r)]; ++t) {
        mine.push_back(t);
        if (x_.order == order::padded && d.one_in(9)) mine.push_back(-1);
      }
      if (x_.order == order::free) {
        for (index_t i = d.small(9); i > 0; --i) mine.push_back(-1);
        if (d.one_in(2))
          for (index_t i = static_cast<index_t>(mine.size()) - 1; i > 0; --i)
            std::swap(mine[at(i)], mine[at(d.in(0, i))]);
      }
      longest = std::max(longest, static_cast<index_t>(mine.size()));
    }
    cells_ = longest;
    index_t const all = rows * cells_;
    positions_.assign(at(all), -7);  // of padding: never read
    valid_.assign(at(all), 0);
    biases_.assign(at(all), NAN);
    scores_.assign(at(all), NAN);
    said_.resize(at(rows));
    for (index_t r = 0; r < rows; ++r) {
      lengths_.push_back(static_cast<std::int32_t>(place_[at(r)].size()));
      given_lengths_ = given_lengths_ || lengths_.back() != cells_;
      said_[at(r)].resize(at(x_.lengths[at(r)]));
      for (index_t c = 0; c < length(r); ++c) {
        index_t const t = place_[at(r)][at(c)], i = r * cells_ + c;
        if (t < 0) continue;
        positions_[at(i)] = x_.positions[at(r)][at(t)];
        valid_[at(i)] = x_.pins[at(r)][at(t)];
        biases_[at(i)] = x_.biases[at(r)][at(t)];
        scores_[at(i)] = x_.scores[at(r)][at(t)];
        said_[at(r)][at(t)] =
            x_.order == order::free ? positions_[at(i)] : static_cast<std::int32_t>(c);
      }
    }
  }

  scene const& x_;
  index_t cells_ = 1;
  bool given_lengths_ = false;
  std::vector<std::vector<index_t>> place_;  // [rows][cells]: token or -1
  std::vector<std::vector<std::int32_t>> said_;
  laid_plane<TK> k_;
  laid_plane<TV> v_;
  std::vector<std::int32_t> lengths_, positions_;
  std::vector<std::uint8_t> valid_;
  std::vector<float> biases_, scores_;
};

}  // namespace life
