// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "session.hpp"

#include <cmath>

namespace example {

namespace {

/// Plain attention of one query over keys that come in parts.
class plain_attention {
 public:
  explicit plain_attention(index_t dim) : dim_(dim) {}

  /// `n` more tokens that the query sees.
  void add(float const* keys, float const* values, index_t n) {
    parts_.push_back({keys, values, n});
  }
  void attend(float const* q, float* out) {
    float const scale = 1.0f / std::sqrt(static_cast<float>(dim_));
    float most = -INFINITY, total = 0.0f;
    scores_.clear();
    for (auto const& seen : parts_)
      for (index_t j = 0; j < seen.n; ++j) {
        scores_.push_back(kvslim::ops::dot(q, seen.keys + j * dim_, dim_) * scale);
        most = std::max(most, scores_.back());
      }
    std::fill(out, out + dim_, 0.0f);
    auto score = scores_.begin();
    for (auto const& seen : parts_)
      for (index_t j = 0; j < seen.n; ++j) {
        float const p = std::exp(*score++ - most);
        total += p;
        for (index_t c = 0; c < dim_; ++c) out[c] += p * seen.values[j * dim_ + c];
      }
    for (index_t c = 0; c < dim_; ++c) out[c] /= total;
    parts_.clear();
  }

 private:
  struct part {
    float const *keys, *values;
    index_t n;
  };
  index_t dim_;
  std::vector<part> parts_;
  std::vector<float> scores_;
};

}  // namespace

pass::pass(model_shape const& s, index_t tokens) : shape_(s), tokens_(tokens) {
  auto const floats = [&](index_t heads) {
    return static_cast<std::size_t>(s.layers * heads * tokens * s.head_dim);
  };
  q.resize(floats(s.q_heads));
  k.resize(floats(s.kv_heads));
  v.resize(floats(s.kv_heads));
  hidden.resize(static_cast<std::size_t>(s.layers * tokens * s.width));
}

void pass::step(model& m, index_t token, index_t position, index_t at, index_t first,
                pass const* before, index_t length) {
  auto const& s = shape_;
  index_t const d = s.head_dim, group = s.q_heads / s.kv_heads;
  plain_attention all(d);
  m.step(token, position, [&](index_t l, auto queries, auto keys, auto values, auto out) {
    auto const store = [&](std::vector<float>& to, std::span<float const> from, index_t heads) {
      for (index_t h = 0; h < heads; ++h)
        std::copy_n(from.begin() + h * d, d, to.begin() + ((l * heads + h) * tokens_ + at) * d);
    };
    store(q, queries, s.q_heads);
    store(k, keys, s.kv_heads);
    store(v, values, s.kv_heads);
    std::copy(m.hidden().begin(), m.hidden().end(), hidden.begin() + (l * tokens_ + at) * s.width);
    for (index_t h = 0; h < s.q_heads; ++h) {
      index_t const row = l * s.kv_heads + h / group;
      if (before != nullptr)
        all.add(before->k.data() + row * before->tokens_ * d,
                before->v.data() + row * before->tokens_ * d, length);
      all.add(k.data() + (row * tokens_ + first) * d, v.data() + (row * tokens_ + first) * d,
              at - first + 1);
      all.attend(queries.data() + h * d, out.data() + h * d);
    }
  });
}

prefilled::prefilled(model& m, std::vector<index_t> const& tokens)
    : model_(m), words_(tokens), text_(m.shape(), std::ssize(tokens)) {
  for (index_t t = 0; t < text_.tokens(); ++t)
    text_.step(m, words_[static_cast<std::size_t>(t)], t, t, 0, nullptr, 0);
}

repetition const& prefilled::repeated(index_t length) const {
  if (repeated_ && repeated_length_ == length) return *repeated_;
  // Short stretches: a model's positions end where its training did, soon after a long text. Each
  // is led in by the words before it, as KVzip's request to repeat names them.
  constexpr index_t most = 120, lead = 8;
  std::vector<kvslim::probe_stretch> stretches;
  index_t queries = 0;
  for (index_t from = 0; from < length; from += most) {
    index_t const begin = std::max<index_t>(0, from - lead), end = std::min(length, from + most);
    stretches.push_back({.first_query = queries,
                         .queries = end - begin,
                         .first_token = from,
                         .tokens = end - from});
    queries += end - begin;
  }
  repeated_.emplace(repetition{pass(shape(), queries), stretches});
  repeated_length_ = length;
  for (auto const& s : stretches) {
    index_t const begin = s.first_token + s.tokens - s.queries;
    for (index_t i = 0; i < s.queries; ++i)
      repeated_->rows.step(model_, words_[static_cast<std::size_t>(begin + i)], length + i,
                           s.first_query + i, s.first_query, &text_, length);
  }
  return *repeated_;
}

std::vector<float> prefilled::raw_queries(index_t length) const {
  auto const& s = shape();
  auto const rotation = model_.rope();
  std::vector<float> out(static_cast<std::size_t>(s.layers * s.q_heads * length * s.head_dim));
  float* row = out.data();
  for (index_t head = 0; head < s.layers * s.q_heads; ++head)
    for (index_t t = 0; t < length; ++t, row += s.head_dim) {
      std::copy_n(text_.q.data() + (head * text_.tokens() + t) * s.head_dim, s.head_dim, row);
      kvslim::ops::rotate(rotation, s.head_dim, -t, row);
    }
  return out;
}

}  // namespace example
