// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "model.hpp"

#include <kvslim/ops/rows.hpp>

#include <cmath>

namespace example {

namespace {

/// y = W x with W [rows, columns].
void multiply(std::vector<float> const& w, std::span<float const> x, std::span<float> y) {
  auto const columns = std::ssize(x);
  for (index_t r = 0; r < std::ssize(y); ++r)
    y[static_cast<std::size_t>(r)] = kvslim::ops::dot(w.data() + r * columns, x.data(), columns);
}

void normalise(std::span<float const> x, std::vector<float> const& weight, float epsilon,
               std::span<float> y) {
  float const mean =
      kvslim::ops::dot(x.data(), x.data(), std::ssize(x)) / static_cast<float>(x.size());
  float const scale = 1.0f / std::sqrt(mean + epsilon);
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = x[i] * scale * weight[i];
}

index_t count(gguf const& file, std::string const& key, double fallback = 0) {
  double const n = fallback > 0 ? file.number(key, fallback) : file.number(key);
  if (!(n >= 1 && n <= 1e7)) throw gguf_error("GGUF: " + key + " is out of range");
  return static_cast<index_t>(n);
}

}  // namespace

model::model(gguf const& file) : shape_{} {
  if (file.text("general.architecture") != "llama")
    throw gguf_error("GGUF: not a llama-architecture model");
  auto& s = shape_;
  s.layers = count(file, "llama.block_count");
  s.width = count(file, "llama.embedding_length");
  s.q_heads = count(file, "llama.attention.head_count");
  s.kv_heads = count(file, "llama.attention.head_count_kv", static_cast<double>(s.q_heads));
  s.head_dim = count(file, "llama.attention.key_length",
                     static_cast<double>(s.width) / static_cast<double>(s.q_heads));
  s.rope_dims = count(file, "llama.rope.dimension_count", static_cast<double>(s.head_dim));
  s.ffn = count(file, "llama.feed_forward_length");
  s.context = count(file, "llama.context_length");
  auto const& names = file.strings("tokenizer.ggml.tokens");
  s.vocabulary = names.empty() ? count(file, "llama.vocab_size", 256) : std::ssize(names);
  s.rope_base = static_cast<float>(file.number("llama.rope.freq_base", 10000.0));
  s.norm_epsilon = static_cast<float>(file.number("llama.attention.layer_norm_rms_epsilon"));
  if (s.q_heads % s.kv_heads != 0 || s.head_dim > 1024 || s.rope_dims > s.head_dim ||
      s.rope_dims % 2 != 0 || s.layers > 1000)
    throw gguf_error("GGUF: the model's shape does not add up");

  if (file.text("llama.rope.scaling.type") != "" && file.text("llama.rope.scaling.type") != "none")
    throw gguf_error("GGUF: rope scaling '" + file.text("llama.rope.scaling.type") +
                     "' is not read");

  auto const matrix = [&](std::string const& name, index_t rows, index_t columns) {
    return file.tensor(name, static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(columns));
  };
  embedding_ = matrix("token_embd.weight", s.vocabulary, s.width);
  output_norm_ = matrix("output_norm.weight", 1, s.width);
  output_ = file.has_tensor("output.weight") ? matrix("output.weight", s.vocabulary, s.width)
                                             : embedding_;
  for (index_t i = 0; i < s.layers; ++i) {
    auto const name = "blk." + std::to_string(i) + ".";
    layers_.push_back({matrix(name + "attn_norm.weight", 1, s.width),
                       matrix(name + "attn_q.weight", s.q_heads * s.head_dim, s.width),
                       matrix(name + "attn_k.weight", s.kv_heads * s.head_dim, s.width),
                       matrix(name + "attn_v.weight", s.kv_heads * s.head_dim, s.width),
                       matrix(name + "attn_output.weight", s.width, s.q_heads * s.head_dim),
                       matrix(name + "ffn_norm.weight", 1, s.width),
                       matrix(name + "ffn_gate.weight", s.ffn, s.width),
                       matrix(name + "ffn_up.weight", s.ffn, s.width),
                       matrix(name + "ffn_down.weight", s.width, s.ffn)});
  }
  if (file.has_tensor("rope_freqs.weight")) {  // Llama 3.1 divides each frequency by a factor
    frequencies_ = matrix("rope_freqs.weight", 1, s.rope_dims / 2);
    for (index_t i = 0; i < s.rope_dims / 2; ++i) {
      auto& f = frequencies_[static_cast<std::size_t>(i)];
      f = std::pow(s.rope_base, -2.0f * static_cast<float>(i) / static_cast<float>(s.rope_dims)) /
          f;
    }
  }
  auto const size = [](index_t n) { return static_cast<std::size_t>(n); };
  x_.resize(size(s.width));
  h_.resize(size(s.width));
  q_.resize(size(s.q_heads * s.head_dim));
  a_.resize(q_.size());
  k_.resize(size(s.kv_heads * s.head_dim));
  v_.resize(k_.size());
  gate_.resize(size(s.ffn));
  up_.resize(size(s.ffn));
  logits_.resize(size(s.vocabulary));
}

kvslim::rope model::rope() const {
  return {shape_.rope_base, shape_.rope_dims, true,
          frequencies_.empty() ? nullptr : frequencies_.data()};
}

std::span<float const> model::step(index_t token, index_t position, attention const& attend) {
  auto const& s = shape_;
  auto const rotation = rope();
  for (index_t i = 0; i < s.width; ++i)
    x_[static_cast<std::size_t>(i)] = embedding_[static_cast<std::size_t>(token * s.width + i)];
  for (index_t l = 0; l < s.layers; ++l) {
    auto const& w = layers_[static_cast<std::size_t>(l)];
    normalise(x_, w.attention_norm, s.norm_epsilon, h_);
    multiply(w.q, h_, q_);
    multiply(w.k, h_, k_);
    multiply(w.v, h_, v_);
    for (index_t h = 0; h < s.q_heads; ++h)
      kvslim::ops::rotate(rotation, s.head_dim, position, q_.data() + h * s.head_dim);
    for (index_t h = 0; h < s.kv_heads; ++h)
      kvslim::ops::rotate(rotation, s.head_dim, position, k_.data() + h * s.head_dim);
    attend(l, q_, k_, v_, a_);
    multiply(w.o, a_, h_);
    for (std::size_t i = 0; i < x_.size(); ++i) x_[i] += h_[i];
    normalise(x_, w.ffn_norm, s.norm_epsilon, h_);
    multiply(w.gate, h_, gate_);
    multiply(w.up, h_, up_);
    for (std::size_t i = 0; i < gate_.size(); ++i)
      gate_[i] *= up_[i] / (1.0f + std::exp(-gate_[i]));
    multiply(w.down, gate_, h_);
    for (std::size_t i = 0; i < x_.size(); ++i) x_[i] += h_[i];
  }
  normalise(x_, output_norm_, s.norm_epsilon, h_);
  multiply(output_, h_, logits_);
  return logits_;
}

}  // namespace example
