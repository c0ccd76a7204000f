// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Seeded inputs: caches with outlier channels, sinks and correlated neighbours, in any memory
// layout, and aligned buffers.

#include <kvslim/kvslim.hpp>

#include <algorithm>
#include <cmath>
#include <memory>
#include <new>
#include <numeric>
#include <random>
#include <vector>

namespace data {

using kvslim::index_t;

class buffer {
 public:
  /// `slack` guard bytes behind the buffer are filled with a pattern and checked by intact().
  explicit buffer(std::size_t bytes, std::size_t slack = 256)
      : size_(bytes), slack_(slack), data_(new (std::align_val_t{256}) std::byte[size_ + slack_]) {
    std::fill(data_.get(), data_.get() + size_ + slack_, std::byte{0xa5});
  }
  [[nodiscard]] std::byte* data() const { return data_.get(); }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] bool intact() const {
    return std::all_of(data_.get() + size_, data_.get() + size_ + slack_,
                       [](std::byte b) { return b == std::byte{0xa5}; });
  }
  [[nodiscard]] bool untouched() const {
    return std::all_of(data_.get(), data_.get() + size_ + slack_,
                       [](std::byte b) { return b == std::byte{0xa5}; });
  }

 private:
  struct release {
    void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{256}); }
  };
  std::size_t size_, slack_;
  std::unique_ptr<std::byte[], release> data_;
};

struct shape {
  index_t sequences = 1, kv_heads = 2, group = 2, tokens = 200, head_dim = 64;
  [[nodiscard]] kvslim::extents extents() const { return {sequences, kv_heads, tokens, head_dim}; }
};

/// Logical K and V as doubles-friendly floats [s][h][t][d], already rounded to f16 so that every
/// element type but fp8 holds them.
struct cache {
  data::shape shape;
  std::vector<float> k, v, q;  // q: window queries [s][q_head][window][d], window 64
  static constexpr index_t window = 64;

  explicit cache(data::shape s, unsigned seed = 1) : shape(s) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    auto const round = [](float x) {
      return kvslim::to_float(kvslim::from_float<kvslim::bf16>(x));
    };
    auto const n = static_cast<std::size_t>(s.sequences * s.kv_heads * s.tokens * s.head_dim);
    k.resize(n);
    v.resize(n);
    for (index_t r = 0; r < s.sequences * s.kv_heads; ++r)
      for (index_t t = 0; t < s.tokens; ++t)
        for (index_t d = 0; d < s.head_dim; ++d) {
          auto const at = static_cast<std::size_t>((r * s.tokens + t) * s.head_dim + d);
          float x = normal(engine);
          if (t % 5 != 0 && t > 0)
            x = 0.8f * k[at - static_cast<std::size_t>(s.head_dim)] +
                0.4f * x;                                  // similar neighbours
          if (d % 17 == 3) x += t % 5 == 0 ? 4.0f : 0.0f;  // outlier channels
          k[at] = round(x);
          v[at] = round(normal(engine));
        }
    q.resize(static_cast<std::size_t>(s.sequences * s.kv_heads * s.group * window * s.head_dim));
    for (float& x : q) x = round(normal(engine));
  }
  [[nodiscard]] auto view() const {
    return kvslim::dense_cache(k.data(), v.data(), shape.extents());
  }
  [[nodiscard]] auto queries(index_t n) const {
    index_t const d = shape.head_dim, heads = shape.kv_heads * shape.group;
    return kvslim::rows_view<float const>{
        q.data(), shape.sequences, heads, n, d, {heads * window * d, window * d, d, 1}};
  }
  [[nodiscard]] float key(index_t s, index_t h, index_t t, index_t d) const {
    return k[index(s, h, t, d)];
  }
  [[nodiscard]] float value(index_t s, index_t h, index_t t, index_t d) const {
    return v[index(s, h, t, d)];
  }
  [[nodiscard]] std::size_t index(index_t s, index_t h, index_t t, index_t d) const {
    return static_cast<std::size_t>(((s * shape.kv_heads + h) * shape.tokens + t) * shape.head_dim +
                                    d);
  }
};

/// The same logical cache in other memory, as element type T. Each owns what its view needs.
template <class T>
class layouts {
 public:
  explicit layouts(cache const& c) : c_(c) {}

