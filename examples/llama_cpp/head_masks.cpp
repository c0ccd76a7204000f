// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// What a policy with a keep set for every layer and head would do to llama.cpp's output. AN
// EMULATION: the engine has one table of cells for all layers, so nothing is freed. Logits of cells
// that a head would not hold are set to -infinity in the graph ("kq-<layer>", without flash
// attention); positions, cells and time stay as they are.

#include "llama_cpp/capture.hpp"

#include <kvslim/run/select.hpp>
#include <kvslim/score/random_scores.hpp>
#include <kvslim/score/shared.hpp>
#include <kvslim/score/snapkv.hpp>
#include <kvslim/select/adakv.hpp>
#include <kvslim/select/pyramidkv.hpp>
#include <kvslim/select/top_k.hpp>

#include <CLI/CLI.hpp>

#include <cstdio>

namespace {

using namespace example;

/// Sees the cache as live_cache does, without flash attention, and hides cells from heads.
class masked_cache final : public live_cache {
 public:
  using live_cache::live_cache;

  /// [layer, kv head, cell]: 1 hides it.
  std::vector<std::uint8_t> hidden;
  index_t hidden_cells = 0;

  bool wants(ggml_tensor const* t) override {
    return writes_first_keys(t) || (t->op == GGML_OP_MUL_MAT &&
                                    (begins_with(t->name, "kq-") || begins_with(t->name, "kqv-")));
  }
  void saw(ggml_tensor* t) override {
    if (t->op == GGML_OP_SET_ROWS) return saw_cells(t->src[1]);
    auto const* const from = root_of(t->src[0]);
    bool const values = begins_with(t->name, "kqv-");
    auto const layer = layer_of(from, values ? "cache_v_l" : "cache_k_l");
    if (values) return take_values(layer, from, t->src[0]->ne[1], true);
    if (queries_wanted) take_queries(layer, from, t->src[1]);
    if (!hidden.empty()) hide(layer, t);
  }

 private:
  /// t: [cell, token, query head].
  void hide(std::size_t layer, ggml_tensor* t) const {
    index_t const group = model().q_heads / model().kv_heads;
    for (index_t h = 0; h < t->ne[2]; ++h) {
      auto const* const mine =
          hidden.data() +
          (static_cast<index_t>(layer) * model().kv_heads + h / group) * hidden_cells;
      for (index_t i = 0; i < t->ne[1]; ++i) {
        auto* const row = reinterpret_cast<float*>(static_cast<char*>(t->data) +
                                                   static_cast<std::size_t>(h) * t->nb[2] +
                                                   static_cast<std::size_t>(i) * t->nb[1]);
        for (index_t c = 0; c < std::min(hidden_cells, t->ne[0]); ++c)
          if (mine[c] != 0) row[c] = -INFINITY;
      }
    }
  }
};

struct settings {
  std::string model = KVSLIM_REFERENCE_MODEL, text = KVSLIM_HELDOUT_TEXT, figures;
  index_t context = 2048, scored = 192, texts = 4, budget = 25;
  int threads = 1;
};

constexpr index_t window = 32;

/// A policy's keep sets as masks. Returns the tokens that a row keeps on average.
template <class Policy>
double mask(masked_cache& cache, Policy const& policy) {
  auto const view = cache.view();
  auto const& e = view.extents();
  auto const plan = kvslim::make_plan(policy, e);
  std::vector<std::byte> memory(plan.keep_bytes()), scratch(plan.select_bytes());
  auto keep = plan.keep(memory);
  kvslim::evidence const seen{kvslim::window_queries{cache.queries()}};
  if (auto const s = kvslim::select(kvslim::cpu{}, plan, view, seen, keep, scratch); !s)
    throw std::runtime_error(s.message);
  cache.hidden.assign(static_cast<std::size_t>(e.rows() * e.tokens), 1);
  cache.hidden_cells = e.tokens;
  for (index_t r = 0; r < e.rows(); ++r)
    for (auto i = keep.begins[r]; i < keep.begins[r + 1]; ++i)
      cache.hidden[static_cast<std::size_t>(r * e.tokens + keep.cells[i])] = 0;
  return static_cast<double>(keep.begins[e.rows()]) / static_cast<double>(e.rows());
}

/// Calls f(name, policy).
template <class F>
void for_policies(engine_model const& m, index_t budget, F const& f) {
  using namespace kvslim;
  snapkv const snap{{.window = window, .pool = m.bytes() ? 21 : 5}};
  top_k const best{{.budget = budget, .sinks = 4, .recent = window}};
  f("SnapKV, each head its own", pipeline{snap, best});
  f("one set for the heads of a layer", pipeline{shared{snap, {1, m.kv_heads}}, best});
  f("one set for all layers", pipeline{shared{snap, {m.layers, m.kv_heads}}, best});
  f("Ada-KV among heads", pipeline{snap, adakv{{.budget = budget, .kv_heads = m.kv_heads}}});
  f("PyramidKV over layers",
    pipeline{snap, pyramidkv{{.budget = budget, .layers = m.layers, .kv_heads = m.kv_heads}}});
  f("random, each head its own", pipeline{random_scores{}, best});
}

}  // namespace

