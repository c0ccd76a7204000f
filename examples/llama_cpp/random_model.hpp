// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Models of random weights; tokens are bytes. For speed a llama, the shape of whose layers is a
// real model's. For the kinds of cache small ones: gemma3, whose layers but every sixth see a
// window of tokens; mamba, all of whose layers are recurrent; jamba, whose odd layers attend;
// qwen2vl, whose cells carry more than a position.

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
  std::string kind = "llama";
};

/// Writes it with matrices of type q8_0. Throws std::runtime_error.
inline void write_random_model(std::string const& path, random_shape const& s) {
  auto* const file = gguf_init_empty();
  auto const& kind = s.kind;
  bool const gemma = kind == "gemma3", recurrent = kind == "mamba" || kind == "jamba";
  auto const attends = [&](std::int64_t l) {
    return !recurrent || (kind == "jamba" && l % 2 == 1);
  };
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
  std::vector<std::int32_t> heads;
  for (std::int64_t l = 0; l < s.layers; ++l)
    heads.push_back(attends(l) ? static_cast<std::int32_t>(s.kv_heads) : 0);
  gguf_set_arr_data(file, (kind + ".attention.head_count_kv").c_str(), GGUF_TYPE_INT32,
                    heads.data(), heads.size());
  number(".attention.key_length", s.head_dim);
  number(".attention.value_length", s.head_dim);
  number(".rope.dimension_count", s.head_dim);
  if (gemma) number(".attention.sliding_window", s.window);
  std::int64_t const inner = 2 * s.width, state = 16, rank = 8, kernel = 4;
  if (recurrent) {
    number(".ssm.conv_kernel", kernel);
    number(".ssm.inner_size", inner);
    number(".ssm.state_size", state);
    number(".ssm.time_step_rank", rank);
  }
  if (kind == "qwen2vl") {
    std::int32_t const part = static_cast<std::int32_t>(s.head_dim / 8),
                       sections[4] = {part * 2, part, part, 0};
    gguf_set_arr_data(file, "qwen2vl.rope.dimension_sections", GGUF_TYPE_INT32, sections, 4);
  }
  gguf_set_val_f32(file, (kind + ".rope.freq_base").c_str(), 500000.0f);
  gguf_set_val_f32(file, (kind + ".attention.layer_norm_rms_epsilon").c_str(), 1e-5f);
  std::size_t const elements = static_cast<std::size_t>(
      s.layers * (2 * s.width * (s.q_heads + s.kv_heads) * s.head_dim + 3 * s.width * s.ffn) +
      2 * 256 * s.width);
  auto* const memory = ggml_init({elements / 32 * 34 + (std::size_t{64} << 20), nullptr, false});
  std::uint32_t random = 1;
  auto const matrix = [&](std::string const& name, std::int64_t in, std::int64_t out) {
    auto* const t = ggml_new_tensor_2d(memory, GGML_TYPE_Q8_0, in, out);
    std::vector<float> row(static_cast<std::size_t>(in));
    for (std::int64_t r = 0; r < out; ++r) {
      for (float& x : row) {
        random = random * 1664525u + 1013904223u;
        x = (static_cast<float>(random >> 8) / 8388608.0f - 1.0f) * 0.03f;
      }
      auto* const to = static_cast<char*>(t->data) + static_cast<std::size_t>(r) * t->nb[1];
      ggml_quantize_chunk(GGML_TYPE_Q8_0, row.data(), to, 0, 1, in, nullptr);
    }
    ggml_set_name(t, name.c_str());
    gguf_add_tensor(file, t);
  };
  auto const plain = [&](std::string const& name, std::int64_t in, std::int64_t out, float value) {
    auto* const t = out == 1 ? ggml_new_tensor_1d(memory, GGML_TYPE_F32, in)
                             : ggml_new_tensor_2d(memory, GGML_TYPE_F32, in, out);
    for (std::int64_t i = 0; i < in * out; ++i) static_cast<float*>(t->data)[i] = value;
    ggml_set_name(t, name.c_str());
    gguf_add_tensor(file, t);
  };
  auto const norm = [&](std::string const& name, std::int64_t width) {
    plain(name, width, 1, 1.0f);
  };
  matrix("token_embd.weight", s.width, 256);
  matrix("output.weight", s.width, 256);
  norm("output_norm.weight", s.width);
  for (std::int64_t l = 0; l < s.layers; ++l) {
    auto const at = "blk." + std::to_string(l) + ".";
    norm(at + "attn_norm.weight", s.width);
    if (!attends(l)) {
      matrix(at + "ssm_in.weight", s.width, 2 * inner);
      plain(at + "ssm_conv1d.weight", kernel, inner, 0.25f);
      plain(at + "ssm_conv1d.bias", inner, 1, 0.0f);
      matrix(at + "ssm_x.weight", inner, rank + 2 * state);
      plain(at + "ssm_dt.weight", rank, inner, 0.1f);
      plain(at + "ssm_dt.bias", inner, 1, 0.1f);
      plain(at + "ssm_a", state, inner, -1.0f);
      norm(at + "ssm_d", inner);
      matrix(at + "ssm_out.weight", inner, s.width);
    }
    if (kind == "mamba") continue;
    if (!attends(l)) {
      norm(at + "ssm_dt_norm.weight", rank);
      norm(at + "ssm_b_norm.weight", state);
      norm(at + "ssm_c_norm.weight", state);
    }
    norm(at + "ffn_norm.weight", s.width);
    matrix(at + "ffn_gate.weight", s.width, s.ffn);
    matrix(at + "ffn_up.weight", s.width, s.ffn);
    matrix(at + "ffn_down.weight", s.ffn, s.width);
    if (!attends(l)) continue;
    if (gemma) {
      norm(at + "post_attention_norm.weight", s.width);
      norm(at + "post_ffw_norm.weight", s.width);
      norm(at + "attn_q_norm.weight", s.head_dim);
      norm(at + "attn_k_norm.weight", s.head_dim);
    }
    matrix(at + "attn_q.weight", s.width, s.q_heads * s.head_dim);
    matrix(at + "attn_k.weight", s.width, s.kv_heads * s.head_dim);
    matrix(at + "attn_v.weight", s.width, s.kv_heads * s.head_dim);
    matrix(at + "attn_output.weight", s.q_heads * s.head_dim, s.width);
    if (kind == "qwen2vl")
      for (auto const* name : {"attn_q.bias", "attn_k.bias", "attn_v.bias"})
        plain(at + name, (name[5] == 'q' ? s.q_heads : s.kv_heads) * s.head_dim, 1, 0.0f);
  }
  bool const written = gguf_write_to_file(file, path.c_str(), false);
  gguf_free(file);
  ggml_free(memory);
  if (!written) throw std::runtime_error("cannot write " + path);
}

}  // namespace example
