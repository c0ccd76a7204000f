// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "session.hpp"

#include <cmath>

namespace example {

prefilled::prefilled(model& m, std::vector<index_t> const& tokens)
    : shape_(m.shape()), tokens_(std::ssize(tokens)) {
  auto const& s = shape_;
  auto const floats = [&](index_t heads) {
    return static_cast<std::size_t>(s.layers * heads * tokens_ * s.head_dim);
  };
  q_.resize(floats(s.q_heads));
  k_.resize(floats(s.kv_heads));
  v_.resize(floats(s.kv_heads));
  std::vector<float> scores(static_cast<std::size_t>(tokens_));
  float const scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
  index_t const d = s.head_dim, group = s.q_heads / s.kv_heads;
  for (index_t t = 0; t < tokens_; ++t) {
    m.step(tokens[static_cast<std::size_t>(t)], t,
           [&](index_t l, auto q, auto k, auto v, auto out) {
             auto const store = [&](std::vector<float>& to, std::span<float const> from,
                                    index_t heads) {
               for (index_t h = 0; h < heads; ++h)
                 for (index_t c = 0; c < d; ++c)
                   to[static_cast<std::size_t>(((l * heads + h) * tokens_ + t) * d + c)] =
                       from[static_cast<std::size_t>(h * d + c)];
             };
             store(q_, q, s.q_heads);
             store(k_, k, s.kv_heads);
             store(v_, v, s.kv_heads);
             for (index_t h = 0; h < s.q_heads; ++h) {
               float const* const keys = k_.data() + (l * s.kv_heads + h / group) * tokens_ * d;
               float const* const values = v_.data() + (l * s.kv_heads + h / group) * tokens_ * d;
               float most = -INFINITY, total = 0.0f;
               for (index_t j = 0; j <= t; ++j) {
                 float const x = kvslim::ops::dot(q.data() + h * d, keys + j * d, d) * scale;
                 scores[static_cast<std::size_t>(j)] = x;
                 most = std::max(most, x);
               }
               float* const y = out.data() + h * d;
               std::fill(y, y + d, 0.0f);
               for (index_t j = 0; j <= t; ++j) {
                 float const p = std::exp(scores[static_cast<std::size_t>(j)] - most);
                 total += p;
                 for (index_t c = 0; c < d; ++c) y[c] += p * values[j * d + c];
               }
               for (index_t c = 0; c < d; ++c) y[c] /= total;
             }
           });
  }
}

}  // namespace example