  auto dense() {
    return scatter(kvslim::strided{c_.shape.kv_heads * T_() * D(), T_() * D(), D(), 1},
                   c_.shape.sequences * c_.shape.kv_heads * T_() * D());
  }
  auto token_major() {
    return scatter(kvslim::strided{T_() * H() * D(), D(), H() * D(), 1},
                   c_.shape.sequences * T_() * H() * D());
  }
  /// Channel stride is not 1, tokens run backwards (negative stride).
  auto transposed_reversed() {
    auto view = scatter(kvslim::strided{H() * D() * T_(), D() * T_(), -1, T_()},
                        c_.shape.sequences * H() * D() * T_(), T_() - 1);
    return view;
  }
  auto slots() {
    slots_ = permutation(c_.shape.sequences * T_());
    return scatter(kvslim::slot_list{slots_.data(), T_(), H() * D(), D(), 1},
                   c_.shape.sequences * T_() * H() * D());
  }
  auto pages(index_t page) {
    index_t const width = (T_() + page - 1) / page;
    slots_ = permutation(c_.shape.sequences * width);
    return scatter(
        kvslim::block_table{slots_.data(), width, page, page * H() * D(), D(), H() * D(), 1},
        c_.shape.sequences * width * page * H() * D());
  }
  auto csr(index_t page) {
    index_t const width = (T_() + page - 1) / page;
    slots_ = permutation(c_.shape.sequences * width);
    indptr_.resize(static_cast<std::size_t>(c_.shape.sequences + 1));
    for (index_t s = 0; s <= c_.shape.sequences; ++s)
      indptr_[static_cast<std::size_t>(s)] = static_cast<std::int32_t>(s * width);
    return scatter(kvslim::csr_pages{indptr_.data(), slots_.data(), page, page * H() * D(),
                                     page * D(), D(), 1},
                   c_.shape.sequences * width * page * H() * D());
  }

 private:
  [[nodiscard]] index_t T_() const { return c_.shape.tokens; }
  [[nodiscard]] index_t H() const { return c_.shape.kv_heads; }
  [[nodiscard]] index_t D() const { return c_.shape.head_dim; }
  static std::vector<std::int32_t> permutation(index_t n) {
    std::vector<std::int32_t> p(static_cast<std::size_t>(n));
    std::iota(p.begin(), p.end(), 0);
    std::shuffle(p.begin(), p.end(), std::mt19937(7));
    return p;
  }
  template <class Layout>
  auto scatter(Layout layout, index_t elements, index_t origin = 0) {
    k_.assign(static_cast<std::size_t>(elements), T{});
    v_.assign(static_cast<std::size_t>(elements), T{});
    using plane = kvslim::plane<T, Layout>;
    kvslim::cache_view<plane> const view{
        c_.shape.extents(), {k_.data() + origin, layout}, {v_.data() + origin, layout}};
    for (index_t s = 0; s < c_.shape.sequences; ++s)
      for (index_t h = 0; h < H(); ++h)
        for (index_t t = 0; t < T_(); ++t)
          for (index_t d = 0; d < D(); ++d) {
            view.k.at(s, h, t, d) = kvslim::from_float<T>(c_.key(s, h, t, d));
            view.v.at(s, h, t, d) = kvslim::from_float<T>(c_.value(s, h, t, d));
          }
    return view;
  }

  cache const& c_;
  std::vector<T> k_, v_;
  std::vector<std::int32_t> slots_, indptr_;
};

/// A compressed cache together with the memory it lives in.
template <class Policy>
struct compressed {
  using plan_type = decltype(kvslim::make_plan(std::declval<Policy const&>(), kvslim::extents{}));
  plan_type plan;
  buffer storage, scratch;
  kvslim::packed_cache<typename plan_type::policy_type> packed;
  kvslim::status result;

  template <class View, class Evidence>
  compressed(Policy const& policy, View const& view, Evidence const& evidence, index_t append = 0)
      : plan(kvslim::make_plan(policy, view.extents(), {.append_tokens = append})),
        storage(plan.packed_bytes()),
        scratch(plan.workspace_bytes()),
        packed(plan, storage),
        result(kvslim::compress(kvslim::cpu{}, plan, view, evidence, packed, scratch)) {}

  [[nodiscard]] std::vector<index_t> kept(index_t s, index_t h) const {
    std::vector<index_t> out;
    for (index_t t = 0; t < packed.tokens(s, h); ++t) out.push_back(packed.position(s, h, t));
    return out;
  }
};

}  // namespace data
