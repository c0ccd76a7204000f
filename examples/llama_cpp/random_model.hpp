// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// A llama of random weights, for speed alone: the shape of a layer is a real model's, tokens are
// bytes. With a window it is a gemma3, whose layers but every sixth see that many tokens.

#include <ggml.h>
#include <gguf.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace example {

struct random_shape {
  std::int64_t layers = 4, width = 2048, q_heads = 32, kv_heads = 8, head_dim = 64, ffn = 8192;
  std::uint32_t context = 131072, window = 0;
};

/// Writes it with matrices of type q8_0. Throws std::runtime_error.
inline void write_random_model(std::string const& path, random_shape const& s) {
  auto* const file = gguf_init_empty();
  std::string const kind = s.window > 0 ? "gemma3" : "llama";
  auto const number = [&](char const* key, std::int64_t x) {
    gguf_set_val_u32(file, (kind + key).c_str(), static_cast<std::uint32_t>(x));
  };
  gguf_set_val_str(file, "general.architecture", kind.c_str());
  gguf_set_val_str(file, "general.name", "random weights");
  gguf_set_val_str(file, "tokenizer.ggml.model", "no_vocab");
  number(".vocab_size", 256);
  number(".context_length", s.context);
  number(".embedding_length", s.width);
  number(".block_count", s.layers);
  number(".feed_forward_length", s.ffn);
  number(".attention.head_count", s.q_heads);
  number(".attention.head_count_kv", s.kv_heads);
  number(".attention.key_length", s.head_dim);
  number(".attention.value_length", s.head_dim);
  number(".rope.dimension_count", s.head_dim);
  if (s.window > 0) number(".attention.sliding_window", s.window);
  gguf_set_val_f32(file, (kind + ".rope.freq_base").c_str(), 500000.0f);
  gguf_set_val_f32(file, (kind + ".attention.layer_norm_rms_epsilon").c_str(), 1e-5f);
  std::size_t const elements = static_cast<std::size_t>(
      s.layers * (2 * s.width * (s.q_heads + s.kv_heads) * s.head_dim + 3 * s.width * s.ffn) +
      2 * 256 * s.width);
  auto* const memory = ggml_init({elements / 32 * 34 + (std::size_t{64} << 20), nullptr, false});
  std::uint32_t state = 1;
  auto const matrix = [&](std::string const& name, std::int64_t in, std::int64_t out) {
    auto* const t = ggml_new_tensor_2d(memory, GGML_TYPE_Q8_0, in, out);
    std::vector<float> row(static_cast<std::size_t>(in));
    for (std::int64_t r = 0; r < out; ++r) {
      for (float& x : row) {
        state = state * 1664525u + 1013904223u;
        x = (static_cast<float>(state >> 8) / 8388608.0f - 1.0f) * 0.03f;
      }
      auto* const to = static_cast<char*>(t->data) + static_cast<std::size_t>(r) * t->nb[1];
      ggml_quantize_chunk(GGML_TYPE_Q8_0, row.data(), to, 0, 1, in, nullptr);
    }
    ggml_set_name(t, name.c_str());
    gguf_add_tensor(file, t);
  };
  auto const norm = [&](std::string const& name, std::int64_t width) {
    auto* const t = ggml_new_tensor_1d(memory, GGML_TYPE_F32, width);
    for (std::int64_t i = 0; i < width; ++i) static_cast<float*>(t->data)[i] = 1.0f;
    ggml_set_name(t, name.c_str());
    gguf_add_tensor(file, t);
  };
  matrix("token_embd.weight", s.width, 256);
  matrix("output.weight", s.width, 256);
  norm("output_norm.weight", s.width);
  for (std::int64_t l = 0; l < s.layers; ++l) {
    auto const at = "blk." + std::to_string(l) + ".";
    norm(at + "attn_norm.weight", s.width);
    norm(at + "ffn_norm.weight", s.width);
    if (s.window > 0) {
      norm(at + "post_attention_norm.weight", s.width);
      norm(at + "post_ffw_norm.weight", s.width);
      norm(at + "attn_q_norm.weight", s.head_dim);
      norm(at + "attn_k_norm.weight", s.head_dim);
    }
    matrix(at + "attn_q.weight", s.width, s.q_heads * s.head_dim);
    matrix(at + "attn_k.weight", s.width, s.kv_heads * s.head_dim);
    matrix(at + "attn_v.weight", s.width, s.kv_heads * s.head_dim);
    matrix(at + "attn_output.weight", s.q_heads * s.head_dim, s.width);
    matrix(at + "ffn_gate.weight", s.width, s.ffn);
    matrix(at + "ffn_up.weight", s.width, s.ffn);
    matrix(at + "ffn_down.weight", s.ffn, s.width);
  }
  bool const written = gguf_write_to_file(file, path.c_str(), false);
  gguf_free(file);
  ggml_free(memory);
  if (!written) throw std::runtime_error("cannot write " + path);
}

}  // namespace example
