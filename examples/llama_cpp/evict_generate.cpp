// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// llama.cpp decodes at a fixed budget of tokens: any scorer chooses, over the engine's own K and V,
// one keep set for all layers (the engine has one table of cells), and the engine forgets the rest.
// Again every few tokens, for as long as the text goes on.

#include "compare/pass_keys.hpp"
#include "llama_cpp/capture.hpp"

#include <kvslim/keep/chunkkv.hpp>
#include <kvslim/run/select.hpp>
#include <kvslim/score/h2o.hpp>
#include <kvslim/score/keydiff.hpp>
#include <kvslim/score/knorm.hpp>
#include <kvslim/score/lagkv.hpp>
#include <kvslim/score/random_scores.hpp>
#include <kvslim/score/shared.hpp>
#include <kvslim/score/snapkv.hpp>
#include <kvslim/score/streaming_llm.hpp>
#include <kvslim/score/tova.hpp>
#include <kvslim/select/coverage.hpp>
#include <kvslim/select/top_k.hpp>

#include <CLI/CLI.hpp>

#include <cstdio>

namespace {

using namespace example;

struct settings {
  std::string model = KVSLIM_REFERENCE_MODEL, text = KVSLIM_HELDOUT_TEXT, quota = "top_k", figures;
  std::vector<std::string> scorers{"snapkv",  "tova",  "h2o",           "knorm",
                                   "keydiff", "lagkv", "streaming_llm", "random"};
  index_t context = 2048, scored = 192, texts = 4, budget = 25, every = 64, keys = 16,
          generate = 10000, window = 32;
  bool close_gaps = false;
  int threads = 1;
};

/// Cells that stay, by a pipeline over the live cache.
template <class Scorer, class... Rest>
std::vector<std::int32_t> choose(live_cache& cache, Scorer const& scorer, Rest const&... rest) {
  auto const view = cache.view();
  auto const& e = view.extents();
  kvslim::pipeline const policy{
      kvslim::shared{scorer, {.sequences = e.sequences, .kv_heads = e.kv_heads}}, rest...};
  auto const plan = kvslim::make_plan(policy, e);
  std::vector<std::byte> memory(plan.keep_bytes()), scratch(plan.select_bytes());
  auto keep = plan.keep(memory);
  kvslim::evidence const seen{kvslim::window_queries{cache.queries()}};
  if (auto const s = kvslim::select(kvslim::cpu{}, plan, view, seen, keep, scratch); !s)
    throw std::runtime_error(s.message);
  return {keep.cells, keep.cells + keep.count(0)};
}

/// The same by name.
std::vector<std::int32_t> choose(live_cache& cache, engine_model const& m, settings const& s,
                                 std::string const& name, index_t budget) {
  using namespace kvslim;
  auto const with = [&](auto const& scorer) {
    top_k const best{{.budget = budget, .sinks = 4, .recent = s.window}};
    if (s.quota == "top_k") return choose(cache, scorer, best);
    if (s.quota == "chunkkv") return choose(cache, scorer, best, chunkkv{});
    if (s.quota == "coverage")
      return choose(cache, scorer,
                    coverage{{.part = 0.9f, .budget = budget, .sinks = 4, .recent = s.window}});
    throw std::runtime_error("no quota " + s.quota + ": top_k, chunkkv, coverage");
  };
  // The authors' 5 tokens span about 21 bytes of text (compare/methods.hpp).
  if (name == "snapkv") return with(snapkv{{.window = s.window, .pool = m.bytes() ? 21 : 5}});
  if (name == "tova") return with(tova{});
  if (name == "h2o") return with(h2o<>{});
  if (name == "knorm") return with(knorm{});
  if (name == "keydiff") return with(keydiff{});
  if (name == "lagkv") return with(lagkv{});
  if (name == "streaming_llm") return with(streaming_llm{});
  if (name == "random") return with(random_scores{});
  throw std::runtime_error("no scorer " + name);
}

/// The engine, its cache watched, and when to evict.
class bounded_engine {
 public:
  bounded_engine(engine_model const& m, settings const& s, std::string scorer, index_t cells,
                 index_t budget)
      : model_(m),
        settings_(s),
        scorer_(std::move(scorer)),
        budget_(budget),
        cache_(m, s.window),
        run_(m,
             {.cells = cells, .threads = s.threads, .sees = scorer_.empty() ? nullptr : &cache_}) {}

  /// A prompt, whose last queries are seen.
  void prefill(std::span<llama_token const> tokens) {
    auto const last =
        std::min<std::size_t>(tokens.size(), static_cast<std::size_t>(settings_.window));
    take(tokens.first(tokens.size() - last), false);
    take(tokens.last(last), true);
  }
  /// One more token; evicts when `every` have come since the last time.
  void decode(llama_token t) {
    take({&t, 1}, since_ + settings_.window >= settings_.every);
    if (++since_ >= settings_.every) evict();
  }
  void evict() {
    since_ = 0;
    if (scorer_.empty() || cache_.cells_held() <= budget_) return;
    evict_ms += milliseconds([&] {
      auto const kept = choose(cache_, model_, settings_, scorer_, budget_);
      calls += cache_.keep_only(run_, kept, settings_.close_gaps);
    });
    ++evictions;
  }
  [[nodiscard]] engine& run() { return run_; }
  [[nodiscard]] live_cache& cache() { return cache_; }
  double evict_ms = 0;
  index_t evictions = 0, calls = 0, most_cells = 0;