int main(int argc, char** argv) try {
  settings s;
  CLI::App app{"Policies per layer and head on llama.cpp, emulated by masks: no memory is saved."};
  app.add_option("--model", s.model, "any GGUF that llama.cpp loads");
  app.add_option("--text", s.text, "text");
  app.add_option("--budget", s.budget, "per cent of the prompt")->check(CLI::Range(1, 100));
  app.add_option("--context", s.context, "tokens of a text")->check(CLI::Range(64, 1 << 20));
  app.add_option("--scored", s.scored, "of them decoded behind the masks");
  app.add_option("--texts", s.texts, "texts")->check(CLI::Range(1, 100));
  app.add_option("--figures", s.figures, "file that the KL of each text is added to");
  app.add_option("--threads", s.threads, "threads")->check(CLI::Range(1, 256));
  CLI11_PARSE(app, argc, argv);
  engine_model const m(s.model);
  auto const whole = m.encode(read_file(s.text));
  auto const from = std::ssize(whole) - s.context;
  if (from <= 0 || s.scored >= s.context - window)
    throw std::runtime_error("the text is too short");

  std::vector<std::string> names;
  std::vector<double> kl, kept;
  std::vector<std::vector<double>> text_kl;
  double removed = 0;  // the same set for all, masked and removed: what the two differ by
  for (index_t i = 0; i < s.texts; ++i) {
    token_list tokens{m.opening_token()};
    auto const begin = whole.begin() + from * i / s.texts;
    tokens.insert(tokens.end(), begin, begin + s.context - 1);
    auto const n = tokens.size() - static_cast<std::size_t>(s.scored);
    std::span const all(tokens);
    auto const go_on = [&](masked_cache& cache, engine& run) {
      std::vector<std::vector<double>> out;
      cache.queries_wanted = false;
      for (auto const t : all.subspan(n)) {
        run.decode(t);
        cache.arrived(run.next);
        out.push_back(log_softmax(run.logits()));
      }
      return out;
    };
    auto const prefill = [&](masked_cache& cache, engine& run) {
      cache.queries_wanted = false;
      run.decode(all.first(n - window));
      cache.queries_wanted = true;
      run.decode(all.subspan(n - window, window));
      cache.arrived(run.next);
    };
    auto const mean = [&](auto const& p, auto const& q) {
      double sum = 0;
      for (std::size_t t = 0; t < p.size(); ++t) sum += divergence(p[t], q[t]);
      return sum / static_cast<double>(s.scored * s.texts);
    };
    masked_cache cache(m, window);
    engine run(m, {.cells = s.context, .flash = false, .threads = s.threads, .sees = &cache});
    prefill(cache, run);
    auto const exact = go_on(cache, run);
    std::size_t at = 0;
    for_policies(
        m, static_cast<index_t>(n) * s.budget / 100, [&](char const* name, auto const& policy) {
          std::fprintf(stderr, "text %d of %d: %s\n", static_cast<int>(i + 1),
                       static_cast<int>(s.texts), name);
          masked_cache here(m, window);
          engine again(m,
                       {.cells = s.context, .flash = false, .threads = s.threads, .sees = &here});
          prefill(here, again);
          double const tokens_kept = mask(here, policy);
          auto const masked = go_on(here, again);
          if (i == 0)
            names.emplace_back(name), kl.push_back(0), kept.push_back(0), text_kl.emplace_back();
          double const share = mean(exact, masked);
          kl[at] += share;
          text_kl[at].push_back(share * static_cast<double>(s.texts));
          kept[at] += tokens_kept / static_cast<double>(s.texts);
          if (at++ != 2) return;
          masked_cache gone(m, window);
          engine less(m, {.cells = s.context, .flash = false, .threads = s.threads, .sees = &gone});
          prefill(gone, less);
          mask(gone, policy);
          std::vector<std::int32_t> cells;
          for (index_t c = 0; c < gone.hidden_cells; ++c)
            if (gone.hidden[static_cast<std::size_t>(c)] == 0)
              cells.push_back(static_cast<std::int32_t>(c));
          gone.hidden.clear();
          gone.keep_only(less, cells, false);
          removed += mean(masked, go_on(gone, less));
        });
  }
  std::printf("\nEmulated by masks: quality only, no memory is saved.\n%-34s %12s %10s\n", "policy",
              "kept per row", "KL, nats");
  for (std::size_t k = 0; k < names.size(); ++k) {
    std::printf("%-34s %12.0f %10.5f\n", names[k].c_str(), kept[k], kl[k]);
    write_figures(s.figures, names[k] + ", " + std::to_string(s.budget) + " %", text_kl[k]);
  }
  std::printf("one set for all layers, masked against removed (llama_memory_seq_rm): KL %.1e\n",
              removed);
  return 0;
} catch (std::exception const& error) {
  std::fprintf(stderr, "head_masks: %s\n", error.what());
  return 1;
}
