// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// A sequence that llama.cpp saved, stored in any codec of kvslim and restored in a new process:
//
//   save_compressed save DIR      prefills texts, writes each sequence in every codec and, for
//                                 comparison, as caches of the engine's own types save it
//   save_compressed restore DIR   restores each, goes on with the text and prints bytes against KL
//
// It also shows that truncated, damaged and foreign files are refused.

#include "llama_cpp/codecs.hpp"
#include "llama_cpp/engine.hpp"
#include "llama_cpp/lossless.hpp"

#include <CLI/CLI.hpp>

#include <cstdio>
#include <map>

namespace {

using namespace example;

ggml_type const own_types[] = {GGML_TYPE_F16,  GGML_TYPE_Q8_0, GGML_TYPE_Q5_1,
                               GGML_TYPE_Q5_0, GGML_TYPE_Q4_1, GGML_TYPE_Q4_0};

struct settings {
  std::string model = KVSLIM_REFERENCE_MODEL, text = KVSLIM_HELDOUT_TEXT, dir = ".";
  index_t context = 2048, scored = 192, texts = 4;
  int threads = 1;
};

void write_file(std::string const& path, void const* data, std::size_t bytes) {
  std::ofstream out(path, std::ios::binary);
  out.write(static_cast<char const*>(data), static_cast<std::streamsize>(bytes));
  if (!out) throw std::runtime_error("cannot write " + path);
}

std::span<std::byte const> bytes_of(std::string const& s) {
  return {reinterpret_cast<std::byte const*>(s.data()), s.size()};
}

/// Text i, whose last `scored` tokens are the continuation.
token_list text_of(engine_model const& m, settings const& s, index_t i) {
  if (s.scored >= s.context) throw std::runtime_error("--scored must be less than --context");
  return text_of(m, read_file(s.text), s.context, i, s.texts);
}

void save(engine_model const& m, settings const& s) {
  for (index_t i = 0; i < s.texts; ++i) {
    auto const tokens = text_of(m, s, i);
    std::span const all(tokens),
        prompt = all.first(all.size() - static_cast<std::size_t>(s.scored));
    auto const name = s.dir + "/" + std::to_string(i) + ".";
    for (auto const type : own_types) {
      std::fprintf(stderr, "text %d of %d, cache of type %s\n", static_cast<int>(i + 1),
                   static_cast<int>(s.texts), ggml_type_name(type));
      engine run(m, {.cells = s.context, .type = type, .threads = s.threads});
      run.decode(prompt);
      auto const saved = run.save();
      write_file(name + ggml_type_name(type) + ".state", saved.data(), saved.size());
      if (has_lossless) {
        auto const less = squeeze(saved);
        write_file(name + ggml_type_name(type) + ".state.zst", less.data(), less.size());
      }
      if (type != GGML_TYPE_F16) continue;
      for_codecs([&](char const* codec, auto const& policy) {
        auto const stored = compress_saved(saved, {m.kv_heads}, policy);
        write_file(name + codec + ".kvslim", stored.data(), stored.size());
        if (!has_lossless) return;
        auto const less = squeeze(stored);
        write_file(name + codec + ".kvslim.zst", less.data(), less.size());
      });
      std::vector<float> exact;
      for (auto const t : all.subspan(prompt.size())) {
        run.decode(t);
        exact.insert(exact.end(), run.logits().begin(), run.logits().end());
      }
      write_file(name + "logits", exact.data(), exact.size() * sizeof(float));
    }
  }
}

struct row {
  double bytes = 0, kl = 0, same = 0, restore_ms = 0, squeezed = 0, unsqueeze_ms = 0;
};

/// What the lossless stage makes of a file, and that it comes back.
void add_lossless(settings const& s, std::string const& path, std::string const& plain, row& to) {
  if (!has_lossless) return;
  auto const file = read_file(path + ".zst");
  std::vector<std::byte> back;
  to.unsqueeze_ms += milliseconds([&] { back = unsqueeze(bytes_of(file), plain.size()); }) /
                     static_cast<double>(s.texts);
  if (!std::ranges::equal(back, bytes_of(plain)))
    throw std::runtime_error(path + " comes back otherwise");
  to.squeezed += static_cast<double>(file.size()) / static_cast<double>(s.texts);
}

/// Goes on from a restored sequence and compares with what the exact one said.
void go_on(engine_model const& m, settings const& s, index_t i, engine& run, row& to) {
  auto const tokens = text_of(m, s, i);
  auto const file = read_file(s.dir + "/" + std::to_string(i) + ".logits");
  auto const n = static_cast<std::size_t>(s.scored), wide = static_cast<std::size_t>(m.vocabulary);
  std::vector<float> exact(file.size() / sizeof(float));
  std::memcpy(exact.data(), file.data(), exact.size() * sizeof(float));
  if (exact.size() != n * wide) throw std::runtime_error("saved with other settings");
  for (std::size_t t = 0; t < n; ++t) {
    run.decode(tokens[tokens.size() - n + t]);
    auto const p = log_softmax({exact.data() + t * wide, wide}), q = log_softmax(run.logits());
    double const share = 1.0 / static_cast<double>(s.scored * s.texts);
    to.kl += divergence(p, q) * share;
    to.same += (std::max_element(p.begin(), p.end()) - p.begin() == run.best() ? 100 : 0) * share;
  }
}

void restore(engine_model const& m, settings const& s) {
  if (!has_lossless)
    std::printf("the lossless stage is skipped: pkg-config found no libzstd when this was built\n");
  std::printf("%-28s %10s %7s %6s %10s %10s %12s %10s %12s\n", "stored as", "bytes", "ratio",
              "bits", "KL, nats", "same best", "restore, ms", "with zstd", "more ms");
  double f16_bytes = 0;
  auto const print = [&](std::string const& name, row const& r) {
    if (f16_bytes == 0) f16_bytes = r.bytes;
    std::printf("%-28s %10.0f %7.2f %6.2f %10.5f %8.2f %% %12.2f", name.c_str(), r.bytes,
                f16_bytes / r.bytes, 16 * r.bytes / f16_bytes, r.kl, r.same, r.restore_ms);
    if (has_lossless) std::printf(" %10.0f %12.2f", r.squeezed, r.unsqueeze_ms);
    std::printf("\n");
  };
  for (auto const type : own_types) {
    row r;
    for (index_t i = 0; i < s.texts; ++i) {
      auto const path = s.dir + "/" + std::to_string(i) + "." + ggml_type_name(type) + ".state";
      auto const file = read_file(path);
      add_lossless(s, path, file, r);
      engine run(m, {.cells = s.context, .type = type, .threads = s.threads});
      r.restore_ms +=
          milliseconds([&] { run.restore(bytes_of(file)); }) / static_cast<double>(s.texts);
      r.bytes += static_cast<double>(file.size()) / static_cast<double>(s.texts);
      go_on(m, s, i, run, r);
    }
    print(std::string("llama.cpp ") + ggml_type_name(type), r);
  }
  for_codecs([&](char const* codec, auto const&) {
    row r;
    for (index_t i = 0; i < s.texts; ++i) {
      auto const path = s.dir + "/" + std::to_string(i) + "." + codec + ".kvslim";
      auto const file = read_file(path);
      add_lossless(s, path, file, r);
      engine run(m, {.cells = s.context, .threads = s.threads});
      r.restore_ms +=
          milliseconds([&] { run.restore(restore_saved(bytes_of(file), known_forms{})); }) /
          static_cast<double>(s.texts);
      r.bytes += static_cast<double>(file.size()) / static_cast<double>(s.texts);
      go_on(m, s, i, run, r);
    }
    print(std::string("kvslim ") + codec, r);
  });
}

/// What must not be restored; false if anything was.
bool refuses(settings const& s) {
  auto const good = read_file(s.dir + "/0.kivi4.kvslim");
  auto flipped = good, other = good;
  flipped[flipped.size() / 2] ^= 1;
  other[8] = 99;
  std::map<std::string, std::string> const cases{
      {"half of the file", good.substr(0, good.size() / 2)},
      {"one bit of it turned", flipped},
      {"another version", other},
      {"llama.cpp's own state", read_file(s.dir + "/0.f16.state")},
      {"the text", read_file(s.text)}};
  bool all = true;
  for (auto const& [name, bytes] : cases) try {
      static_cast<void>(restore_saved(bytes_of(bytes), known_forms{}));
      std::printf("%s: RESTORED\n", name.c_str());
      all = false;
    } catch (saved_error const& error) {
      std::printf("refused, %s: %s\n", name.c_str(), error.what());
    }
  if (has_lossless) try {
      auto const frame = read_file(s.dir + "/0.kivi4.kvslim.zst");
      static_cast<void>(unsqueeze(bytes_of(frame.substr(0, frame.size() / 2)), good.size()));
      std::printf("half of a frame of zstd: RESTORED\n");
      all = false;
    } catch (saved_error const& error) {
      std::printf("refused, half of a frame of zstd: %s\n", error.what());
    }
  return all;
}

}  // namespace

int main(int argc, char** argv) try {
  settings s;
  CLI::App app{"Saves a sequence of llama.cpp in kvslim's codecs, and restores it."};
  app.require_subcommand(1);
  app.fallthrough();
  app.add_option("--model", s.model, "any GGUF that llama.cpp loads");
  app.add_option("--text", s.text, "text to prefill and to go on with");
  app.add_option("--context", s.context, "tokens of a text")->check(CLI::Range(64, 1 << 20));
  app.add_option("--scored", s.scored, "of them decoded after restoring");
  app.add_option("--texts", s.texts, "texts")->check(CLI::Range(1, 100));
  app.add_option("--threads", s.threads, "threads")->check(CLI::Range(1, 256));
  auto* const saving = app.add_subcommand("save", "write DIR");
  auto* const restoring = app.add_subcommand("restore", "read DIR and print the table");
  for (auto* c : {saving, restoring}) c->add_option("dir", s.dir, "folder")->required();
  CLI11_PARSE(app, argc, argv);
  engine_model const m(s.model);
  if (*saving) return save(m, s), 0;
  restore(m, s);
  return refuses(s) ? 0 : 1;
} catch (std::exception const& error) {
  std::fprintf(stderr, "save_compressed: %s\n", error.what());
  return 1;
}
