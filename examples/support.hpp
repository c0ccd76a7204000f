// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What the small examples share: a random cache, and tokens to decode.

#include <kvslim/core/rows.hpp>
#include <kvslim/core/view.hpp>

#include <random>
#include <vector>

namespace example {

using kvslim::index_t;

/// K, V and 64 queries per head, normally distributed.
class random_cache {
 public:
  random_cache(kvslim::extents e, index_t q_heads) : extent_(e), q_heads_(q_heads) {
    k_ = numbers(e.rows() * e.tokens * e.head_dim);
    v_ = numbers(e.rows() * e.tokens * e.head_dim);
    q_ = numbers(e.sequences * q_heads * 64 * e.head_dim);
  }
  [[nodiscard]] auto view() const { return kvslim::dense_cache(k_.data(), v_.data(), extent_); }
  [[nodiscard]] auto window(index_t tokens) const {
    return kvslim::dense_rows(q_.data(), {extent_.sequences, q_heads_, tokens, extent_.head_dim});
  }
  [[nodiscard]] auto query() const { return window(1); }
  /// What the model makes of one more token: [heads, head_dim] numbers for every sequence.
  [[nodiscard]] std::vector<float> next(index_t heads) {
    return numbers(extent_.sequences * heads * extent_.head_dim);
  }

 private:
  std::vector<float> numbers(index_t count) {
    std::normal_distribution<float> normal;
    std::vector<float> x(static_cast<std::size_t>(count));
    for (float& v : x) v = normal(engine_);
    return x;
  }

  kvslim::extents extent_;
  index_t q_heads_;
  std::mt19937 engine_{1};
  std::vector<float> k_, v_, q_;
};

}  // namespace example
