// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// The engine's figures beside the project's own: what attend_live and head_masks
// wrote with --figures, and the same policies over the same tokens of the same model in the loop of
// our own that the comparison (examples/run.sh) runs. Differences are taken text by text.

#include "compare/entries.hpp"
#include "inference/gguf.hpp"
#include "inference/tokenizer.hpp"

#include <kvslim/quant/centred.hpp>
#include <kvslim/quant/ggml.hpp>
#include <kvslim/quant/int_per_token.hpp>
#include <kvslim/quant/kivi.hpp>

#include <CLI/CLI.hpp>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <sstream>

namespace {

using namespace example;
using kvslim::index_t;

struct figure {
  std::string name;
  std::vector<double> kl;  // of each text
};
std::vector<figure> read_figures(std::string const& path) {
  std::ifstream in(path);
  if (!in) throw std::runtime_error("cannot read " + path);
  std::vector<figure> out;
  for (std::string line; std::getline(in, line);) {
    std::istringstream fields(line);
    auto& f = out.emplace_back();
    std::getline(fields, f.name, '\t');
    for (double x; fields >> x;) f.kl.push_back(x);
  }
  return out;
}

/// The comparison's rows that the engine has too, by the names that its programs write.
std::vector<method> shared_rows(bool bytes) {
  using namespace kvslim;
  snapkv const snap{{.window = 32, .pool = snapkv_pool(bytes)}};
  std::vector<method> list;
  auto const stored = [&](char const* name, auto policy) {
    list.push_back(entry(name, family::quantized, [=](index_t) { return policy; }));
  };
  stored("f16", dense<f16>{});
  stored("int8", int_per_token<8>{});
  stored("int4", int_per_token<4>{});
  stored("centred4", centred<4>{});
  stored("q4_0", ggml<ggml_block::q4_0>{});
  stored("kivi4", kivi<4>{});
  stored("kivi2", kivi<2>{});
  for (auto const& [part, percent] : {std::pair{0.5, "50 %"}, std::pair{0.25, "25 %"}})
    list.push_back(entry(std::string("SnapKV, each head its own, ") + percent, family::evicted,
                         [=, part = part](index_t t) {
                           return pipeline{snap, keep(part, t)};
                         }));
  return list;
}

/// log softmax, in double.
std::vector<double> log_softmax(std::span<float const> logits) {
  double most = -INFINITY, total = 0;
  for (float x : logits) most = std::max(most, static_cast<double>(x));
  for (float x : logits) total += std::exp(x - most);
  std::vector<double> out;
  for (float x : logits) out.push_back(x - most - std::log(total));
  return out;
}

}  // namespace

int main(int argc, char** argv) try {
  std::string model_path = KVSLIM_REFERENCE_MODEL, text_path = KVSLIM_HELDOUT_TEXT, figures;
  index_t context = 2048, scored = 192;
  CLI::App app{"The engine's figures beside those of our own loop."};
  app.add_option("figures", figures, "what the programs wrote with --figures")->required();
  app.add_option("--model", model_path, "llama-architecture GGUF in f32, f16, bf16 or q8_0");
  app.add_option("--text", text_path, "text");
  app.add_option("--context", context, "tokens of a text");
  app.add_option("--scored", scored, "of them scored");
  CLI11_PARSE(app, argc, argv);
  auto const engine = read_figures(figures);
  auto const file = gguf::open(model_path);
  example::model model(file);
  tokenizer const words(file);
  std::ifstream in(text_path, std::ios::binary);
  std::string const text{std::istreambuf_iterator<char>(in), {}};
  auto const whole = words.encode(text);
  auto const list = shared_rows(model.shape().vocabulary == 256);
  std::size_t texts = 0;
  for (auto const& f : engine) texts = std::max(texts, f.kl.size());
  std::vector<std::vector<double>> own(list.size());
  auto const from = std::ssize(whole) - context, length = context - scored;
  if (from <= 0 || scored >= context) throw std::runtime_error("the text is too short");
  for (std::size_t i = 0; i < texts; ++i) {
    std::fprintf(stderr, "own loop, text %zu of %zu\n", i + 1, texts);
    auto const begin = whole.begin() + from * static_cast<index_t>(i) / static_cast<index_t>(texts);
    std::vector<index_t> tokens{words.opening_token()};
    tokens.insert(tokens.end(), begin, begin + context - 1);
    prefilled const cache(model, {tokens.begin(), tokens.begin() + length});
    auto const score = [&](method const& m, auto const& see) {
      auto const run = m.make(cache, length, scored);
      for (index_t t = 0; t < scored; ++t)
        see(t, log_softmax(run->decode(model, tokens[static_cast<std::size_t>(length + t)])));
    };
    std::vector<std::vector<double>> exact;
    score(entry("exact", family::exact, [](index_t) { return kvslim::dense<kvslim::f16>{}; }),
          [&](index_t, std::vector<double> p) { exact.push_back(std::move(p)); });
    for (std::size_t m = 0; m < list.size(); ++m) {
      double kl = 0;
      score(list[m], [&](index_t t, std::vector<double> const& q) {
        auto const& p = exact[static_cast<std::size_t>(t)];
        for (std::size_t v = 0; v < p.size(); ++v) kl += std::exp(p[v]) * (p[v] - q[v]);
      });
      own[m].push_back(kl / static_cast<double>(scored));
    }
  }
  std::printf(
      "\nKL to f16, nats, mean of %zu texts; difference text by text and its standard error\n",
      texts);
  std::printf("%-34s %12s %12s %12s %12s\n", "policy", "in llama.cpp", "own loop", "difference",
              "error");
  for (std::size_t m = 0; m < list.size(); ++m)
    for (auto const& f : engine) {
      if (f.name != list[m].name || f.kl.size() != texts) continue;
      auto const n = static_cast<double>(texts);
      double a = 0, b = 0, square = 0;
      for (std::size_t i = 0; i < texts; ++i) a += f.kl[i] / n, b += own[m][i] / n;
      for (std::size_t i = 0; i < texts; ++i) square += std::pow(f.kl[i] - own[m][i] - a + b, 2);
      std::printf("%-34s %12.6f %12.6f %+12.6f %12.6f\n", f.name.c_str(), a, b, a - b,
                  texts > 1 ? std::sqrt(square / (n * (n - 1))) : 0.0);
    }
  return 0;
} catch (std::exception const& error) {
  std::fprintf(stderr, "beside_own_loop: %s\n", error.what());
  return 1;
}
