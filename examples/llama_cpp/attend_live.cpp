// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// llama.cpp decodes while kvslim attends, over bytes that kvslim stores. The evaluation callback
// takes every new token's K and V out of the engine's cache, appends them to kvslim's, and writes
// kvslim's attention over the engine's output of FLASH_ATTN_EXT. The engine's own cache has room
// for 256 cells and forgets its tokens as it goes; what it computes over them is thrown away.
//
// The sequence is one that the engine saved, or, for speed, random numbers of a real model's shape.

#include "llama_cpp/codecs.hpp"
#include "llama_cpp/engine.hpp"
#include "llama_cpp/random_model.hpp"

#include <kvslim/run/append.hpp>
#include <kvslim/run/attend.hpp>
#include <kvslim/run/settle.hpp>

#include <CLI/CLI.hpp>

#include <cstdio>
#include <random>
#include <set>

namespace {

using namespace example;

void require(kvslim::status const& s) {
  if (!s) throw std::runtime_error(s.message);
}

/// One layer's cache: each layer may have a policy of its own.
class live_layer {
 public:
  virtual ~live_layer() = default;
  virtual void step(engine_threads& threads, kvslim::rows<> k, kvslim::rows<> v, kvslim::rows<> q,
                    kvslim::rows_out<> out) = 0;
  [[nodiscard]] virtual std::size_t bytes() const = 0;
};

template <class Quantizer>
class stored_layer final : public live_layer {
 public:
  stored_layer(saved_view const& from, Quantizer const& codec, index_t q_heads, index_t room,
               int threads)
      : plan_(kvslim::make_plan(codec, from.extents(), {.append_tokens = room})),
        // Where a layer has fewer rows than there are threads, they share a row.
        splits_((threads + from.extents().rows() - 1) / from.extents().rows()),
        storage_(plan_.packed_bytes()),
        scratch_(std::max({plan_.encode_bytes(), kvslim::append_bytes(plan_.layout()),
                           kvslim::attend_bytes(plan_.layout(), q_heads, 1, splits_),
                           kvslim::settle_bytes(plan_.layout())})),
        packed_(plan_, storage_),
        lse_(static_cast<std::size_t>(q_heads)) {
    require(plan_.check());
    auto const& e = from.extents();
    std::vector<std::int64_t> begins;
    std::vector<std::int32_t> cells;
    for (index_t r = 0; r <= e.rows(); ++r) begins.push_back(r * e.tokens);
    for (index_t i = 0; i < e.rows() * e.tokens; ++i)
      cells.push_back(static_cast<std::int32_t>(i % e.tokens));
    kvslim::keep_set const all{.begins = begins.data(), .cells = cells.data()};
    require(kvslim::encode(kvslim::cpu{}, plan_, from, all, packed_, scratch_));
  }
  void step(engine_threads& threads, kvslim::rows<> k, kvslim::rows<> v, kvslim::rows<> q,
            kvslim::rows_out<> out) override {
    kvslim::attend_request<> const request{
        .q = q, .out = out, .lse = lse_.data(), .splits = splits_};
    require(threads.run([&](kvslim::cpu_part const& exec) -> kvslim::status {
      if (auto const s = kvslim::append(exec, packed_, k, v, scratch_); !s) return s;
      if (auto const s = kvslim::attend(exec, packed_, request, scratch_); !s) return s;
      return kvslim::settle(exec, packed_, scratch_);
    }));
  }
  [[nodiscard]] std::size_t bytes() const override { return packed_.live_bytes(); }

 private:
  using plan_type =
      decltype(kvslim::make_plan(std::declval<Quantizer const&>(), kvslim::extents{}));
  using packed_type = kvslim::packed_cache<typename plan_type::key_codec_type,
                                           typename plan_type::value_codec_type>;
  plan_type plan_;
  index_t splits_;
  example::detail::aligned_bytes storage_, scratch_;
  packed_type packed_;
  std::vector<float> lse_;
};

/// The callback: one token at a time.
class live_attention final : public watcher {
 public:
  explicit live_attention(engine_threads& threads) : threads_(threads) {}
  std::vector<std::unique_ptr<live_layer>> layers;
  double attend_ms = 0;

  [[nodiscard]] std::size_t bytes() const {
    std::size_t sum = 0;
    for (auto const& l : layers) sum += l->bytes();
    return sum;
  }
  bool wants(ggml_tensor const* t) override {
    return t->op == GGML_OP_FLASH_ATTN_EXT || writes_first_keys(t);
  }
  void saw(ggml_tensor* t) override {
    if (t->op == GGML_OP_SET_ROWS) {
      cell_ = *static_cast<std::int64_t const*>(t->src[1]->data);
      return;
    }
    attend_ms += milliseconds([&] { attend(t); });
  }

