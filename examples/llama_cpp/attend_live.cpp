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

namespace {

using namespace example;

void require(kvslim::status const& s) {
  if (!s) throw std::runtime_error(s.message);
}

/// One layer's cache: each layer may have a policy of its own.
class live_layer {
 public:
  virtual ~live_layer() = default;
  virtual void step(kvslim::rows<> k, kvslim::rows<> v, kvslim::rows<> q,
                    kvslim::rows_out<> out) = 0;
  [[nodiscard]] virtual std::size_t bytes() const = 0;
};

template <class Quantizer>
class stored_layer final : public live_layer {
 public:
  stored_layer(saved_view const& from, Quantizer const& codec, index_t q_heads, index_t room)
      : plan_(kvslim::make_plan(codec, from.extents(), {.append_tokens = room})),
        storage_(plan_.packed_bytes()),
        scratch_(std::max({plan_.encode_bytes(), kvslim::append_bytes(plan_.layout()),
                           kvslim::attend_bytes(plan_.layout(), q_heads),
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
  void step(kvslim::rows<> k, kvslim::rows<> v, kvslim::rows<> q, kvslim::rows_out<> out) override {
    kvslim::cpu const exec;
    require(kvslim::append(exec, packed_, k, v, scratch_));
    kvslim::attend_request<> const request{.q = q, .out = out, .lse = lse_.data()};
    require(kvslim::attend(exec, packed_, request, scratch_));
    require(kvslim::settle(exec, packed_, scratch_));
  }
  [[nodiscard]] std::size_t bytes() const override { return packed_.live_bytes(); }

 private:
  using plan_type =
      decltype(kvslim::make_plan(std::declval<Quantizer const&>(), kvslim::extents{}));
  using packed_type = kvslim::packed_cache<typename plan_type::key_codec_type,
                                           typename plan_type::value_codec_type>;
  plan_type plan_;
  example::detail::aligned_bytes storage_, scratch_;
  packed_type packed_;
  std::vector<float> lse_;
};

/// The callback: one token at a time.
class live_attention final : public watcher {
 public:
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
        ->step(row(k), row(v), query,
               kvslim::dense_rows(static_cast<float*>(t->data), {1, t->ne[1], 1, t->ne[0]}));
  }
  std::int64_t cell_ = 0;
};

struct settings {
  std::string model = KVSLIM_REFERENCE_MODEL, text = KVSLIM_HELDOUT_TEXT, random;
  std::vector<index_t> contexts{2048, 8192, 32768};
  index_t context = 2048, scored = 192, timed = 32, exact_layers = 0;
  bool speed = true;
};

ggml_type const own_types[] = {GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0};

/// An engine that kvslim attends for, behind a saved sequence of f16.
class live_engine {
 public:
  template <class Quantizer>
  live_engine(engine_model const& m, std::span<std::byte const> saved, Quantizer const& codec,
              index_t room, index_t exact_layers)
      : run_(m, {.cells = own_cells, .sees = &live_}) {
    auto const s = read_saved(saved);
    if (s.caches.size() != 1) throw std::runtime_error("windowed layers: not attended here");
    auto const& c = s.caches.front();
    for (std::size_t l = 0; l < c.k.size(); ++l) {
      saved_cache one{c.streams, c.stream, c.positions, {c.k[l]}, {c.v[l]}};
      saved_view const view(saved, one, {m.kv_heads});
      if (static_cast<index_t>(l) < exact_layers)
        live_.layers.push_back(std::make_unique<stored_layer<kvslim::dense<kvslim::f16>>>(
            view, kvslim::dense<kvslim::f16>{}, m.q_heads, room));
      else
        live_.layers.push_back(
            std::make_unique<stored_layer<Quantizer>>(view, codec, m.q_heads, room));
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

/// What the stored bytes cost in quality, on the reference model or another.
void compare_quality(engine_model const& m, settings const& s) {
  auto tokens = m.encode(read_file(s.text));
  tokens.insert(tokens.begin(), m.opening_token());
  auto const n = static_cast<std::size_t>(s.context - s.scored);
  engine own(m, {.cells = s.context});
  own.decode(std::span(tokens).first(n));
  auto const saved = own.save();
  std::vector<std::vector<double>> exact;
  for (index_t t = 0; t < s.scored; ++t) {
    own.decode(tokens[n + static_cast<std::size_t>(t)]);
    exact.push_back(log_softmax(own.logits()));
  }
  std::printf("%lld tokens, then %lld decoded with kvslim's attention\n%-14s %10s %12s\n",
              static_cast<long long>(n), static_cast<long long>(s.scored), "stored as", "bytes",
              "KL, nats");
  for_codecs([&](char const* name, auto const& codec) {
    live_engine e(m, saved, codec, s.scored, s.exact_layers);
    double kl = 0;
    for (std::size_t t = 0; t < exact.size(); ++t) {
      e.decode(tokens[n + t]);
      kl += divergence(exact[t], log_softmax(e.run().logits())) / static_cast<double>(s.scored);
    }
    std::printf("%-14s %10zu %12.2e\n", name, e.live().bytes(), kl);
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

/// Time per token and bytes held, one thread.
void compare_speed(engine_model const& m, index_t head_dim, settings const& s) {
  for (auto const n : s.contexts) {
    std::printf("\n%lld tokens held, %lld layers of %lld query and %lld KV heads of %lld\n",
                static_cast<long long>(n), static_cast<long long>(m.layers),
                static_cast<long long>(m.q_heads), static_cast<long long>(m.kv_heads),
                static_cast<long long>(head_dim));
    std::printf("%-24s %12s %14s %12s\n", "cache", "bytes", "ms per token", "attention");
    auto const time = [&](auto& e) {
      std::vector<double> ms;
      for (index_t t = 0; t < s.timed; ++t)
        ms.push_back(milliseconds([&] { e.decode(static_cast<llama_token>(t % 256)); }));
      return median(ms);
    };
    double empty = 0;
    {
      engine e(m, {.cells = 256});
      empty = time(e);
      std::printf("%-24s %12d %14.2f %12s\n", "none", 0, empty, "");
    }
    std::int32_t const numbers[] = {1, 8, 2};
    for (std::size_t i = 0; i < std::size(own_types); ++i) {
      engine e(m, {.cells = n + 256, .type = own_types[i]});
      auto const saved = random_sequence(m, head_dim, n, numbers[i]);
      e.restore(saved);
      double const ms = time(e);
      std::printf("%-24s %12zu %14.2f %12.2f\n",
                  (std::string("llama.cpp ") + ggml_type_name(own_types[i])).c_str(), saved.size(),
                  ms, ms - empty);
      std::fflush(stdout);
    }
    auto const saved = random_sequence(m, head_dim, n, 1);
    for_codecs([&](char const* name, auto const& codec) {
      live_engine e(m, saved, codec, s.timed, s.exact_layers);
      double const ms = time(e);
      std::printf("%-24s %12zu %14.2f %12.2f\n", (std::string("kvslim ") + name).c_str(),
                  e.live().bytes(), ms, e.live().attend_ms / static_cast<double>(s.timed));
      std::fflush(stdout);
    });
  }
}

}  // namespace

int main(int argc, char** argv) try {
  settings s;
  CLI::App app{"llama.cpp decodes, kvslim attends over what it stores."};
  app.add_option("--model", s.model, "any GGUF that llama.cpp loads");
  app.add_option("--text", s.text, "text");
  app.add_option("--context", s.context, "tokens of the text")->check(CLI::Range(64, 1 << 20));
  app.add_option("--scored", s.scored, "of them decoded with kvslim's attention");
  app.add_option("--exact-layers", s.exact_layers, "first layers kept in f16");
  app.add_option("--random", s.random, "where to write a model of random weights, for speed");
  app.add_option("--contexts", s.contexts, "tokens held while timed")->delimiter(',');
  app.add_option("--timed", s.timed, "tokens timed");
  CLI11_PARSE(app, argc, argv);
  compare_quality(engine_model(s.model), s);
  if (s.random.empty()) return 0;
  random_shape const shape;
  write_random_model(s.random, shape);
  compare_speed(engine_model(s.random), shape.head_dim, s);
  return 0;
} catch (std::exception const& error) {
  std::fprintf(stderr, "attend_live: %s\n", error.what());
  return 1;
}
