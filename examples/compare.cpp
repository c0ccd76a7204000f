// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// The main job: a real model's cache, compressed by each of many pipelines and attended as
// stored. Prints one table and writes report.json and report.dat (for the plot).

#include "compare/calibration.hpp"
#include "compare/pass_keys.hpp"
#include "compare/report.hpp"
#include "inference/tokenizer.hpp"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace {

using namespace example;

std::vector<double> log_softmax(std::span<float const> logits) {
  double const most = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (float x : logits) total += std::exp(x - most);
  std::vector<double> out;
  for (float x : logits) out.push_back(x - most - std::log(total));
  return out;
}

index_t best(std::span<float const> logits) {
  return std::distance(logits.begin(), std::max_element(logits.begin(), logits.end()));
}

/// Says on stderr, at every percent, how far the work is and how long the rest will take if it goes
/// on as it went. Work is counted in decoded tokens.
class progress {
 public:
  explicit progress(index_t work) : work_(work) {}

  void add(index_t tokens, std::string const& what) {
    done_ += tokens;
    if (done_ * 100 / work_ == percent_) return;
    percent_ = done_ * 100 / work_;
    std::chrono::duration<double> const spent = std::chrono::steady_clock::now() - start_;
    double const left =
        spent.count() * static_cast<double>(work_ - done_) / static_cast<double>(done_);
    std::fprintf(stderr, "  %3lld %%, about %.0f s left: %s\n", static_cast<long long>(percent_),
                 left, what.c_str());
  }

 private:
  index_t work_, done_ = 0, percent_ = 0;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// The rows of a list whose names hold `part`, and the exact cache, which all are compared with.
std::vector<method> rows_of(std::vector<method> list, std::string const& part) {
  std::erase_if(list, [&, first = list.front().name](method const& m) {
    return m.name != first && m.name.find(part) == std::string::npos;
  });
  return list;
}

}  // namespace