 private:
  static bool writes_first_keys(ggml_tensor const* t) {
    return t->op == GGML_OP_SET_ROWS && t->view_src != nullptr &&
           std::string_view(t->view_src->name) == "cache_k_l0";
  }
  void attend(ggml_tensor* t) {
    auto const *q = t->src[0], *k = t->src[1], *v = t->src[2];
    float rule[3];  // scale, ALiBi's slope, soft cap
    std::memcpy(rule, t->op_params, sizeof rule);
    float const scale = 1.0f / std::sqrt(static_cast<float>(q->ne[0]));
    if (k->type != GGML_TYPE_F16 || v->type != GGML_TYPE_F16 || q->ne[1] != 1 || q->ne[3] != 1 ||
        t->src[4] != nullptr || rule[1] != 0 || rule[2] != 0 ||
        std::abs(rule[0] - scale) > 1e-6f * scale)
      throw std::runtime_error(
          "attend_live takes one token, an f16 cache, and attention without ALiBi, sinks or caps");
    auto const row = [&](ggml_tensor const* x) {
      auto const* const at =
          static_cast<char const*>(x->data) + cell_ * static_cast<index_t>(x->nb[1]);
      return kvslim::rows_view<kvslim::f16 const>{
          static_cast<kvslim::f16 const*>(static_cast<void const*>(at)),
          1,
          x->ne[2],
          1,
          x->ne[0],
          {0, static_cast<index_t>(x->nb[2]) / 2, 0, 1}};
    };
    kvslim::rows_view<float const> const query{
        static_cast<float const*>(q->data),           1, q->ne[2], 1, q->ne[0],
        {0, static_cast<index_t>(q->nb[2]) / 4, 0, 1}};
    auto const layer = std::atoi(k->view_src->name + std::strlen("cache_k_l"));
    layers.at(static_cast<std::size_t>(layer))
        ->step(threads_, row(k), row(v), query,
               kvslim::dense_rows(static_cast<float*>(t->data), {1, t->ne[1], 1, t->ne[0]}));
  }
  engine_threads& threads_;
  std::int64_t cell_ = 0;
};

/// Times the engine's own attention: the graph is computed up to the node before FLASH_ATTN_EXT,
/// then that node by itself. Which nodes those are is seen while the first token is decoded.
class attention_clock final : public watcher {
 public:
  double attend_ms = 0;

  bool wants(ggml_tensor const* t) override {
    bool const before = before_.count(t->name) != 0;
    if (t->op == GGML_OP_FLASH_ATTN_EXT) before_.insert(last_);
    last_ = t->name;
    return before || t->op == GGML_OP_FLASH_ATTN_EXT;
  }
  void saw(ggml_tensor* t) override {
    auto const now = std::chrono::steady_clock::now();
    if (t->op == GGML_OP_FLASH_ATTN_EXT)
      attend_ms += std::chrono::duration<double, std::milli>(now - since_).count();
    since_ = std::chrono::steady_clock::now();
  }

 private:
  std::set<std::string> before_;
  std::string last_;
  std::chrono::steady_clock::time_point since_ = std::chrono::steady_clock::now();
};

struct settings {
  std::string model = KVSLIM_REFERENCE_MODEL, text = KVSLIM_HELDOUT_TEXT, random, figures;
  std::vector<std::string> codecs;
  std::vector<index_t> contexts{2048, 8192, 32768};
  std::vector<int> threads{1};
  index_t context = 2048, scored = 192, texts = 4, timed = 24, exact_layers = 0, generate = 0;

  [[nodiscard]] bool wants(char const* codec) const {
    return codecs.empty() || std::find(codecs.begin(), codecs.end(), codec) != codecs.end();
  }
};

ggml_type const own_types[] = {GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0};

/// An engine that kvslim attends for, behind a saved sequence of f16.
class live_engine {
 public:
  template <class Quantizer>
  live_engine(engine_model const& m, engine_threads& threads, std::span<std::byte const> saved,
              Quantizer const& codec, index_t room, index_t exact_layers)
      : live_(threads), run_(m, {.cells = own_cells, .sees = &live_, .pool = &threads}) {
    auto const s = read_saved(saved);
    if (s.caches.size() != 1) throw std::runtime_error("windowed layers: not attended here");
    auto const& c = s.caches.front();
    for (std::size_t l = 0; l < c.k.size(); ++l) {
      saved_cache one{c.streams, c.stream, c.positions, {c.k[l]}, {c.v[l]}};
      saved_view const view(saved, one, {m.kv_heads});
      if (static_cast<index_t>(l) < exact_layers)
        live_.layers.push_back(std::make_unique<stored_layer<kvslim::dense<kvslim::f16>>>(
            view, kvslim::dense<kvslim::f16>{}, m.q_heads, room, threads.count()));
      else
        live_.layers.push_back(std::make_unique<stored_layer<Quantizer>>(view, codec, m.q_heads,
                                                                         room, threads.count()));
    }
    run_.next = *std::max_element(c.positions.begin(), c.positions.end()) + 1;
  }
  void decode(llama_token t) {
    run_.decode(t);
    if (++since_ < own_cells / 2) return;
    since_ = 0;  // all but the newest, from which the engine goes on
    if (!llama_memory_seq_rm(run_.memory(), 0, 0, run_.next - 1))
      throw std::runtime_error("the engine removes no part of a sequence");
  }
  [[nodiscard]] engine& run() { return run_; }
  [[nodiscard]] live_attention& live() { return live_; }

