// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "problem.hpp"

#include "safetensors.hpp"

#include <algorithm>
#include <limits>
#include <utility>

namespace example {

namespace {

using shape = std::vector<std::int64_t>;

std::string text_of(shape const& s) { return tensor{{}, s, {}}.shape_text(); }

/// Refuses a tensor whose shape is none of these.
tensor const& shaped(safetensors const& file, std::string const& name,
                     std::initializer_list<shape> allowed) {
  tensor const& t = *file.find(name);
  if (std::find(allowed.begin(), allowed.end(), t.shape) == allowed.end()) {
    std::string list;
    for (shape const& s : allowed) list += (list.empty() ? "" : " or ") + text_of(s);
    throw refusal(name + " has the shape " + t.shape_text() + ", it must be " + list);
  }
  return t;
}

/// Integers that fit T.
template <class T>
std::vector<T> integers(safetensors const& file, std::string const& name) {
  std::vector<T> out;
  for (std::int64_t const x : file.integers(name)) {
    if (x < std::numeric_limits<T>::min() || x > std::numeric_limits<T>::max())
      throw refusal(name + " holds " + std::to_string(x) + ", which is out of range");
    out.push_back(static_cast<T>(x));
  }
  return out;
}

kvslim::extents read_extents(safetensors const& file) {
  for (char const* name : {"k", "v"})
    if (file.find(name) == nullptr)
      throw refusal(std::string("the file has no tensor ") + name + ": K and V must be k and v");
  tensor const &k = *file.find("k"), &v = *file.find("v");
  for (auto const& [name, t] : {std::pair{"k", &k}, std::pair{"v", &v}})
    if (t->shape.size() != 4)
      throw refusal(std::string(name) + " has the shape " + t->shape_text() +
                    ", it must be [B, KV heads, tokens, head_dim]");
  if (!std::equal(k.shape.begin(), k.shape.begin() + 3, v.shape.begin()))
    throw refusal("k and v have the shapes " + k.shape_text() + " and " + v.shape_text() +
                  ", which may differ in the last number only");
  if (k.count() == 0 || v.count() == 0)
    throw refusal("k has the shape " + k.shape_text() + ", which holds nothing");
  kvslim::extents const e{k.shape[0], k.shape[1], k.shape[2], k.shape[3], v.shape[3]};
  demand(kvslim::detail::check_extents(e));
  return e;
}

queries read_queries(safetensors const& file, std::string const& name, kvslim::extents const& e) {
  tensor const* const t = file.find(name);
  if (t == nullptr) return {};
  auto const& s = t->shape;
  if (s.size() != 4 || s[0] != e.sequences || s[1] < 1 || s[1] % e.kv_heads != 0 || s[2] < 1 ||
      s[3] != e.head_dim)
    throw refusal(name + " has the shape " + t->shape_text() + ", it must be [" +
                  std::to_string(e.sequences) + ", a multiple of " + std::to_string(e.kv_heads) +
                  ", queries, " + std::to_string(e.head_dim) + "]");
  return {file.floats(name), s[0], s[1], s[2], s[3]};
}

/// Rows of four: first query, queries, first token, tokens.
std::vector<kvslim::probe_stretch> read_stretches(safetensors const& file) {
  tensor const& t = *file.find("probe_stretches");
  if (t.shape.size() != 2 || t.shape[1] != 4)
    throw refusal("probe_stretches has the shape " + t.shape_text() +
                  ", it must be [stretches, 4]");
  std::vector<kvslim::probe_stretch> out;
  auto const x = file.integers("probe_stretches");
  for (std::size_t i = 0; i < x.size(); i += 4) out.push_back({x[i], x[i + 1], x[i + 2], x[i + 3]});
  return out;
}

/// A table [layers, heads, rows, width]; `rows` of 1 may be left out.
queries read_table(safetensors const& file, std::string const& name) {
  tensor const* const t = file.find(name);
  if (t == nullptr) return {};
  shape s = t->shape;
  if (s.size() == 3) s.insert(s.begin() + 2, 1);
  if (s.size() != 4 || t->count() == 0)
    throw refusal(name + " has the shape " + t->shape_text() +
                  ", it must be [layers, heads, rows, head_dim]");
  return {file.floats(name), s[0], s[1], s[2], s[3]};
}

/// States of every cell, [B, tokens, width].
queries read_hidden(safetensors const& file, kvslim::extents const& e) {
  tensor const& t = *file.find("hidden");
  auto const& s = t.shape;
  if (s.size() != 3 || s[0] != e.sequences || s[1] != e.tokens || s[2] < 1)
    throw refusal("hidden has the shape " + t.shape_text() + ", it must be [" +
                  std::to_string(e.sequences) + ", " + std::to_string(e.tokens) + ", width]");
  return {file.floats("hidden"), s[0], 1, s[1], s[2]};
}

}  // namespace

void demand(kvslim::status const& s) {
  if (s) return;
  std::string const message = s.message;
  throw refusal(message.substr(message.rfind("kvslim: ", 0) == 0 ? 8 : 0));
}

cache cells::view() const {
  auto x = kvslim::dense_cache(k.data(), v.data(), extent);
  index_t const all = extent.tokens, rows = extent.kv_heads * all;
  auto const strided = [&](auto const* data, bool per_head) {
    using T = std::remove_cvref_t<decltype(*data)>;
    return kvslim::per_token<T>(data, per_head ? rows : all, per_head ? all : 0);
  };
  if (!positions.empty()) x.positions = strided(positions.data(), positions_per_head);
  if (!valid.empty()) x.valid = strided(valid.data(), valid_per_head);
  if (!bias.empty()) x.bias = strided(bias.data(), bias_per_head);
  if (!lengths.empty())
    x.lengths = {lengths.data(), lengths_per_head ? extent.kv_heads : 1, lengths_per_head ? 1 : 0};
  return x;
}

kvslim::rows_view<float const> queries::newest(index_t n) const {
  index_t const first = tokens - n;
  return {values.data() + first * head_dim,
          sequences,
          heads,
          n,
          head_dim,
          {heads * tokens * head_dim, tokens * head_dim, head_dim, 1}};
}

index_t problem::held() const {
  auto const view = data.view();
  auto const& e = data.extent;
  index_t sum = 0;
  for (index_t r = 0; r < e.rows(); ++r)
    for (index_t t = 0; t < view.length(r / e.kv_heads, r % e.kv_heads); ++t)
      sum += view.state(r / e.kv_heads, r % e.kv_heads, t) != kvslim::token_state::padding ? 1 : 0;
  return sum;
}

index_t problem::longest() const {
  auto const view = data.view();
  auto const& e = data.extent;
  index_t most = 0;
  for (index_t r = 0; r < e.rows(); ++r) {
    index_t n = 0;
    for (index_t t = 0; t < view.length(r / e.kv_heads, r % e.kv_heads); ++t)
      n += view.state(r / e.kv_heads, r % e.kv_heads, t) != kvslim::token_state::padding ? 1 : 0;
    most = std::max(most, n);
  }
  return most;
}

problem read_problem(std::string const& path) {
  auto const file = safetensors::open(path);
  static std::initializer_list<char const*> const known{"k",
                                                        "v",
                                                        "q",
                                                        "queries",
                                                        "query_positions",
                                                        "raw_queries",
                                                        "probes",
                                                        "probe_keys",
                                                        "probe_stretches",
                                                        "query_filters",
                                                        "output_projection",
                                                        "hidden",
                                                        "gate_query",
                                                        "gate_query_bias",
                                                        "gate_query_gain",
                                                        "gate_key",
                                                        "gate_key_gain",
                                                        "gate_sinks",
                                                        "gate_offset",
                                                        "key_basis",
                                                        "value_basis",
                                                        "query_mean",
                                                        "query_covariance",
                                                        "positions",
                                                        "valid",
                                                        "lengths",
                                                        "bias",
                                                        "scores"};
  for (auto const& [name, t] : file.tensors())
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      std::string list;
      for (char const* one : known) list += (list.empty() ? "" : ", ") + std::string(one);
      throw refusal("the file has a tensor " + name + ", which is none of " + list);
    }
  problem p;
  cells& c = p.data;
  auto const e = c.extent = read_extents(file);
  index_t const b = e.sequences, h = e.kv_heads, t = e.tokens;
  c.k = file.floats("k");
  c.v = file.floats("v");
  auto const has = [&](char const* name) { return file.find(name) != nullptr; };
  auto const per_head = [&](char const* name) {
    return shaped(file, name, {{b, t}, {b, h, t}}).shape.size() == 3;
  };
  if (has("positions")) {
    c.positions_per_head = per_head("positions");
    c.positions = integers<std::int32_t>(file, "positions");
  }
  if (has("valid")) {
    c.valid_per_head = per_head("valid");
    c.valid = integers<std::uint8_t>(file, "valid");
  }
  if (has("bias")) {
    c.bias_per_head = per_head("bias");
    c.bias = file.floats("bias");
  }
  if (has("lengths")) {
    c.lengths_per_head = shaped(file, "lengths", {{b}, {b, h}}).shape.size() == 2;
    c.lengths = integers<std::int32_t>(file, "lengths");
  }
  if (has("scores")) {
    static_cast<void>(shaped(file, "scores", {{b, h, t}}));
    p.given = file.floats("scores");
  }
  p.window = read_queries(file, "q", e);
  p.asked = read_queries(file, "queries", e);
  p.raw = read_queries(file, "raw_queries", e);
  p.probes = read_queries(file, "probes", e);
  p.probe_keys = read_queries(file, "probe_keys", e);
  if (has("probe_stretches")) p.probe_stretches = read_stretches(file);
  p.filters = read_table(file, "query_filters");
  p.projection = read_table(file, "output_projection");
  if (has("hidden")) p.hidden = read_hidden(file, e);
  p.gate_query = read_table(file, "gate_query");
  p.gate_query_bias = read_table(file, "gate_query_bias");
  p.gate_query_gain = read_table(file, "gate_query_gain");
  p.gate_key = read_table(file, "gate_key");
  p.gate_key_gain = read_table(file, "gate_key_gain");
  p.gate_sinks = read_table(file, "gate_sinks");
  p.gate_offset = read_table(file, "gate_offset");
  p.key_basis = read_table(file, "key_basis");
  p.value_basis = read_table(file, "value_basis");
  p.mean = read_table(file, "query_mean");
  p.covariance = read_table(file, "query_covariance");
  if (has("query_positions")) {
    index_t const n = p.asked.given() ? p.asked.tokens : p.window.tokens;
    static_cast<void>(shaped(file, "query_positions", {{b, n}}));
    p.asked_positions = integers<std::int32_t>(file, "query_positions");
  }
  demand(kvslim::detail::check_cache(c.view()));
  return p;
}

