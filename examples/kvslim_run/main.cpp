// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// kvslim_run: any method over a cache that PyTorch saved. README.md beside this file says what is
// read and written.

#include "safetensors.hpp"
#include "settings.hpp"

#include <CLI/CLI.hpp>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <new>

namespace {

using namespace example;

struct arguments {
  std::string in, out, settings, preset, budget;
  std::map<std::string, std::string> names, options;  // by stage
  bool list = false, per_query_head = false;
};

/// A file of the caller's is JSON if it is named @file.
json read_json(std::string const& text, std::string const& where) {
  if (!text.starts_with('@')) return parse(text, where);
  std::ifstream in(text.substr(1), std::ios::binary);
  if (!in) throw refusal("cannot open " + text.substr(1));
  return parse({std::istreambuf_iterator<char>(in), {}}, text.substr(1));
}

/// Presets first, then --settings, then what single options say.
json settings_of(arguments const& a, problem const& p) {
  json out = a.preset.empty() ? json::object() : preset(a.preset, scale_of(a.budget, p));
  if (!a.settings.empty()) {
    json const given = read_json(a.settings, "--settings");
    if (!given.is_object()) throw refusal("--settings must be an object");
    for (auto const& [stage, x] : given.items()) out[stage] = x;
  }
  auto const object_of = [&](std::string const& stage) -> json& {
    json& x = out[stage];
    if (x.is_string()) x = {{"name", x}};
    return x;
  };
  for (auto const& [stage, name] : a.names)
    if (!name.empty()) out[stage] = {{"name", name}};
  for (auto const& [stage, text] : a.options) {
    if (text.empty()) continue;
    std::string const flag =
        "--" + stage + (stage == "shared" || stage == "logit" ? "" : "-options");
    json const given = read_json(text, flag);
    if (!given.is_object()) throw refusal(flag + " must be an object");
    if (stage == "shared" || stage == "logit") {
      out[stage] = given;
      continue;
    }
    if (!out.contains(stage)) throw refusal(flag + " needs --" + stage);
    for (auto const& [key, x] : given.items()) object_of(stage)["options"][key] = x;
  }
  if (!a.budget.empty()) {
    if (!out.contains("select")) out["select"] = {{"name", "top_k"}};
    json const number = json::parse(a.budget, nullptr, false);
    object_of("select")["options"]["budget"] = number.is_number_integer() ? number : json(a.budget);
  }
  return out;
}

/// Rows [rows, most, dim] without what lies behind their ends.
std::vector<float> packed_rows(std::vector<float> const& rows, kept_cells const& kept,
                               index_t dim) {
  std::vector<float> out;
  index_t const most = std::max<index_t>(kept.most(), 1);
  for (std::size_t r = 0; r + 1 < kept.begins.size(); ++r) {
    auto const begin = rows.begin() + static_cast<std::ptrdiff_t>(r) * most * dim;
    out.insert(out.end(), begin, begin + (kept.begins[r + 1] - kept.begins[r]) * dim);
  }
  return out;
}

std::vector<std::uint8_t> output(problem const& p, ranked const& scores, selection const& chosen,
                                 stored const& made) {
  using shape = std::vector<std::int64_t>;
  auto const& e = p.data.extent;
  auto const& kept = chosen.kept;
  index_t const b = e.sequences, h = e.kv_heads, wide = e.value_width();
  safetensors_writer file;
  if (!scores.scores.empty())
    file.add("scores", {b, h, e.tokens}, std::span<float const>(by_cell(p, scores)));
  bool ragged = false;
  for (index_t r = 0; r < e.rows(); ++r)
    ragged = ragged || kept.begins[static_cast<std::size_t>(r) + 1] -
                               kept.begins[static_cast<std::size_t>(r)] !=
                           kept.most();
  auto const rows = [&](shape tail) {
    shape s = ragged ? shape{std::ssize(kept.cells)} : shape{b, h, kept.most()};
    s.insert(s.end(), tail.begin(), tail.end());
    return s;
  };
  if (ragged) file.add("kept_begins", {e.rows() + 1}, std::span<std::int64_t const>(kept.begins));
  file.add("kept", rows({}), std::span<std::int32_t const>(kept.cells));
  auto const add = [&](char const* name, std::vector<float> const& values, shape tail,
                       index_t dim) {
    file.add(name, rows(std::move(tail)), std::span<float const>(packed_rows(values, kept, dim)));
  };
  add("k", made.k, {e.head_dim}, e.head_dim);
  add("v", made.v, {wide}, wide);
  std::vector<std::int32_t> positions;
  index_t const most = std::max<index_t>(kept.most(), 1);
  for (index_t r = 0; r < e.rows(); ++r)
    for (index_t i = 0; i < kept.begins[static_cast<std::size_t>(r) + 1] -
                                kept.begins[static_cast<std::size_t>(r)];
         ++i)
      positions.push_back(made.positions[static_cast<std::size_t>(r * most + i)]);
  file.add("positions", rows({}), std::span<std::int32_t const>(positions));
  if (!made.bias.empty()) add("bias", made.bias, {}, 1);
  if (!made.out.empty()) {
    queries const& q = p.asked.given() ? p.asked : p.window;
    file.add("out", {b, q.heads, q.tokens, wide}, std::span<float const>(made.out));
    file.add("lse", {b, q.heads, q.tokens}, std::span<float const>(made.lse));
  }
  return file.bytes();
}

double rounded(double x) { return std::round(x * 1000.0) / 1000.0; }

json report(problem const& p, chosen const& c, methods const& all, selection const& s,
            stored const& made, double score_ms, double select_ms) {
  auto const& e = p.data.extent;
  index_t const held = p.held(), kept = std::ssize(s.kept.cells);
  auto const numbers = static_cast<double>(e.head_dim + e.value_width());
  double const exact = 2.0 * numbers * static_cast<double>(held);
  json out;
  out["method"] = all.resolved(c, p);
  out["shape"] = {e.sequences, e.kv_heads, e.tokens, e.head_dim};
  out["tokens"] = held;
  out["kept"] = kept;
  out["bytes"] = made.bytes;
  out["f16_bytes"] = exact;
  out["ratio"] = rounded(exact / static_cast<double>(made.bytes));
  out["bits_per_element"] = kept == 0 ? json(nullptr)
                                      : json(rounded(8.0 * static_cast<double>(made.bytes) /
                                                     (numbers * static_cast<double>(kept))));
  out["f16_bytes"] = static_cast<std::int64_t>(exact);
  out["ms"] = {{"score", rounded(score_ms)},
               {"select", rounded(select_ms)},
               {"encode", rounded(made.encode_ms)},
               {"decode", rounded(made.decode_ms)}};
  if (made.tokens_read) {
    out["tokens_read"] = *made.tokens_read;
    out["ms"]["pages"] = rounded(made.pages_ms);
  }
  if (!made.out.empty()) out["ms"]["attend"] = rounded(made.attend_ms);
  return out;
}

void write(std::string const& path, std::vector<std::uint8_t> const& bytes) {
  std::string const part = path + ".part";
  std::ofstream file(part, std::ios::binary);
  file.write(reinterpret_cast<char const*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
  file.close();
  std::error_code error;
  if (file) std::filesystem::rename(part, path, error);
  if (!file || error) {
    std::filesystem::remove(part, error);
    throw refusal("cannot write " + path);
  }
}

void run(arguments const& a) {
  if (a.in.empty()) throw refusal("name a safetensors file with k and v (--help says more)");
  methods all;
  auto p = read_problem(a.in);
  if (a.per_query_head) repeat_heads(p);
  chosen const c = all.choose(settings_of(a, p), p);
  ranked scores;
  double const score_ms = timed([&] {
    if (c.scorer == nullptr) return;
    scores = c.scorer->score(p);
    if (c.rescorer != nullptr)
      c.rescorer->rescore(p, *c.scorer, scores, c.other == nullptr ? ranked{} : c.other->score(p));
    if (c.shared) share(p, *c.shared, scores);
  });
  selection chosen_rows;
  double const select_ms = timed([&] { chosen_rows = select(p, c, scores); });
  stored const made = c.codec->store(chosen_rows.rows(p));
  auto const line = report(p, c, all, chosen_rows, made, score_ms, select_ms).dump();
  if (!a.out.empty()) write(a.out, output(p, scores, chosen_rows, made));
  std::printf("%s\n", line.c_str());
}

}  // namespace

int main(int argc, char** argv) try {
  arguments a;
  CLI::App app{"Compresses a cache that PyTorch saved, by any method."};
  app.add_option("in", a.in,
                 "safetensors file: k, v and, where needed, q, queries, positions, ...");
  app.add_option("--out", a.out, "safetensors file to write: scores, kept, k, v, out, lse, ...");
  app.add_option("--settings", a.settings, "the whole run as JSON, or @file");
  app.add_option("--preset", a.preset, "a pipeline by name");
  for (char const* stage :
       {"score", "rescore", "other", "select", "keep", "merge", "reposition", "quant", "index"}) {
    app.add_option("--" + std::string(stage), a.names[stage], "a method by name");
    app.add_option("--" + std::string(stage) + "-options", a.options[stage],
                   "its options as JSON, or @file");
  }
  app.add_option("--shared", a.options["shared"], "rows that keep one set, as JSON");
  app.add_option("--logit", a.options["logit"], "how q . k becomes a logit, as JSON");
  app.add_option("--budget", a.budget, "tokens per head, or 25%: --select's budget (top_k)");
  app.add_flag("--per-query-head", a.per_query_head,
               "repeat K and V: every query head keeps tokens of its own");
  app.add_flag("--list", a.list, "every method with its options, defaults and sources");
  try {
    app.parse(argc, argv);
  } catch (CLI::CallForHelp const& help) {
    return app.exit(help);
  } catch (CLI::ParseError const& e) {
    throw refusal(e.what());
  }
  if (a.list)
    std::fputs(methods().list().c_str(), stdout);
  else
    run(a);
  return 0;
} catch (std::bad_alloc const&) {
  std::fprintf(stderr, "kvslim_run: not enough memory\n");
  return 2;
} catch (std::exception const& e) {
  std::fprintf(stderr, "kvslim_run: %s\n", e.what());
  return 2;
}
