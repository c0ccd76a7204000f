// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What the programs here share of llama.cpp, through its public headers only: a model, a context
// whose graph can be watched, text, and the KL divergence between two runs.

#include "llama_cpp/threads.hpp"

#include <kvslim/core/config.hpp>

#include <ggml-backend.h>
#include <ggml.h>
#include <llama.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <iterator>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace example {

using kvslim::index_t;
using token_list = std::vector<llama_token>;

class engine_model {
 public:
  explicit engine_model(std::string const& path) {
    llama_log_set(
        [](ggml_log_level level, char const* text, void*) {
          if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
        },
        nullptr);
    llama_backend_init();
    model_.reset(llama_model_load_from_file(path.c_str(), llama_model_default_params()));
    if (!model_) throw std::runtime_error("llama.cpp does not load " + path);
    if (llama_model_is_recurrent(get()) || llama_model_is_hybrid(get()))
      throw std::runtime_error(path + " has recurrent layers: their state is no attention cache");
    auto const rope = llama_model_rope_type(get());
    if (rope == LLAMA_ROPE_TYPE_MROPE || rope == LLAMA_ROPE_TYPE_IMROPE)
      throw std::runtime_error(path + " has M-RoPE: its cells carry more than a position");
    vocab_ = llama_model_get_vocab(get());
    layers = llama_model_n_layer(get());
    q_heads = llama_model_n_head(get());
    kv_heads = llama_model_n_head_kv(get());
    vocabulary = llama_vocab_n_tokens(vocab_);
    trained_context = llama_model_n_ctx_train(get());
    windowed = llama_model_n_swa(get()) > 0;
  }
  [[nodiscard]] llama_model* get() const { return model_.get(); }

  /// A model without a vocabulary takes bytes, and byte 0 opens.
  [[nodiscard]] bool bytes() const { return llama_vocab_type(vocab_) == LLAMA_VOCAB_TYPE_NONE; }
  [[nodiscard]] llama_token opening_token() const {
    return bytes() ? 0 : std::max(llama_vocab_bos(vocab_), 0);
  }
  [[nodiscard]] token_list encode(std::string_view text) const {
    token_list out(text.size() + 1);
    if (bytes()) {
      std::transform(text.begin(), text.end(), out.begin(),
                     [](char c) { return static_cast<unsigned char>(c); });
      out.pop_back();
      return out;
    }
    auto const n = llama_tokenize(vocab_, text.data(), static_cast<std::int32_t>(text.size()),
                                  out.data(), static_cast<std::int32_t>(out.size()), false, false);
    if (n < 0) throw std::runtime_error("llama.cpp does not tokenize the text");
    out.resize(static_cast<std::size_t>(n));
    return out;
  }
  [[nodiscard]] std::string text(llama_token t) const {
    if (bytes()) return {static_cast<char>(t)};
    char out[256];
    auto const n = llama_token_to_piece(vocab_, t, out, sizeof out, 0, false);
    return {out, static_cast<std::size_t>(std::max(n, 0))};
  }

  index_t layers = 0, q_heads = 0, kv_heads = 0, vocabulary = 0, trained_context = 0;
  bool windowed = false;

 private:
  struct release {
    void operator()(llama_model* m) const { llama_model_free(m); }
  };
  std::unique_ptr<llama_model, release> model_;
  llama_vocab const* vocab_ = nullptr;
};

/// Sees nodes of the engine's graph when they have been computed.
class watcher {
 public:
  virtual ~watcher() = default;
  virtual bool wants(ggml_tensor const* node) = 0;
  virtual void saw(ggml_tensor* node) = 0;
};

struct engine_options {
  index_t cells = 2048;            ///< of the engine's own cache
  ggml_type type = GGML_TYPE_F16;  ///< of K and V
  bool flash = true;
  int threads = 1;
  watcher* sees = nullptr;
  engine_threads* pool = nullptr;  ///< whose threads it computes with; null: threads of its own
};

/// One sequence in a context of its own.
class engine {
 public:
  engine(engine_model const& m, engine_options const& o) : model_(&m) {
    auto p = llama_context_default_params();
    p.n_ctx = static_cast<std::uint32_t>(o.cells);
    p.n_batch = p.n_ubatch = batch_tokens;
    p.n_threads = p.n_threads_batch = o.pool != nullptr ? o.pool->count() : o.threads;
    p.type_k = p.type_v = o.type;
    p.flash_attn_type = o.flash ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    if (o.sees != nullptr) {
      p.cb_eval_user_data = o.sees;
      p.cb_eval = [](ggml_tensor* t, bool ask, void* to) {
        auto& w = *static_cast<watcher*>(to);
        if (ask) return w.wants(t);
        w.saw(t);
        return true;
      };
    }
    context_.reset(llama_init_from_model(m.get(), p));
    if (!context_) throw std::runtime_error("llama.cpp makes no such context");
    if (o.pool != nullptr) o.pool->attach(get());
  }
  [[nodiscard]] llama_context* get() const { return context_.get(); }
  [[nodiscard]] llama_memory_t memory() const { return llama_get_memory(get()); }
  /// Position of the next token; the engine demands that positions go on from its newest cell.
  llama_pos next = 0;