void repeat_heads(problem& p) {
  queries const& asking = p.window.given() ? p.window : p.asked;
  if (!asking.given())
    throw refusal("--per-query-head needs q or queries, which say how many query heads there are");
  cells& c = p.data;
  auto& e = c.extent;
  index_t const group = asking.heads / e.kv_heads;
  for (queries const* other : {&p.asked, &p.raw, &p.probes})
    if (other->given() && other->heads != asking.heads)
      throw refusal("--per-query-head needs as many heads in all tensors of queries");
  auto const repeat = [&](auto& rows) {  // [sequence, kv_head, ...]
    auto const from = std::exchange(rows, {});
    auto const each = std::ssize(from) / e.rows();
    for (index_t r = 0; r < e.rows() && each > 0; ++r)
      for (index_t g = 0; g < group; ++g)
        rows.insert(rows.end(), from.begin() + r * each, from.begin() + (r + 1) * each);
  };
  repeat(c.k);
  repeat(c.v);
  repeat(p.given);
  if (c.positions_per_head) repeat(c.positions);
  if (c.valid_per_head) repeat(c.valid);
  if (c.bias_per_head) repeat(c.bias);
  if (c.lengths_per_head) repeat(c.lengths);
  if (p.probe_keys.given() && p.probe_keys.heads == e.kv_heads) {
    repeat(p.probe_keys.values);
    p.probe_keys.heads *= group;
  }
  e.kv_heads *= group;
}

index_t kept_cells::most() const {
  index_t most = 0;
  for (std::size_t r = 0; r + 1 < begins.size(); ++r)
    most = std::max<index_t>(most, begins[r + 1] - begins[r]);
  return most;
}

kept_cells all_of(cells const& rows) {
  kept_cells all{{0}, {}};
  for (std::int32_t const n : rows.lengths) {
    for (std::int32_t i = 0; i < n; ++i) all.cells.push_back(i);
    all.begins.push_back(std::ssize(all.cells));
  }
  return all;
}

kvslim::keep_set kept_cells::set() {
  cells.reserve(1);  // a set of nothing has memory too
  return {.begins = begins.data(), .cells = cells.data()};
}

}  // namespace example
