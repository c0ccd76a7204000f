// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What the small examples share: a random cache.

#include <kvslim/core/view.hpp>

#include <random>
#include <vector>

namespace example {

using kvslim::index_t;

class random_cache {
 public:
  random_cache(kvslim::extents e, index_t q_heads) : extent_(e), q_heads_(q_heads) {
    std::mt19937 engine(1);
    std::normal_distribution<float> normal;
    auto const fill = [&](index_t rows) {
      std::vector<float> x(static_cast<std::size_t>(rows * e.head_dim));
      for (float& v : x) v = normal(engine);
      return x;
    };
    k_ = fill(e.rows() * e.tokens);
    v_ = fill(e.rows() * e.tokens);
    q_ = fill(e.sequences * q_heads * 64);
  }
  [[nodiscard]] auto view() const { return kvslim::dense_cache(k_.data(), v_.data(), extent_); }
  [[nodiscard]] auto window(index_t tokens) const {
    return kvslim::dense_rows(q_.data(), {extent_.sequences, q_heads_, tokens, extent_.head_dim});
  }
  [[nodiscard]] auto query() const { return window(1); }

 private:
  kvslim::extents extent_;
  index_t q_heads_;
  std::vector<float> k_, v_, q_;
};

}  // namespace example
