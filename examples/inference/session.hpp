// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// A model's cache as an inference engine holds it: dense while prefilling, then one kvslim cache
// per layer.

#include "model.hpp"

#include <kvslim/exec/openmp.hpp>
#include <kvslim/kvslim.hpp>

#include <chrono>
#include <memory>
#include <new>
#include <stdexcept>

namespace example {

/// Memory owned by the engine, aligned to whole cache lines.
class aligned_buffer {
 public:
  explicit aligned_buffer(std::size_t bytes) : size_(bytes), data_(new (align) std::byte[bytes]) {}
  [[nodiscard]] std::byte* data() const { return data_.get(); }
  [[nodiscard]] std::size_t size() const { return size_; }

 private:
  static constexpr std::align_val_t align{64};
  struct release {
    void operator()(std::byte* p) const { ::operator delete[](p, align); }
  };
  std::size_t size_;
  std::unique_ptr<std::byte[], release> data_;
};

inline void require(kvslim::status s) {
  if (!s) throw std::runtime_error(s.message);
}

/// One text's exact cache in the engine's own memory: K, V and queries of every position, f32
/// [layer, head, token, dim].
class prefilled {
 public:
  prefilled(model& m, std::vector<index_t> const& tokens);

  [[nodiscard]] index_t tokens() const { return tokens_; }
  [[nodiscard]] model_shape const& shape() const { return shape_; }
  /// The first `length` tokens of one layer, no copy.
  [[nodiscard]] auto cache(index_t layer, index_t length) const {
    using plane = kvslim::plane<float const, kvslim::strided>;
    index_t const d = shape_.head_dim, at = layer * shape_.kv_heads * tokens_ * d;
    kvslim::strided const layout{shape_.kv_heads * tokens_ * d, tokens_ * d, d, 1};
    return kvslim::cache_view<plane>{
        {1, shape_.kv_heads, length, d}, {k_.data() + at, layout}, {v_.data() + at, layout}};
  }
  /// The queries of the `window` positions before `length`.
  [[nodiscard]] kvslim::rows_view<float const> window(index_t layer, index_t length,
                                                      index_t window) const {
    index_t const d = shape_.head_dim;
    return {q_.data() + layer * shape_.q_heads * tokens_ * d + (length - window) * d,
            1,
            shape_.q_heads,
            window,
            d,
            {shape_.q_heads * tokens_ * d, tokens_ * d, d, 1}};
  }

 private:
  model_shape shape_;
  index_t tokens_;
  std::vector<float> q_, k_, v_;
};

/// What compressing one text's cache cost.
struct sizes {
  std::size_t stored_bytes = 0, peak_bytes = 0, original_bytes = 0;
  double compress_ms = 0;
};

/// A compressed cache that can decode. One virtual call per token; the policy is a compile-time
/// type behind it.
class session {
 public:
  virtual ~session() = default;
  [[nodiscard]] sizes const& size() const { return sizes_; }
  virtual std::span<float const> decode(model& m, index_t token) = 0;

 protected:
  sizes sizes_;
};

template <class Policy>
class policy_session final : public session {
 public:
  using plan_type = decltype(kvslim::make_plan(std::declval<Policy const&>(), kvslim::extents{}));
  using packed_type = kvslim::packed_cache<typename plan_type::policy_type>;

  /// Compresses the first `length` tokens of `text`, with room for `append` more.
  policy_session(prefilled const& text, Policy const& policy, index_t length, index_t append) {
    auto const& s = text.shape();
    kvslim::extents const e{1, s.kv_heads, length, s.head_dim};
    auto const plan = kvslim::make_plan(policy, e, {.append_tokens = append});
    require(plan.check());
    aligned_buffer const scratch(plan.workspace_bytes());
    auto const begin = std::chrono::steady_clock::now();
    for (index_t l = 0; l < s.layers; ++l) {
      storage_.emplace_back(plan.packed_bytes());
      caches_.emplace_back(plan, storage_.back());
      kvslim::evidence const evidence{kvslim::window_queries{text.window(l, length, window)}};
      require(kvslim::compress(kvslim::cpu{}, plan, text.cache(l, length), evidence, caches_.back(),
                               scratch));
      sizes_.stored_bytes += caches_.back().live_bytes();
    }
    sizes_.compress_ms =
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
    auto const layers = static_cast<std::size_t>(s.layers);
    sizes_.original_bytes =
        layers * 2 * 2 * static_cast<std::size_t>(s.kv_heads * length * s.head_dim);  // as f16
    sizes_.peak_bytes =
        sizes_.original_bytes + layers * plan.packed_bytes() + plan.workspace_bytes();
    scratch_.resize(kvslim::append_scratch_floats(plan));
    lse_.resize(static_cast<std::size_t>(s.q_heads));
  }

  static constexpr index_t window = 32;

  std::span<float const> decode(model& m, index_t token) override {
    auto const& s = m.shape();
    return m.step(token, caches_.front().next_position(0),
                  [&](index_t l, auto q, auto k, auto v, auto out) {
                    auto const& cache = caches_[static_cast<std::size_t>(l)];
                    kvslim::rows_shape const one{1, s.kv_heads, 1, s.head_dim},
                        many{1, s.q_heads, 1, s.head_dim};
                    require(kvslim::append(kvslim::cpu{}, cache, kvslim::dense_rows(k.data(), one),
                                           kvslim::dense_rows(v.data(), one), scratch_.data()));
                    require(kvslim::attend(kvslim::cpu{}, kvslim::dense_rows(q.data(), many), cache,
                                           kvslim::dense_rows(out.data(), many), lse_.data()));
                  });
  }

 private:
  std::vector<aligned_buffer> storage_;
  std::vector<packed_type> caches_;
  std::vector<float> scratch_, lse_;
};

}  // namespace example
