// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// A llama-architecture decoder (RMSNorm, RoPE, grouped-query attention, SwiGLU) in plain loops.
// Attention is the caller's: the model hands over rotated queries, keys and values of one token and
// takes back the attention output.

#include "gguf.hpp"

#include <kvslim/ops/rope.hpp>

#include <functional>
#include <span>
#include <vector>

namespace example {

using kvslim::index_t;

struct model_shape {
  index_t layers, width, q_heads, kv_heads, head_dim, rope_dims, ffn, vocabulary, context;
  float rope_base, norm_epsilon;
};

class model {
 public:
  explicit model(gguf const& file);

  [[nodiscard]] model_shape const& shape() const { return shape_; }
  /// How queries and keys are rotated; points into the model.
  [[nodiscard]] kvslim::rope rope() const;

  /// attention(layer, q [q_heads, head_dim], k [kv_heads, head_dim], v, out [q_heads, head_dim])
  using attention = std::function<void(index_t, std::span<float const>, std::span<float const>,
                                       std::span<float const>, std::span<float>)>;

  /// While attention is the caller's: what the layer has read in front of its projections.
  [[nodiscard]] std::span<float const> hidden() const { return h_; }

  /// Runs one token at one position; returns the logits, valid until the next call.
  std::span<float const> step(index_t token, index_t position, attention const& attend);

 private:
  struct layer {
    std::vector<float> attention_norm, q, k, v, o, ffn_norm, gate, up, down;
  };

  model_shape shape_;
  std::vector<float> embedding_, output_norm_, output_, frequencies_;
  std::vector<layer> layers_;
  std::vector<float> x_, h_, q_, k_, v_, a_, gate_, up_, logits_;
};

}  // namespace example
