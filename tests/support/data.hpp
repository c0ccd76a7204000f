// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Seeded inputs: caches with outlier channels, sinks and correlated neighbours, and guarded memory
// of exactly the size a plan asks for.

#include <kvslim/kvslim.hpp>

#include <algorithm>
#include <cmath>
#include <memory>
#include <new>
#include <random>
#include <vector>

namespace data {

using kvslim::index_t;

/// Aligned memory with a pattern in it and in the guard bytes on both sides.
class buffer {
 public:
  explicit buffer(std::size_t bytes)
      : size_(bytes), data_(new (std::align_val_t{guard}) std::byte[guard + size_ + guard]) {
    std::fill(data_.get(), data_.get() + guard + size_ + guard, pattern);
  }
  [[nodiscard]] std::byte* data() const { return data_.get() + guard; }
  [[nodiscard]] std::size_t size() const { return size_; }
  /// Nothing was written before or behind it.
  [[nodiscard]] bool intact() const {
    return is_pattern(data_.get(), guard) && is_pattern(data() + size_, guard);
  }
  /// Nothing was written at all.
  [[nodiscard]] bool untouched() const { return is_pattern(data_.get(), guard + size_ + guard); }
  [[nodiscard]] std::vector<std::byte> copy() const { return {data(), data() + size_}; }

 private:
  static constexpr std::size_t guard = 256;
  static constexpr std::byte pattern{0xa5};
  [[nodiscard]] static bool is_pattern(std::byte const* at, std::size_t bytes) {
    return std::all_of(at, at + bytes, [](std::byte b) { return b == pattern; });
  }
  struct release {
    void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{guard}); }
  };
  std::size_t size_;
  std::unique_ptr<std::byte[], release> data_;
};

struct shape {
  index_t sequences = 1, kv_heads = 2, group = 2, tokens = 200, head_dim = 64;
  index_t value_dim = 0;  // 0: head_dim

  [[nodiscard]] kvslim::extents extents() const {
    return {sequences, kv_heads, tokens, head_dim, value_dim};
  }
  [[nodiscard]] index_t value_width() const { return value_dim == 0 ? head_dim : value_dim; }
  [[nodiscard]] index_t q_heads() const { return kv_heads * group; }
  [[nodiscard]] index_t rows() const { return sequences * kv_heads; }
};

/// Rounded to bf16, so that every element type but fp8 holds it.
inline float rounded(float x) { return kvslim::to_float(kvslim::from_float<kvslim::bf16>(x)); }

/// Logical K and V as floats [s][h][t][d].
struct cache {
  data::shape shape;
  std::vector<float> k, v, q;  // q: window queries [s][q_head][window][d], window 64
  static constexpr index_t window = 64;

  explicit cache(data::shape s, unsigned seed = 1) : shape(s) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    index_t const wide = s.value_width();
    k.resize(static_cast<std::size_t>(s.rows() * s.tokens * s.head_dim));
    v.resize(static_cast<std::size_t>(s.rows() * s.tokens * wide));
    for (index_t r = 0; r < s.rows(); ++r)
      for (index_t t = 0; t < s.tokens; ++t) {
        for (index_t d = 0; d < s.head_dim; ++d) {
          auto const at = static_cast<std::size_t>((r * s.tokens + t) * s.head_dim + d);
          float x = normal(engine);
          if (t % 5 != 0 && t > 0)
            x = 0.8f * k[at - static_cast<std::size_t>(s.head_dim)] +
                0.4f * x;                                  // similar neighbours
          if (d % 17 == 3) x += t % 5 == 0 ? 4.0f : 0.0f;  // outlier channels
          k[at] = rounded(x);
        }
        for (index_t d = 0; d < wide; ++d)
          v[static_cast<std::size_t>((r * s.tokens + t) * wide + d)] = rounded(normal(engine));
      }
    q.resize(static_cast<std::size_t>(s.sequences * s.q_heads() * window * s.head_dim));
    for (float& x : q) x = rounded(normal(engine));
  }
  [[nodiscard]] auto view() const {
    return kvslim::dense_cache(k.data(), v.data(), shape.extents());
  }
  /// The first n queries of every head's window.
  [[nodiscard]] auto queries(index_t n) const {
    index_t const d = shape.head_dim, heads = shape.q_heads();
    return kvslim::rows_view<float const>{
        q.data(), shape.sequences, heads, n, d, {heads * window * d, window * d, d, 1}};
  }
  [[nodiscard]] float key(index_t s, index_t h, index_t t, index_t d) const {
    return k[static_cast<std::size_t>(cell(s, h, t) * shape.head_dim + d)];
  }
  [[nodiscard]] float value(index_t s, index_t h, index_t t, index_t d) const {
    return v[static_cast<std::size_t>(cell(s, h, t) * shape.value_width() + d)];
  }
  [[nodiscard]] index_t cell(index_t s, index_t h, index_t t) const {
    return (s * shape.kv_heads + h) * shape.tokens + t;
  }
};

/// What every room binds for codecs that read a table.
inline kvslim::codec_tables tables;

/// A plan, and a packed cache in memory of exactly the sizes that it asks for.
template <class Policy>
struct room {
  using plan_type = decltype(kvslim::make_plan(std::declval<Policy const&>(), kvslim::extents{}));
  using packed_type = kvslim::packed_cache<typename plan_type::key_codec_type,
                                           typename plan_type::value_codec_type>;
  plan_type plan;
  buffer storage, scratch;
  packed_type packed;

  room(Policy const& policy, kvslim::extents const& e, kvslim::plan_options options)
      : plan(kvslim::make_plan(policy, e, options)),
        storage(plan.packed_bytes()),
        scratch(plan.workspace_bytes()),
        packed(plan, storage) {
    packed.bind(tables);
  }

  /// Nothing was written beside the storage, its unused end, or the workspace.
  [[nodiscard]] bool intact() const {
    std::byte const *const used = storage.data() + packed.bytes(), *const end = storage.data() +
                                                                                storage.size();
    return storage.intact() && scratch.intact() &&
           std::all_of(used, end, [](std::byte b) { return b == std::byte{0xa5}; });
  }
  /// Positions of a row's slots.
  [[nodiscard]] std::vector<index_t> kept(index_t s, index_t h) const {
    std::vector<index_t> out;
    for (index_t t = 0; t < packed.slots(s, h); ++t) out.push_back(packed.position(s, h, t));
    return out;
  }
};

/// A cache that compress() made, or refused to make.
template <class Policy>
struct compressed : room<Policy> {
  kvslim::status result;

  template <class View, class Evidence = kvslim::evidence<>>
  compressed(Policy const& policy, View const& view, Evidence const& evidence = {},
             kvslim::plan_options options = {})
      : room<Policy>(policy, view.extents(), options),
        result(kvslim::compress(kvslim::cpu{}, this->plan, view, evidence, this->packed,
                                this->scratch)) {}
};

}  // namespace data
