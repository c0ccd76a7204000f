// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// llama.cpp loads a model of this folder and says the same as this project's decoder, whose
// attention is kvslim's over an f32 cache: bits per byte and logits over 300 bytes from four places
// of the held-out text. Built only with -DKVSLIM_AGAINST=PATH, a build of llama.cpp.

#include "inference/session.hpp"

#include <llama.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>

namespace {

using example::index_t;
using all_logits = std::vector<std::vector<float>>;

constexpr index_t bytes_read = 300;

all_logits ours(example::model& m, std::vector<index_t> const& tokens) {
  kvslim::dense<float> const policy{};
  example::prefilled const first(m, {tokens.front()});
  // The first token sees only itself; kvslim's cache holds it from the second on.
  all_logits out;
  auto const attend_first = [&](index_t, auto, auto, auto v, auto y) {
    auto const& s = m.shape();
    for (index_t h = 0; h < s.q_heads; ++h)
      for (index_t d = 0; d < s.head_dim; ++d)
        y[static_cast<std::size_t>(h * s.head_dim + d)] =
            v[static_cast<std::size_t>(h / (s.q_heads / s.kv_heads) * s.head_dim + d)];
  };
  auto const logits = m.step(tokens.front(), 0, attend_first);
  out.emplace_back(logits.begin(), logits.end());
  example::policy_session<kvslim::dense<float>> run(first, policy, 1, bytes_read, {.window = 1});
  for (auto t = tokens.begin() + 1; t != tokens.end(); ++t) {
    auto const next = run.decode(m, *t);
    out.emplace_back(next.begin(), next.end());
  }
  return out;
}

all_logits theirs(char const* path, std::vector<index_t> const& tokens) {
  auto* const m = llama_model_load_from_file(path, llama_model_default_params());
  if (m == nullptr) throw std::runtime_error("llama.cpp does not load it");
  auto params = llama_context_default_params();
  params.n_ctx = params.n_batch = params.n_ubatch = 512;
  params.n_threads = params.n_threads_batch = 1;
  auto* const context = llama_init_from_model(m, params);
  if (context == nullptr) throw std::runtime_error("llama.cpp makes no context");
  auto const n = static_cast<int>(tokens.size());
  auto batch = llama_batch_init(n, 0, 1);
  batch.n_tokens = n;
  for (int i = 0; i < n; ++i) {
    batch.token[i] = static_cast<llama_token>(tokens[static_cast<std::size_t>(i)]);
    batch.pos[i] = i;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = 1;
  }
  if (llama_decode(context, batch) != 0) throw std::runtime_error("llama.cpp does not decode");
  auto const vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(m));
  all_logits out;
  for (int i = 0; i < n; ++i) {
    float const* const x = llama_get_logits_ith(context, i);
    out.emplace_back(x, x + vocabulary);
  }
  llama_batch_free(batch);
  llama_free(context);
  llama_model_free(m);
  return out;
}

double bits_per_byte(all_logits const& logits, std::vector<index_t> const& next) {
  double sum = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    double total = 0;
    for (float x : logits[i]) total += std::exp(static_cast<double>(x));
    sum += std::log2(total) - logits[i][static_cast<std::size_t>(next[i])] / std::log(2.0);
  }
  return sum / static_cast<double>(logits.size());
}

}  // namespace

int main(int argc, char** argv) try {
  llama_log_set([](ggml_log_level, char const*, void*) {}, nullptr);
  llama_backend_init();
  std::ifstream in(KVSLIM_HELDOUT_TEXT, std::ios::binary);
  std::string const text{std::istreambuf_iterator<char>(in), {}};
  std::vector<char const*> paths{KVSLIM_REFERENCE_MODEL, KVSLIM_REFERENCE_HEADS};
  if (argc > 1) paths.assign(argv + 1, argv + argc);
  bool good = true;
  for (char const* path : paths) {
    auto const file = example::gguf::open(path);
    example::model model(file);
    std::printf("%s\n%8s %12s %12s %20s %12s\n", path, "byte", "ours, bits", "llama.cpp",
                "logits, relative L2", "same best");
    for (std::size_t at : {0u, 30000u, 60000u, 90000u}) {
      std::vector<index_t> tokens{0}, next;  // byte 0 opens
      for (index_t i = 0; i < bytes_read; ++i) {
        next.push_back(static_cast<unsigned char>(text.at(at + static_cast<std::size_t>(i))));
        tokens.push_back(next.back());
      }
      tokens.pop_back();
      auto const a = ours(model, tokens), b = theirs(path, tokens);
      double difference = 0, norm = 0;
      int same = 0;
      for (std::size_t i = 0; i < a.size(); ++i) {
        for (std::size_t j = 0; j < a[i].size(); ++j) {
          difference += std::pow(a[i][j] - b[i].at(j), 2);
          norm += std::pow(a[i][j], 2);
        }
        same += std::max_element(a[i].begin(), a[i].end()) - a[i].begin() ==
                std::max_element(b[i].begin(), b[i].end()) - b[i].begin();
      }
      double const mine = bits_per_byte(a, next), other = bits_per_byte(b, next);
      std::printf("%8zu %12.4f %12.4f %20.1e %8d/%lld\n", at, mine, other,
                  std::sqrt(difference / norm), same, static_cast<long long>(bytes_read));
      good = good && std::abs(mine - other) < 0.001;
    }
  }
  std::printf(good ? "both say the same\n" : "they differ by 0.001 bits or more\n");
  return good ? 0 : 1;
} catch (std::exception const& error) {
  std::fprintf(stderr, "llama_cpp_agrees: %s\n", error.what());
  return 1;
}