int main(int argc, char** argv) try {
  std::string model_path = KVSLIM_REFERENCE_MODEL, text_path = KVSLIM_HELDOUT_TEXT, out_dir = ".";
  int texts = 4, keys = 16;
  bool heads = false;
  std::string only;
  index_t context = 0, scored = 192;
  CLI::App app{"Compresses a real model's KV cache with every pipeline and compares them."};
  app.add_option("--model", model_path, "llama-architecture GGUF in f32, f16, bf16 or q8_0");
  app.add_option("--text", text_path, "text to prefill");
  app.add_option("--out", out_dir, "folder for report.json and report.dat");
  app.add_option("--texts", texts, "texts scored (default: 4, with --heads 24)")
      ->check(CLI::Range(1, 100));
  app.add_flag("--heads", heads, "compare who chooses: each KV head, or the heads of a layer");
  app.add_option("--keys", keys, "pass keys asked (default: 16, with --heads none)")
      ->check(CLI::Range(0, 100));
  app.add_option("--only", only, "the rows whose names hold this, beside the exact cache");
  app.add_option("--context", context, "tokens of context (default: 2048 or what the model has)");
  app.add_option("--scored", scored, "tokens scored after compression")
      ->check(CLI::Range(1, 100000));
  CLI11_PARSE(app, argc, argv);

  auto const file = gguf::open(model_path);
  example::model model(file);
  tokenizer const words(file);
  auto const& shape = model.shape();
  if (words.size() > shape.vocabulary)
    throw std::runtime_error("the model has fewer tokens than its vocabulary");
  if (context == 0) context = std::min<index_t>(2048, shape.context);
  if (context < 512 || context > shape.context || scored > context / 2)
    throw std::runtime_error(
        "--context must be 512 to the model's own, --scored at most half of it");
  std::ifstream in(text_path, std::ios::binary);
  std::string const text{std::istreambuf_iterator<char>(in), {}};
  auto const whole = words.encode(text);
  if (std::ssize(whole) < 2 * context)
    throw std::runtime_error("the text is too short: " + text_path);
  std::fprintf(stderr, "%s: %lld layers, %lld query and %lld KV heads of %lld, context %lld\n",
               model_path.c_str(), static_cast<long long>(shape.layers),
               static_cast<long long>(shape.q_heads), static_cast<long long>(shape.kv_heads),
               static_cast<long long>(shape.head_dim), static_cast<long long>(context));

  index_t const pool = snapkv_pool(shape.vocabulary == 256);
  // Tables are made of text that lies between the first two that are scored.
  std::shared_ptr<calibration const> other_text;
  if (index_t const apart = (std::ssize(whole) - context) / std::max(texts, 2);
      apart >= 2 * context) {
    auto const begin = whole.begin() + (apart + context) / 2 - context / 2;
    std::vector<index_t> tokens{words.opening_token()};
    tokens.insert(tokens.end(), begin, begin + context - 1);
    other_text = std::make_shared<calibration>(model, tokens);
  }
  // Gates are trained for a model: they lie beside it.
  std::shared_ptr<gates const> gated;
  auto const beside = std::filesystem::path(model_path).replace_extension() += "-fastkvzip.gguf";
  if (std::filesystem::exists(beside))
    gated = std::make_shared<gates>(gguf::open(beside.string()), shape);
  auto const list = rows_of(heads ? head_methods(model, shape.vocabulary == 256)
                                  : methods(model, shape.vocabulary == 256, other_text, gated),
                            only);
  if (list.size() == 1 && !only.empty()) throw std::runtime_error("no row is called " + only);
  if (heads && shape.kv_heads == 1)
    throw std::runtime_error("--heads needs a model with more KV heads than one: " + model_path);
  if (heads && app.count("--texts") == 0) texts = 24;
  if (heads && app.count("--keys") == 0) keys = 0;
  if (heads && texts < 2)
    throw std::runtime_error("--heads needs two texts to tell a difference from noise");
  std::vector<result> results(list.size());

  index_t const length = context - scored, rows = std::ssize(list);
  index_t const per_key = 2 * (answer_tokens + 40);  // two runs, each with its prompt's end
  progress shown(rows * (texts * scored + keys * per_key));
  for (int i = 0; i < texts; ++i) {
    auto const begin =
        whole.begin() + static_cast<index_t>(i) * (std::ssize(whole) - context) / texts;
    std::vector<index_t> tokens{words.opening_token()};
    tokens.insert(tokens.end(), begin, begin + context);
    index_t bytes = 0;
    for (auto t = tokens.begin() + length + 1; t != tokens.end(); ++t)
      bytes += std::ssize(words.bytes(*t));
    prefilled const cache(model, {tokens.begin(), tokens.begin() + length});
    std::vector<std::vector<double>> exact;
    for (std::size_t m = 0; m < list.size(); ++m) {
      auto& r = results[m];
      auto const run = list[m].make(cache, length, scored);
      r.stored_bytes += static_cast<double>(run->size().stored_bytes) / texts;
      r.ratio += static_cast<double>(run->size().original_bytes) /
                 static_cast<double>(run->size().stored_bytes) / texts;
      r.peak_bytes = std::max(r.peak_bytes, static_cast<double>(run->size().peak_bytes));
      r.compress_ms += run->size().compress_ms / texts;
      std::vector<double> times;
      double kl = 0;
      for (index_t t = 0; t < scored; ++t) {
        auto const start = std::chrono::steady_clock::now();
        auto const logits = run->decode(model, tokens[static_cast<std::size_t>(length + t)]);
        times.push_back(
            std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
                .count());
        auto const p = log_softmax(logits);
        double const share = 1.0 / static_cast<double>(scored);
        r.bits_per_byte -=
            p[static_cast<std::size_t>(tokens[static_cast<std::size_t>(length + t + 1)])] /
            std::log(2.0) / static_cast<double>(bytes) / texts;
        if (m == 0) exact.push_back(p);
        auto const& q = exact[static_cast<std::size_t>(t)];
        for (std::size_t v = 0; v < q.size(); ++v) kl += std::exp(q[v]) * (q[v] - p[v]) * share;
      }
      r.kl += kl / texts;
      r.text_kl.push_back(kl);
      std::nth_element(times.begin(), times.begin() + std::ssize(times) / 2, times.end());
      r.decode_ms += times[times.size() / 2] / texts;
      shown.add(scored, "text " + std::to_string(i + 1) + ", " + list[m].name);
    }
  }

  auto const asked = pass_keys(words, whole, context, keys);
  for (std::size_t i = 0; i < asked.size(); ++i) {
    auto const& key = asked[i];
    std::vector<index_t> tokens(key.context);
    tokens.insert(tokens.end(), key.question.begin(), key.question.end());
    index_t const total = std::ssize(tokens), before = std::ssize(key.context);
    prefilled const cache(model, {tokens.begin(), tokens.end() - 1});
    auto const right = [&](method const& row, index_t compressed) {
      auto const run = row.make(cache, compressed, total - compressed + answer_tokens);
      std::span<float const> logits;
      for (index_t t = compressed; t < total; ++t)
        logits = run->decode(model, tokens[static_cast<std::size_t>(t)]);
      std::string said;
      for (index_t n = 0; n < answer_tokens; ++n) {
        auto const token = best(logits);
        said += words.bytes(token);
        if (n + 1 < answer_tokens) logits = run->decode(model, token);
      }
      said.erase(0, said.find_first_not_of(' '));
      return said.starts_with(key.answer) ? 1 : 0;
    };
    // Lengths one after the other: all rows share the second pass over what is compressed.
    for (bool const seen : {true, false})
      for (std::size_t m = 0; m < list.size(); ++m) {
        (seen ? results[m].seen_right : results[m].unseen_right) +=
            right(list[m], seen ? total - 1 : before);
        if (!seen) results[m].asked += 1;
        shown.add(per_key / 2, "pass key " + std::to_string(i + 1) + ", " + list[m].name);
      }
  }

  nlohmann::json report;
  report["model"] = file.text("general.name");
  report["context_tokens"] = context;
  report["snapkv_pool"] = pool;
  report["scored_tokens"] = scored * texts;
  report["methods"] = to_json(list, results);
  print_table(list, results);
  if (!heads) print_verdicts(list, results);
  print_pairings(list, results);
  std::printf(
      "\nexact cache: %.3f bits per byte on held-out text. Stored bytes count everything but room "
      "reserved for decoding; ratio is to an\n"
      "f16 cache; peak adds the f16 source, reserved room and workspace. KL is from the exact "
      "cache to the method's.\n"
      "SnapKV pools over %lld tokens.\n",
      results[0].bits_per_byte, static_cast<long long>(pool));
  std::ofstream(out_dir + "/report.json") << report.dump(2) << '\n';
  write_plot_data(out_dir + "/report.dat", list, results);
  return 0;
} catch (std::exception const& error) {
  std::fprintf(stderr, "compare: %s\n", error.what());
  return 1;
}
