// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// The same logical cache in the memory layouts of engines.

#include "data.hpp"

#include <numeric>
#include <utility>

namespace data {

/// The same logical cache in other memory, as element type T. Each owns what its view needs; a view
/// lives until the next one is made.
template <class T>
class layouts {
 public:
  explicit layouts(cache const& c) : c_(c) {}

  auto dense() {
    return scatter([&](index_t w) { return kvslim::strided{H() * T_() * w, T_() * w, w, 1}; }, 0);
  }
  auto token_major() {
    return scatter([&](index_t w) { return kvslim::strided{T_() * H() * w, w, H() * w, 1}; }, 0);
  }
  /// Channel stride is not 1, tokens run backwards (negative stride).
  auto transposed_reversed() {
    return scatter(
        [&](index_t w) {
          return kvslim::strided{H() * w * T_(), w * T_(), -1, T_()};
        },
        T_() - 1);
  }
  auto slots() {
    table_ = permutation(S() * T_());
    return scatter(
        [&](index_t w) {
          return kvslim::slot_list{table_.data(), T_(), H() * w, w, 1};
        },
        0);
  }
  auto pages(index_t page) {
    table_ = permutation(S() * width(page));
    return scatter(
        [&](index_t w) {
          return kvslim::block_table{
              table_.data(), width(page), page, page * H() * w, w, H() * w, 1};
        },
        0);
  }
  /// Pages of their own for every head.
  auto head_pages(index_t page) {
    table_ = permutation(S() * H() * width(page));
    return scatter(
        [&](index_t w) {
          return kvslim::head_block_table{table_.data(), H(), width(page), page, page * w, w, 1};
        },
        0);
  }
  auto csr(index_t page) {
    table_ = permutation(S() * width(page));
    indptr_.resize(static_cast<std::size_t>(S() + 1));
    for (index_t s = 0; s <= S(); ++s)
      indptr_[static_cast<std::size_t>(s)] = static_cast<std::int32_t>(s * width(page));
    return scatter(
        [&](index_t w) {
          return kvslim::csr_pages{
              indptr_.data(), table_.data(), page, page * H() * w, page * w, w, 1};
        },
        0);
  }
  /// Sequences in any order, with room between them.
  auto scattered() {
    auto const order = permutation(S());
    bool keys = true;  // K's layout is asked for first
    return scatter(
        [&](index_t w) {
          auto& origin = std::exchange(keys, false) ? k_origin_ : v_origin_;
          origin.resize(order.size());
          for (std::size_t s = 0; s < order.size(); ++s)
            origin[s] = order[s] * (H() * T_() * w + 5 * w);
          return kvslim::scattered<kvslim::strided>{{0, T_() * w, w, 1}, origin.data()};
        },
        0);
  }

 private:
  [[nodiscard]] index_t S() const { return c_.shape.sequences; }
  [[nodiscard]] index_t T_() const { return c_.shape.tokens; }
  [[nodiscard]] index_t H() const { return c_.shape.kv_heads; }
  [[nodiscard]] index_t D() const { return c_.shape.head_dim; }
  [[nodiscard]] index_t width(index_t page) const { return (T_() + page - 1) / page; }
  static std::vector<std::int32_t> permutation(index_t n) {
    std::vector<std::int32_t> p(static_cast<std::size_t>(n));
    std::iota(p.begin(), p.end(), 0);
    std::shuffle(p.begin(), p.end(), std::mt19937(7));
    return p;
  }
  /// `layout_of(width)` makes the layout of K or V; room for a page more than the longest row.
  template <class LayoutOf>
  auto scatter(LayoutOf const& layout_of, index_t origin) {
    index_t const wide = c_.shape.value_width(), room = S() * H() * (T_() + 32);
    k_.assign(static_cast<std::size_t>(room * D()), T{});
    v_.assign(static_cast<std::size_t>(room * wide), T{});
    auto const key_layout = layout_of(D());
    auto const value_layout = layout_of(wide);
    using plane = kvslim::plane<T, std::remove_const_t<decltype(key_layout)>>;
    kvslim::cache_view<plane> const view{
        c_.shape.extents(), {k_.data() + origin, key_layout}, {v_.data() + origin, value_layout}};
    for (index_t s = 0; s < S(); ++s)
      for (index_t h = 0; h < H(); ++h)
        for (index_t t = 0; t < T_(); ++t) {
          for (index_t d = 0; d < D(); ++d)
            view.k.at(s, h, t, d) = kvslim::from_float<T>(c_.key(s, h, t, d));
          for (index_t d = 0; d < wide; ++d)
            view.v.at(s, h, t, d) = kvslim::from_float<T>(c_.value(s, h, t, d));
        }
    return view;
  }

  cache const& c_;
  std::vector<T> k_, v_;
  std::vector<std::int32_t> table_, indptr_;
  std::vector<index_t> k_origin_, v_origin_;
};

}  // namespace data