 private:
  void take(std::span<llama_token const> tokens, bool watch) {
    if (tokens.empty()) return;
    cache_.queries_wanted = watch;
    run_.decode(tokens);
    cache_.arrived(run_.next);
    most_cells = std::max(most_cells, cache_.cells_held());
  }

  engine_model const& model_;
  settings const& settings_;
  std::string scorer_;
  index_t budget_, since_ = 0;
  live_cache cache_;
  engine run_;
};

/// Text i, whose last `scored` tokens are the continuation.
token_list text_of(engine_model const& m, settings const& s, index_t i) {
  if (s.scored >= s.context) throw std::runtime_error("--scored must be less than --context");
  return text_of(m, read_file(s.text), s.context, i, s.texts);
}

struct result {
  double kl = 0, bits = 0, ms = 0, evict_ms = 0, cells = 0, bytes = 0, calls = 0;
  std::vector<double> text_kl = {};
  int seen = 0, unseen = 0;
};

/// Texts: prefilled whole, cut to the budget, decoded with an eviction every `every` tokens.
void score_texts(engine_model const& m, settings const& s, std::vector<result>& results) {
  for (index_t i = 0; i < s.texts; ++i) {
    auto const tokens = text_of(m, s, i);
    auto const n = tokens.size() - static_cast<std::size_t>(s.scored);
    std::vector<std::vector<double>> exact;
    for (std::size_t k = 0; k < results.size(); ++k) {
      auto const name = k == 0 ? std::string() : s.scorers[k - 1];
      std::fprintf(stderr, "text %d of %d: %s\n", static_cast<int>(i + 1),
                   static_cast<int>(s.texts), k == 0 ? "everything kept" : name.c_str());
      bounded_engine e(m, s, name, s.context, static_cast<index_t>(n) * s.budget / 100);
      e.prefill(std::span(tokens).first(n));
      e.evict();
      auto& r = results[k];
      double const share = 1.0 / static_cast<double>(s.texts),
                   each = share / static_cast<double>(s.scored);
      double const before = r.kl;
      for (std::size_t t = n; t < tokens.size(); ++t) {
        r.ms += milliseconds([&] { e.decode(tokens[t]); }) * each;
        auto const q = log_softmax(e.run().logits());
        if (k == 0) exact.push_back(q);
        r.kl += divergence(exact[t - n], q) * each;
        if (t + 1 < tokens.size())
          r.bits -= q[static_cast<std::size_t>(tokens[t + 1])] / std::log(2.0) * share /
                    static_cast<double>(s.scored - 1);
      }
      r.text_kl.push_back((r.kl - before) * static_cast<double>(s.texts));
      auto const cells =
          k == 0 ? static_cast<double>(tokens.size()) : static_cast<double>(e.cache().cells_held());
      r.cells += cells * share;
      r.bytes += k == 0 ? 0 : static_cast<double>(e.cache().bytes_held()) * share;
      if (e.evictions > 0) {
        r.evict_ms += e.evict_ms / static_cast<double>(e.evictions) * share;
        r.calls += static_cast<double>(e.calls) / static_cast<double>(e.evictions) * share;
      }
    }
  }
}

/// Words as the pass keys want them.
struct words {
  engine_model const& m;
  [[nodiscard]] std::vector<index_t> encode(std::string const& text) const {
    auto const t = m.encode(text);
    return {t.begin(), t.end()};
  }
  [[nodiscard]] index_t opening_token() const { return m.opening_token(); }
};

void ask_pass_keys(engine_model const& m, settings const& s, std::vector<result>& results) {
  words const w{m};
  auto const asked = pass_keys(w, w.encode(read_file(s.text)), s.context, static_cast<int>(s.keys));
  for (auto const& key : asked) {
    token_list tokens(key.context.begin(), key.context.end());
    auto const before = tokens.size();
    tokens.insert(tokens.end(), key.question.begin(), key.question.end());
    for (std::size_t k = 0; k < results.size(); ++k) {
      auto const right = [&](std::size_t evicted_at) {
        bounded_engine e(m, s, k == 0 ? "" : s.scorers[k - 1], s.context,
                         s.context * s.budget / 100);
        e.prefill(std::span(tokens).first(evicted_at));
        e.evict();
        for (auto t = evicted_at; t < tokens.size(); ++t) e.decode(tokens[t]);
        std::string said;
        for (index_t n = 0; n < answer_tokens; ++n) {
          auto const t = e.run().best();
          said += m.text(t);
          if (n + 1 < answer_tokens) e.decode(t);
        }
        said.erase(0, said.find_first_not_of(' '));
        return said.starts_with(key.answer) ? 1 : 0;
      };
      results[k].seen += right(tokens.size() - 1);
      results[k].unseen += right(before);
    }
    std::fprintf(stderr, ".");
  }
  if (!asked.empty()) std::fprintf(stderr, " %zu pass keys\n", asked.size());
}

/// A text far longer than the budget, in an engine whose whole cache is little more than that.
void go_on(engine_model const& m, settings const& s) {
  auto const budget = s.context * s.budget / 100;
  auto with = s;
  with.close_gaps = true;  // or positions would leave what the model was trained on
  auto const whole = m.encode(read_file(s.text));
  std::printf("\n%lld tokens of text one by one, %lld cells kept, room for %lld, gaps closed\n",
              static_cast<long long>(s.generate), static_cast<long long>(budget),
              static_cast<long long>((budget + s.every + 255) / 256 * 256));
  std::printf("%-16s %12s %14s %14s %12s %12s\n", "scorer", "most cells", "bits a token",
              "of last 1000", "ms a token", "of last 1000");
  for (auto const& name : s.scorers) {
    bounded_engine e(m, with, name, (budget + s.every + 255) / 256 * 256, budget);
    double bits = 0, last_bits = 0, ms = 0, last_ms = 0;
    e.decode(m.opening_token());
    for (index_t t = 0; t < s.generate; ++t) {
      auto const token = whole[static_cast<std::size_t>(t % std::ssize(whole))];
      double const cost =
          -log_softmax(e.run().logits())[static_cast<std::size_t>(token)] / std::log(2.0);
      double const took = milliseconds([&] { e.decode(token); });
      bits += cost;
      ms += took;
      if (t + 1000 >= s.generate) last_bits += cost, last_ms += took;
    }
    auto const n = static_cast<double>(s.generate), last = std::min(n, 1000.0);
    std::printf("%-16s %12lld %14.3f %14.3f %12.3f %12.3f\n", name.c_str(),
                static_cast<long long>(e.most_cells), bits / n, last_bits / last, ms / n,
                last_ms / last);
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) try {
  settings s;
  CLI::App app{"llama.cpp at a fixed budget of tokens, chosen by kvslim over its own cache."};
  app.add_option("--model", s.model, "any GGUF that llama.cpp loads");
  app.add_option("--text", s.text, "text");
  app.add_option("--scorers", s.scorers, "names")->delimiter(',');
  app.add_option("--quota", s.quota, "top_k, chunkkv or coverage");
  app.add_option("--budget", s.budget, "per cent of the prompt")->check(CLI::Range(1, 100));
  app.add_option("--every", s.every, "tokens between evictions")->check(CLI::Range(1, 1 << 20));
  app.add_flag("--close-gaps", s.close_gaps, "positions become consecutive again");
  app.add_option("--context", s.context, "tokens of a text")->check(CLI::Range(64, 1 << 20));
  app.add_option("--scored", s.scored, "of them decoded at the budget");
  app.add_option("--texts", s.texts, "texts")->check(CLI::Range(1, 100));
  app.add_option("--keys", s.keys, "pass keys")->check(CLI::Range(0, 100));
  app.add_option("--generate", s.generate, "tokens of the long text; 0: none");
  app.add_option("--figures", s.figures, "file that the KL of each text is added to");
  app.add_option("--threads", s.threads, "threads")->check(CLI::Range(1, 256));
  CLI11_PARSE(app, argc, argv);
  engine_model const m(s.model);
  std::vector<result> results(s.scorers.size() + 1);
  score_texts(m, s, results);
  ask_pass_keys(m, s, results);
  results[0].bytes = results[0].cells * results.back().bytes / results.back().cells;
  std::printf("\n%-16s %8s %10s %9s %9s %11s %10s %10s %8s %8s\n", "kept by", "cells", "bytes",
              "KL, nats", "bits", "ms a token", "eviction", "its calls", "seen", "unseen");
  for (std::size_t k = 0; k < results.size(); ++k) {
    auto const& r = results[k];
    if (k > 0)
      write_figures(s.figures, s.scorers[k - 1] + ", one set, " + std::to_string(s.budget) + " %",
                    r.text_kl);
    std::printf("%-16s %8.0f %10.0f %9.4f %9.4f %11.3f %7.2f ms %10.0f %5d/%-2lld %5d/%-2lld\n",
                k == 0 ? "everything" : s.scorers[k - 1].c_str(), r.cells, r.bytes, r.kl, r.bits,
                r.ms, r.evict_ms, r.calls, r.seen, static_cast<long long>(s.keys), r.unseen,
                static_cast<long long>(s.keys));
  }
  std::fflush(stdout);
  if (s.generate > 0) go_on(m, s);
  return 0;
} catch (std::exception const& error) {
  std::fprintf(stderr, "evict_generate: %s\n", error.what());
  return 1;
}