  /// Takes tokens in; the logits of the last one are then logits().
  void decode(std::span<llama_token const> tokens) {
    for (std::size_t at = 0; at < tokens.size(); at += batch_tokens) {
      auto const n = std::min<std::size_t>(batch_tokens, tokens.size() - at);
      batch_.n_tokens = static_cast<std::int32_t>(n);
      for (std::size_t i = 0; i < n; ++i) {
        batch_.token[i] = tokens[at + i];
        batch_.pos[i] = next++;
        batch_.n_seq_id[i] = 1;
        batch_.seq_id[i][0] = 0;
        batch_.logits[i] = at + i + 1 == tokens.size();
      }
      if (llama_decode(get(), batch_) != 0) throw std::runtime_error("llama.cpp does not decode");
    }
  }
  void decode(llama_token t) { decode(std::span(&t, 1)); }
  [[nodiscard]] std::span<float const> logits() const {
    return {llama_get_logits_ith(get(), -1), static_cast<std::size_t>(model_->vocabulary)};
  }
  [[nodiscard]] llama_token best() const {
    auto const x = logits();
    return static_cast<llama_token>(std::max_element(x.begin(), x.end()) - x.begin());
  }
  [[nodiscard]] std::vector<std::byte> save() const {
    std::vector<std::byte> out(llama_state_seq_get_size(get(), 0));
    auto* const to = reinterpret_cast<std::uint8_t*>(out.data());
    if (llama_state_seq_get_data(get(), to, out.size(), 0) != out.size())
      throw std::runtime_error("llama.cpp does not save the sequence");
    return out;
  }
  void restore(std::span<std::byte const> saved) {
    auto const* const from = reinterpret_cast<std::uint8_t const*>(saved.data());
    if (llama_state_seq_set_data(get(), from, saved.size(), 0) != saved.size())
      throw std::runtime_error("llama.cpp does not take the saved sequence");
    next = llama_memory_seq_pos_max(memory(), 0) + 1;
  }

 private:
  static constexpr std::uint32_t batch_tokens = 512;
  struct release {
    void operator()(llama_context* c) const { llama_free(c); }
  };
  struct batch {
    batch() : b(llama_batch_init(batch_tokens, 0, 1)) {}
    batch(batch const&) = delete;
    batch& operator=(batch const&) = delete;
    ~batch() { llama_batch_free(b); }
    llama_batch b;
  };
  engine_model const* model_;
  std::unique_ptr<llama_context, release> context_;
  batch owned_;
  llama_batch& batch_ = owned_.b;
};

inline std::string read_file(std::string const& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// Text i of `texts`: the opening token and `tokens` - 1 of the text's, from places apart as far as
/// they can be.
inline token_list text_of(engine_model const& m, std::string const& text, index_t tokens, index_t i,
                          index_t texts) {
  auto const whole = m.encode(text);
  auto const from = std::ssize(whole) - tokens;
  if (from <= 0) throw std::runtime_error("the text is too short");
  token_list out{m.opening_token()};
  auto const begin = whole.begin() + from * i / texts;
  out.insert(out.end(), begin, begin + tokens - 1);
  return out;
}

inline double mean_of(std::vector<double> const& x) {
  double sum = 0;
  for (double y : x) sum += y;
  return sum / static_cast<double>(x.size());
}
/// Adds a line to the file at `path`, if that names one: what it is, and a figure for each text.
inline void write_figures(std::string const& path, std::string const& what,
                          std::vector<double> const& kl) {
  if (path.empty()) return;
  std::ofstream out(path, std::ios::app);
  out.precision(9);
  out << what;
  for (double x : kl) out << '\t' << x;
  out << '\n';
  if (!out) throw std::runtime_error("cannot write " + path);
}

/// log softmax, in double.
inline std::vector<double> log_softmax(std::span<float const> logits) {
  double const most = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (float x : logits) total += std::exp(x - most);
  std::vector<double> out;
  for (float x : logits) out.push_back(x - most - std::log(total));
  return out;
}
/// From the exact distribution p to q, in nats.
inline double divergence(std::span<double const> p, std::span<double const> q) {
  double sum = 0;
  for (std::size_t i = 0; i < p.size(); ++i) sum += std::exp(p[i]) * (p[i] - q[i]);
  return sum;
}

template <class F>
double milliseconds(F const& f) {
  auto const start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

}  // namespace example