 private:
  static constexpr index_t own_cells = 256;
  live_attention live_;
  engine run_;
  index_t since_ = 0;
};

/// What the stored bytes cost in quality, on the reference model or another, text by text.
void compare_quality(engine_model const& m, settings const& s) {
  engine_threads threads(s.threads.front());
  std::vector<std::string> names;
  std::vector<std::vector<double>> kl;
  std::vector<std::size_t> bytes;
  for (index_t i = 0; i < s.texts; ++i) {
    auto const tokens = text_of(m, read_file(s.text), s.context, i, s.texts);
    auto const n = tokens.size() - static_cast<std::size_t>(s.scored);
    engine own(m, {.cells = s.context, .pool = &threads});
    own.decode(std::span(tokens).first(n));
    auto const saved = own.save();
    std::vector<std::vector<double>> exact;
    for (auto t = n; t < tokens.size(); ++t) {
      own.decode(tokens[t]);
      exact.push_back(log_softmax(own.logits()));
    }
    std::size_t at = 0;
    for_codecs([&](char const* name, auto const& codec) {
      if (!s.wants(name)) return;
      if (i == 0) names.emplace_back(name), kl.emplace_back(), bytes.push_back(0);
      live_engine e(m, threads, saved, codec, s.scored, s.exact_layers);
      double sum = 0;
      for (std::size_t t = 0; t < exact.size(); ++t) {
        e.decode(tokens[n + t]);
        sum += divergence(exact[t], log_softmax(e.run().logits()));
      }
      kl[at].push_back(sum / static_cast<double>(s.scored));
      bytes[at++] += e.live().bytes() / static_cast<std::size_t>(s.texts);
    });
  }
  std::printf(
      "%lld texts of %lld tokens, then %lld decoded with kvslim's attention\n%-14s %10s %12s\n",
      static_cast<long long>(s.texts), static_cast<long long>(s.context - s.scored),
      static_cast<long long>(s.scored), "stored as", "bytes", "KL, nats");
  for (std::size_t k = 0; k < names.size(); ++k) {
    std::printf("%-14s %10zu %12.2e\n", names[k].c_str(), bytes[k], mean_of(kl[k]));
    write_figures(s.figures, names[k], kl[k]);
  }
}

/// A long answer: greedy, out of kvslim's cache alone, which grows by every token.
void generate(engine_model const& m, settings const& s) {
  engine_threads threads(s.threads.front());
  auto const tokens = text_of(m, read_file(s.text), 256, 0, 1);
  engine own(m, {.cells = 256, .pool = &threads});
  own.decode(tokens);
  auto const saved = own.save();
  for_codecs([&](char const* name, auto const& codec) {
    if (!s.wants(name)) return;
    live_engine e(m, threads, saved, codec, s.generate, s.exact_layers);
    auto next = own.best();
    double const ms = milliseconds([&] {
      for (index_t t = 0; t < s.generate; ++t) {
        e.decode(next);
        next = e.run().best();
      }
    });
    std::printf("%-14s %lld tokens generated, %zu bytes held, %.2f ms a token\n", name,
                static_cast<long long>(s.generate), e.live().bytes(),
                ms / static_cast<double>(s.generate));
    std::fflush(stdout);
  });
}

/// A saved sequence of n cells of normal numbers.
std::vector<std::byte> random_sequence(engine_model const& m, index_t head_dim, index_t n,
                                       std::int32_t type) {
  saved_cache c;
  c.positions.resize(static_cast<std::size_t>(n));
  std::iota(c.positions.begin(), c.positions.end(), 0);
  c.k.assign(static_cast<std::size_t>(m.layers), {{type}, m.kv_heads * head_dim});
  c.v = c.k;
  saved_sequence s{0, {c}};
  auto out = write_frame(s);
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<std::size_t>(m.kv_heads * head_dim));
  for (auto const* planes : {&s.caches[0].k, &s.caches[0].v})
    for (auto const& p : *planes)
      for (index_t i = 0; i < n; ++i) {
        for (float& y : x) y = normal(random);
        store_saved(out, p, n, i, 0, x);
      }
  return out;
}

