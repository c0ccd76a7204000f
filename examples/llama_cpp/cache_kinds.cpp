// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Every kind of cache that llama.cpp makes of a model with attention: of its quantized types, with
// V transposed (no flash attention), with windowed layers, with several sequences. Each is saved,
// stored, restored and gone on with; what is stored exactly must come back byte for byte.

#include "llama_cpp/capture.hpp"
#include "llama_cpp/container.hpp"
#include "llama_cpp/random_model.hpp"

#include <kvslim/quant/dense.hpp>
#include <kvslim/quant/ggml.hpp>
#include <kvslim/quant/int_per_token.hpp>

#include <cstdio>

namespace {

using namespace example;

template <class Codec>
using form_of = kvslim::stored_as<decltype(Codec{}.key_codec()), decltype(Codec{}.value_codec())>;
using f16_codec = kvslim::dense<kvslim::f16>;
using q8_0_codec = kvslim::ggml<kvslim::ggml_block::q8_0>;
using int8_codec = kvslim::int_per_token<8>;
using forms = stored_forms<form_of<f16_codec>, form_of<q8_0_codec>, form_of<int8_codec>>;

bool good = true;

/// 700 tokens saved, stored in `codec`, restored, and 20 more from either.
template <class Codec>
void travel(char const* what, engine_model const& m, engine_options o, Codec const& codec,
            bool exact) {
  token_list tokens;
  for (int i = 0; i < 720; ++i) tokens.push_back(i * 7919 % 256);
  o.cells = 1024;
  engine a(m, o), b(m, o);
  a.decode(std::span(tokens).first(700));
  auto const saved = a.save();
  auto const stored = compress_saved(saved, {m.kv_heads}, codec);
  auto const back = restore_saved(stored, forms{});
  b.restore(back);
  double kl = 0;
  for (std::size_t i = 700; i < tokens.size(); ++i) {
    a.decode(tokens[i]);
    b.decode(tokens[i]);
    kl += divergence(log_softmax(a.logits()), log_softmax(b.logits())) / 20;
  }
  good = good && (!exact || back == saved) && kl < 1e-2;
  std::printf("%-34s %10zu %10zu %-12s KL %.1e\n", what, saved.size(), stored.size(),
              back == saved ? "same bytes" : "", kl);
}

/// The second of two sequences in one context.
void travel_together(engine_model const& m, bool unified) {
  auto p = llama_context_default_params();
  p.n_ctx = 2048;
  p.n_seq_max = 2;
  p.kv_unified = unified;
  p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
  std::unique_ptr<llama_context, void (*)(llama_context*)> const c(
      llama_init_from_model(m.get(), p), llama_free);
  auto batch = llama_batch_init(200, 0, 1);
  batch.n_tokens = 200;
  for (int i = 0; i < 200; ++i) {
    batch.token[i] = i;
    batch.pos[i] = i % 100;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = i / 100;
    batch.logits[i] = 0;
  }
  bool const decoded = c && llama_decode(c.get(), batch) == 0;
  llama_batch_free(batch);
  if (!decoded) throw std::runtime_error("llama.cpp does not decode two sequences");
  std::vector<std::byte> saved(llama_state_seq_get_size(c.get(), 1));
  llama_state_seq_get_data(c.get(), reinterpret_cast<std::uint8_t*>(saved.data()), saved.size(), 1);
  auto const stored = compress_saved(saved, {m.kv_heads}, f16_codec{});
  auto const back = restore_saved(stored, forms{});
  bool const taken =
      llama_state_seq_set_data(c.get(), reinterpret_cast<std::uint8_t const*>(back.data()),
                               back.size(), 1) == back.size();
  good = good && taken && back == saved;
  std::printf("%-34s %10zu %10zu %-12s %s\n",
              unified ? "one of two sequences, one stream" : "one of two sequences, own streams",
              saved.size(), stored.size(), back == saved ? "same bytes" : "",
              taken ? "taken back" : "NOT TAKEN");
}

/// Models whose caches are more than K and V of positions: refused by name when they are loaded,
/// and by what their saved sequences hold if somebody looks no further than the bytes.
void refuse(std::string const& path, random_shape const& shape) {
  write_random_model(path, shape);
  auto const refused = [&](char const* what, auto const& f) {
    try {
      f();
      std::printf("%s, %s: NOT REFUSED\n", shape.kind.c_str(), what);
      good = false;
    } catch (std::runtime_error const& error) {
      std::printf("%s, %s, is refused: %s\n", shape.kind.c_str(), what, error.what());
    }
  };
  refused("the model", [&] { engine_model const m(path); });
  std::unique_ptr<llama_model, void (*)(llama_model*)> const m(
      llama_model_load_from_file(path.c_str(), llama_model_default_params()), llama_model_free);
  auto p = llama_context_default_params();
  p.n_ctx = 512;
  std::unique_ptr<llama_context, void (*)(llama_context*)> const c(
      m ? llama_init_from_model(m.get(), p) : nullptr, llama_free);
  token_list tokens;
  for (int i = 0; i < 100; ++i) tokens.push_back(i * 37 % 256);
  if (!c || llama_decode(c.get(), llama_batch_get_one(tokens.data(), 100)) != 0)
    throw std::runtime_error("llama.cpp does not run a " + shape.kind + " of random weights");
  std::vector<std::byte> saved(llama_state_seq_get_size(c.get(), 0));
  auto* const to = reinterpret_cast<std::uint8_t*>(saved.data());
  if (llama_state_seq_get_data(c.get(), to, saved.size(), 0) != saved.size())
    throw std::runtime_error("llama.cpp does not save the sequence");
  refused("its saved sequence", [&] { compress_saved(saved, {shape.kv_heads}, f16_codec{}); });
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) throw std::runtime_error("cache_kinds MODEL FOLDER");
  std::printf("%-34s %10s %10s\n", "cache", "saved", "stored");
  engine_model const m(argv[1]);
  travel("f16, exactly", m, {}, f16_codec{}, true);
  travel("f16, no flash attention", m, {.flash = false}, f16_codec{}, true);
  travel("bf16, in 8 bits", m, {.type = GGML_TYPE_BF16}, int8_codec{}, false);
  travel("q8_0, exactly", m, {.type = GGML_TYPE_Q8_0}, q8_0_codec{}, true);
  travel("q4_0, exactly (through f16)", m, {.type = GGML_TYPE_Q4_0}, f16_codec{}, true);
  travel("q4_0, in 8 bits", m, {.type = GGML_TYPE_Q4_0}, int8_codec{}, false);
  travel_together(m, false);
  travel_together(m, true);
  auto const path = std::string(argv[2]) + "/windowed.gguf";
  write_random_model(path, {.layers = 8,
                            .width = 128,
                            .q_heads = 4,
                            .kv_heads = 2,
                            .ffn = 256,
                            .context = 4096,
                            .window = 64,
                            .kind = "gemma3"});
  engine_model const windowed(path);
  travel("windowed layers, exactly", windowed, {}, f16_codec{}, true);
  travel("windowed layers, no flash attention", windowed, {.flash = false}, f16_codec{}, true);
  travel("windowed layers, in 8 bits", windowed, {}, int8_codec{}, false);
  try {
    live_cache const cache(windowed, 32);
    std::printf("eviction from windowed layers: NOT REFUSED\n");
    good = false;
  } catch (std::runtime_error const& error) {
    std::printf("eviction from windowed layers is refused: %s\n", error.what());
  }
  for (char const* kind : {"mamba", "jamba", "qwen2vl"})
    refuse(path, {.layers = 4,
                  .width = 128,
                  .q_heads = 4,
                  .kv_heads = 2,
                  .head_dim = 32,
                  .ffn = 256,
                  .context = 4096,
                  .kind = kind});
  return good ? 0 : 1;
} catch (std::exception const& error) {
  std::fprintf(stderr, "cache_kinds: %s\n", error.what());
  return 1;
}