double median(std::vector<double> x) {
  std::nth_element(x.begin(), x.begin() + std::ssize(x) / 2, x.end());
  return x[x.size() / 2];
}

/// Time per token and bytes held, the engine's attention and kvslim's on the same threads.
void compare_speed(engine_model const& m, index_t head_dim, settings const& s) {
  std::int32_t const numbers[] = {1, 8, 2};
  for (auto const n : s.contexts) {
    std::vector<std::vector<std::byte>> saved;
    for (auto const number : numbers) saved.push_back(random_sequence(m, head_dim, n, number));
    for (auto const count : s.threads) {
      engine_threads threads(count);
      std::printf(
          "\n%lld tokens held, %lld layers of %lld query and %lld KV heads of %lld, %d %s\n",
          static_cast<long long>(n), static_cast<long long>(m.layers),
          static_cast<long long>(m.q_heads), static_cast<long long>(m.kv_heads),
          static_cast<long long>(head_dim), count, count == 1 ? "thread" : "threads");
      std::printf("%-24s %12s %14s %12s\n", "cache", "bytes", "ms per token", "attention");
      // Medians; the first token is not counted.
      auto const time = [&](std::string const& name, std::size_t bytes, auto& e, auto& clock) {
        std::vector<double> ms, attention;
        for (index_t t = 0; t <= s.timed; ++t) {
          clock.attend_ms = 0;
          double const all = milliseconds([&] { e.decode(static_cast<llama_token>(t % 256)); });
          if (t == 0) continue;
          ms.push_back(all);
          attention.push_back(clock.attend_ms);
        }
        std::printf("%-24s %12zu %14.2f %12.2f\n", name.c_str(), bytes, median(ms),
                    median(attention));
        std::fflush(stdout);
      };
      for (std::size_t i = 0; i < std::size(own_types); ++i) {
        attention_clock clock;
        engine e(m, {.cells = n + 256, .type = own_types[i], .sees = &clock, .pool = &threads});
        e.restore(saved[i]);
        time(std::string("llama.cpp ") + ggml_type_name(own_types[i]), saved[i].size(), e, clock);
      }
      for_codecs([&](char const* name, auto const& codec) {
        if (!s.wants(name)) return;
        live_engine e(m, threads, saved[0], codec, s.timed + 1, s.exact_layers);
        time(std::string("kvslim ") + name, e.live().bytes(), e, e.live());
      });
    }
  }
}

}  // namespace

int main(int argc, char** argv) try {
  settings s;
  CLI::App app{"llama.cpp decodes, kvslim attends over what it stores."};
  app.add_option("--model", s.model, "any GGUF that llama.cpp loads");
  app.add_option("--text", s.text, "text");
  app.add_option("--context", s.context, "tokens of a text")->check(CLI::Range(64, 1 << 20));
  app.add_option("--scored", s.scored, "of them decoded with kvslim's attention");
  app.add_option("--texts", s.texts, "texts; 0: no comparison of quality")
      ->check(CLI::Range(0, 100));
  app.add_option("--codecs", s.codecs, "names; default: all")->delimiter(',');
  app.add_option("--exact-layers", s.exact_layers, "first layers kept in f16");
  app.add_option("--figures", s.figures, "file that the KL of each text is added to");
  app.add_option("--generate", s.generate, "tokens of a long answer");
  app.add_option("--random", s.random, "where to write a model of random weights, for speed");
  app.add_option("--contexts", s.contexts, "tokens held while timed")->delimiter(',');
  app.add_option("--timed", s.timed, "tokens timed");
  app.add_option("--threads", s.threads, "threads; for speed each of several numbers in turn")
      ->delimiter(',')
      ->check(CLI::Range(1, 256));
  CLI11_PARSE(app, argc, argv);
  if (s.texts > 0 || s.generate > 0) {
    engine_model const m(s.model);
    if (s.texts > 0) compare_quality(m, s);
    if (s.generate > 0) generate(m, s);
  }
  if (s.random.empty()) return 0;
  random_shape const shape;
  write_random_model(s.random, shape);
  compare_speed(engine_model(s.random), shape.head_dim, s);
  return 0;
} catch (std::exception const& error) {
  std::fprintf(stderr, "attend_live: %s\n", error.what());
  return 1;
}
