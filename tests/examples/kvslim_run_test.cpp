// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// kvslim_run as its users call it: a file in, a file and a line out.

#include "kvslim_run/safetensors.hpp"
#include "reference/adakv.hpp"
#include "reference/h2o.hpp"
#include "reference/keydiff.hpp"
#include "reference/lagkv.hpp"
#include "reference/pyramidkv.hpp"
#include "reference/tova.hpp"
#include "support/catch.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <kvslim/presets.hpp>

#include <nlohmann/json.hpp>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>

using namespace kvslim;
using example::safetensors;
using example::safetensors_writer;
using nlohmann::json;

namespace {

using axes = std::vector<std::int64_t>;

std::string text_of(std::filesystem::path const& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// A folder of its own for each test case, with the files of a run.
class folder {
 public:
  folder()
      : path_(std::filesystem::temp_directory_path() /
              ("kvslim_run." + std::to_string(::getpid()))) {
    std::filesystem::create_directories(path_);
  }
  folder(folder const&) = delete;
  folder& operator=(folder const&) = delete;
  ~folder() { std::filesystem::remove_all(path_); }

  void write(std::vector<std::uint8_t> const& bytes) const {
    std::ofstream(in(), std::ios::binary)
        .write(reinterpret_cast<char const*>(bytes.data()), std::ssize(bytes));
  }
  void write(safetensors_writer const& file) const { write(file.bytes()); }
  /// Runs kvslim_run over the file that was written; the exit code.
  int run(std::string const& words) {
    std::filesystem::remove(out());
    std::string const command = std::string("'") + KVSLIM_RUN + "' '" + in() + "' --out '" + out() +
                                "' " + words + " >'" + file("line") + "' 2>'" + file("err") + "'";
    int const status = std::system(command.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  [[nodiscard]] std::string in() const { return file("in.safetensors"); }
  [[nodiscard]] std::string out() const { return file("out.safetensors"); }
  [[nodiscard]] std::string line() const { return text_of(file("line")); }
  [[nodiscard]] std::string error() const { return text_of(file("err")); }

 private:
  [[nodiscard]] std::string file(char const* name) const { return (path_ / name).string(); }
  std::filesystem::path path_;
};

/// What a run wrote, with ragged rows in one form.
struct result {
  safetensors file;
  json line;
  std::vector<std::int64_t> begins;

  explicit result(folder const& at, index_t rows)
      : file(safetensors::open(at.out())), line(json::parse(at.line())) {
    if (file.find("kept_begins") != nullptr) {
      begins = file.integers("kept_begins");
    } else {
      auto const count = file.find("kept")->count() / rows;
      for (index_t r = 0; r <= rows; ++r) begins.push_back(r * count);
    }
  }
  /// Entries of a row in a tensor of `width` numbers a token.
  template <class T>
  [[nodiscard]] std::vector<T> row(std::vector<T> const& all, index_t r, index_t width = 1) const {
    auto const at = static_cast<std::size_t>(r);
    return {all.begin() + begins[at] * width, all.begin() + begins[at + 1] * width};
  }
};

/// A cache as a file: its tokens in their order, or in cells of any order with padding between and
/// sequences of different lengths.
struct scene {
  data::cache c;
  std::vector<index_t> lengths;
  bool mixed;
  data::shuffled cells;

  scene(data::shape s, bool mix, unsigned seed)
      : c(s, seed), mixed(mix), cells(c, mix ? 13 : 0, lengths_of(s, mix), seed) {
    lengths = lengths_of(s, mix);
  }
  static std::vector<index_t> lengths_of(data::shape const& s, bool mix) {
    std::vector<index_t> all(static_cast<std::size_t>(s.sequences), s.tokens);
    if (mix) all.back() = s.tokens * 2 / 3;
    return all;
  }
  [[nodiscard]] axes rows(index_t tokens, index_t dim) const {
    return {c.shape.sequences, c.shape.kv_heads, tokens, dim};
  }
  /// The file, with all 64 queries or the first `queries` of each head.
  [[nodiscard]] safetensors_writer file() const {
    safetensors_writer w;
    index_t const d = c.shape.head_dim;
    w.add("q", {c.shape.sequences, c.shape.q_heads(), c.window, d}, std::span<float const>(c.q));
    if (!mixed) {
      w.add("k", rows(c.shape.tokens, d), std::span<float const>(c.k));
      w.add("v", rows(c.shape.tokens, d), std::span<float const>(c.v));
      return w;
    }
    index_t const all = cells.extent.tokens;
    w.add("k", rows(all, d), std::span<float const>(cells.k));
    w.add("v", rows(all, d), std::span<float const>(cells.v));
    w.add("positions", {c.shape.sequences, all}, std::span<std::int32_t const>(cells.positions));
    std::vector<std::int32_t> const valid(cells.valid.begin(), cells.valid.end());
    w.add("valid", {c.shape.sequences, all}, std::span<std::int32_t const>(valid));
    return w;
  }
  [[nodiscard]] index_t length(index_t row) const {
    return lengths[static_cast<std::size_t>(row / c.shape.kv_heads)];
  }
  [[nodiscard]] reference::matrix keys(index_t r) const {
    return oracle::keys(c, r / c.shape.kv_heads, r % c.shape.kv_heads, length(r));
  }
  [[nodiscard]] reference::matrix values(index_t r) const {
    return oracle::values(c, r / c.shape.kv_heads, r % c.shape.kv_heads, length(r));
  }
  /// The newest n of the file's queries, for the heads of one row.
  [[nodiscard]] std::vector<reference::matrix> queries(index_t r, index_t n) const {
    auto heads = oracle::window(c, r / c.shape.kv_heads, r % c.shape.kv_heads, c.window);
    for (auto& head : heads) head.erase(head.begin(), head.end() - n);
    return heads;
  }
  [[nodiscard]] std::size_t cell_index(index_t r, index_t cell) const {
    index_t const all = mixed ? cells.extent.tokens : c.shape.tokens;
    return static_cast<std::size_t>(r / c.shape.kv_heads * all + cell);
  }
  /// Position of a cell; -1 for padding.
  [[nodiscard]] index_t position(index_t r, index_t cell) const {
    if (!mixed) return cell;
    return cells.valid[cell_index(r, cell)] == 0 ? -1 : cells.positions[cell_index(r, cell)];
  }
};

using score_of_row = std::function<std::vector<double>(scene const&, index_t row)>;

/// Scores by cell are the reference's by position, and kept cells are the best.
void check_sets(scene const& at, result const& x, score_of_row const& score, index_t budget,
                index_t recent) {
  auto const scores = x.file.floats("scores");
  auto const kept = x.file.integers("kept"), positions = x.file.integers("positions");
  index_t const rows = at.c.shape.rows(), all = std::ssize(scores) / rows;
  for (index_t r = 0; r < rows; ++r) {
    auto expected = score(at, r);
    double norm = 0;
    for (double s : expected) norm = std::max(norm, std::abs(s));
    for (index_t cell = 0; cell < all; ++cell) {
      float const mine = scores[static_cast<std::size_t>(r * all + cell)];
      index_t const p = at.position(r, cell);
      if (p < 0)
        REQUIRE(mine == -std::numeric_limits<float>::infinity());
      else if (p < std::ssize(expected))
        REQUIRE(std::abs(static_cast<double>(mine) - expected[static_cast<std::size_t>(p)]) <=
                tolerance::accumulated * norm);
    }
    expected.resize(static_cast<std::size_t>(at.length(r)));  // a window behind the scores
    auto const best = reference::keep(expected, budget, 0, recent);
    auto const mine = x.row(positions, r);
    REQUIRE(std::vector<std::int64_t>(mine.begin(), mine.end()) == best);
    std::size_t i = 0;
    for (auto const cell : x.row(kept, r)) REQUIRE(at.position(r, cell) == best[i++]);
  }
}

/// `out` and `lse` are attention in double over the rows that were written, each query seeing what
/// is not newer than itself.
void check_attention(scene const& at, result const& x, index_t value_dim) {
  auto const k = x.file.floats("k"), v = x.file.floats("v");
  auto const out = x.file.floats("out"), lse = x.file.floats("lse");
  auto const positions = x.file.integers("positions");
  auto const& s = at.c.shape;
  index_t const n = at.c.window, d = s.head_dim;
  for (index_t r = 0; r < s.rows(); ++r) {
    auto const mine = x.row(positions, r);
    auto const rows_k = x.row(k, r, d), rows_v = x.row(v, r, value_dim);
    auto const queries = at.queries(r, n);
    for (index_t g = 0; g < s.group; ++g)
      for (index_t t = 0; t < n; t += 21) {
        reference::matrix keys, values;
        for (std::size_t i = 0; i < mine.size(); ++i) {
          if (mine[i] > at.length(r) - n + t) continue;
          auto const key = rows_k.begin() + static_cast<std::ptrdiff_t>(i) * d;
          auto const value = rows_v.begin() + static_cast<std::ptrdiff_t>(i) * value_dim;
          keys.emplace_back(key, key + d);
          values.emplace_back(value, value + value_dim);
        }
        index_t const head = (r / s.kv_heads * s.q_heads() + r % s.kv_heads * s.group + g) * n + t;
        float const log_sum = lse[static_cast<std::size_t>(head)];
        if (keys.empty()) {
          REQUIRE(log_sum == -std::numeric_limits<float>::infinity());
          continue;
        }
        auto const expected = reference::attention(
            queries[static_cast<std::size_t>(g)][static_cast<std::size_t>(t)], keys, values);
        double error = 0, norm = 0;
        for (index_t i = 0; i < value_dim; ++i) {
          double const e = expected.out[static_cast<std::size_t>(i)];
          double const o = static_cast<double>(out[static_cast<std::size_t>(head * value_dim + i)]);
          error += (o - e) * (o - e);
          norm += e * e;
        }
        REQUIRE(std::sqrt(error) <= tolerance::attend * std::sqrt(norm));
        REQUIRE(std::abs(static_cast<double>(log_sum) - expected.lse) <=
                tolerance::attend * std::max(1.0, std::abs(expected.lse)));
      }
  }
}

std::vector<double> norms(scene const& at, index_t r) {
  std::vector<double> score;
  for (auto const& key : at.keys(r)) score.push_back(-std::sqrt(reference::dot(key, key)));
  return score;
}

}  // namespace

TEST_CASE("kvslim_run keeps what the references keep, whatever the heads and cells",
          "[kvslim_run]") {
  struct method {
    char const* words;
    index_t recent;
    score_of_row score;
  };
  std::vector<method> const methods{
      {"--score knorm", 0, norms},
      {"--score keydiff", 0, [](auto& at, index_t r) { return reference::keydiff(at.keys(r)); }},
      {"--score lagkv --score-options '{\"sinks\": 2, \"lag\": 16}'", 0,
       [](auto& at, index_t r) {
         return reference::lagkv(at.keys(r), at.values(r), 2, 16, 1.0, true);
       }},
      {"--score snapkv --score-options '{\"window\": 8, \"pool\": 3}'", 8,
       [](auto& at, index_t r) {
         return reference::snapkv(at.queries(r, 8), at.keys(r), 3, false, reference::reduce::mean);
       }},
      {"--score snapkv --score-options '{\"window\": 8, \"pool\": 7, \"kind\": \"maximum\", "
       "\"heads\": \"maximum\"}'",
       8,
       [](auto& at, index_t r) {
         return reference::snapkv(at.queries(r, 8), at.keys(r), 7, true,
                                  reference::reduce::maximum);
       }},
      {"--score tova --shared '{}'", 0,
       [](auto& at, index_t r) {
         index_t const heads = at.c.shape.kv_heads, first = r / heads * heads;
         reference::matrix q;
         std::vector<reference::matrix> k;
         for (index_t h = first; h < first + heads; ++h) {
           for (auto const& head : at.queries(h, 1)) q.push_back(head[0]);
           k.push_back(at.keys(h));
         }
         return reference::tova(q, k);
       }},
  };
  folder at;
  unsigned seed = 1;
  for (index_t group : {1, 4, 8})
    for (index_t head_dim : {64, 80, 128})
      for (bool mixed : {false, true}) {
        scene const s(
            {.sequences = 2, .kv_heads = 2, .group = group, .tokens = 120, .head_dim = head_dim},
            mixed, seed++);
        at.write(s.file());
        for (auto const& m : methods) {
          INFO(m.words << ", group " << group << ", head_dim " << head_dim << ", mixed " << mixed);
          int const code = at.run(std::string(m.words) + " --budget 40 --quant dense_f32");
          INFO(at.error());
          REQUIRE(code == 0);
          result const x(at, s.c.shape.rows());
          check_sets(s, x, m.score, 40, m.recent);
          check_attention(s, x, head_dim);
          CHECK(x.line["kept"] == 4 * 40);
        }
      }
}

TEST_CASE("kvslim_run repeats heads, and every query head keeps its own", "[kvslim_run]") {
  folder at;
  for (bool mixed : {false, true}) {
    scene const s({.sequences = 2, .kv_heads = 2, .group = 3, .tokens = 90, .head_dim = 64}, mixed,
                  80);
    at.write(s.file());
    REQUIRE(
        at.run("--per-query-head --score snapkv --score-options '{\"window\": 8}' --budget 30") ==
        0);
    result const x(at, 12);
    CHECK(x.line["shape"][1] == 6);
    auto const positions = x.file.integers("positions");
    for (index_t head = 0; head < 12; ++head) {
      auto score = reference::snapkv({s.queries(head / 3, 8)[static_cast<std::size_t>(head % 3)]},
                                     s.keys(head / 3), 5, false, reference::reduce::mean);
      score.resize(static_cast<std::size_t>(s.length(head / 3)));
      auto const mine = x.row(positions, head);
      CHECK(std::vector<std::int64_t>(mine.begin(), mine.end()) ==
            reference::keep(score, 30, 0, 8));
    }
  }
}

TEST_CASE("kvslim_run's H2O reads the whole prompt", "[kvslim_run]") {
  folder at;
  for (index_t group : {1, 4, 8}) {
    scene const s({.sequences = 1, .kv_heads = 2, .group = group, .tokens = 64, .head_dim = 80},
                  false, 40 + static_cast<unsigned>(group));
    at.write(s.file());
    REQUIRE(at.run("--score h2o --select top_k --select-options "
                   "'{\"budget\": \"50%\", \"recent\": 16}' --quant dense_f32") == 0);
    result const x(at, 2);
    check_sets(
        s, x,
        [](scene const& of, index_t r) {
          return reference::h2o_prompt(of.queries(r, 64), of.keys(r), reference::reduce::mean);
        },
        32, 16);
  }
}

TEST_CASE("kvslim_run shares budgets as the references do", "[kvslim_run]") {
  folder at;
  for (bool mixed : {false, true}) {
    scene const s({.sequences = 3, .kv_heads = 4, .group = 4, .tokens = 120, .head_dim = 64}, mixed,
                  mixed ? 51 : 52);
    at.write(s.file());
    REQUIRE(at.run("--score snapkv --score-options '{\"window\": 8, \"pool\": 7, \"kind\": "
                   "\"maximum\", \"reduce_first\": true}' --select adakv --budget 30 "
                   "--quant dense_f32") == 0);
    result const x(at, 12);
    auto const positions = x.file.integers("positions");
    for (index_t layer = 0; layer < 3; ++layer) {
      std::vector<std::vector<double>> score;
      for (index_t h = 0; h < 4; ++h)
        score.push_back(reference::window_score(s.queries(layer * 4 + h, 8), s.keys(layer * 4 + h),
                                                7, true, reference::reduce::mean));
      auto const budgets =
          reference::adakv_interpolated(reference::adakv_winners(score, 22), 22, 0.2, true);
      auto const kept = reference::adakv_keep(score, budgets, 8);
      for (index_t h = 0; h < 4; ++h)
        CHECK(x.row(positions, layer * 4 + h) == kept[static_cast<std::size_t>(h)]);
    }
    if (mixed) continue;  // layers of one prompt are equally long
    REQUIRE(at.run("--score snapkv --score-options '{\"window\": 8}' --select pyramidkv "
                   "--select-options '{\"layers\": \"all\"}' --budget 30") == 0);
    result const y(at, 12);
    auto const budgets = reference::pyramidkv_budgets(3, 30, 8, 20, 120, true);
    for (index_t r = 0; r < 12; ++r)
      CHECK(y.begins[static_cast<std::size_t>(r) + 1] - y.begins[static_cast<std::size_t>(r)] ==
            budgets[static_cast<std::size_t>(r / 4)]);
  }
}

namespace {

/// A run by names equals compress() with the pipeline in one type: kept cells, bytes and values.
template <class Policy>
void check_as_compressed(scene const& s, folder& at, std::string const& words, Policy const& policy,
                         index_t window, rows_view<float const> projection = {}) {
  INFO(words);
  int const code = at.run(words);
  INFO(at.error());
  REQUIRE(code == 0);
  result const x(at, s.c.shape.rows());
  auto const& shape = s.c.shape;
  index_t const d = shape.head_dim, all = s.c.window;
  rows_view<float const> const newest{
      s.c.q.data() + (all - window) * d,         shape.sequences, shape.q_heads(), window, d,
      {shape.q_heads() * all * d, all * d, d, 1}};
  data::compressed const whole(policy, s.cells.view(),
                               evidence{window_queries{newest}, output_projection{projection}});
  REQUIRE(whole.result.ok());
  CHECK(x.line["bytes"].get<std::size_t>() == whole.packed.bytes());
  auto const k = x.file.floats("k"), v = x.file.floats("v");
  auto const positions = x.file.integers("positions");
  for (index_t r = 0; r < shape.rows(); ++r) {
    index_t const seq = r / shape.kv_heads, h = r % shape.kv_heads;
    REQUIRE(x.row(positions, r) == whole.kept(seq, h));
    auto const rows_k = x.row(k, r, d), rows_v = x.row(v, r, d);
    // A merger's sums are made by a program with other flags, which may fuse them.
    bool const exact = !decltype(whole.plan)::has_merger;
    bool same = true;
    auto const compare = [&](float mine, float expected) {
      same = same && (exact ? mine == expected
                            : std::abs(mine - expected) <=
                                  tolerance::f16_storage * std::max(1.0f, std::abs(expected)));
    };
    for (index_t i = 0; i < whole.packed.slots(seq, h); ++i)
      for (index_t c = 0; c < d; ++c) {
        compare(rows_k[static_cast<std::size_t>(i * d + c)], whole.packed.key(r, i, c));
        compare(rows_v[static_cast<std::size_t>(i * d + c)], whole.packed.value(r, i, c));
      }
    CHECK(same);
  }
}

}  // namespace

TEST_CASE("kvslim_run stores what the pipeline in one type stores", "[kvslim_run]") {
  folder at;
  scene const s({.sequences = 2, .kv_heads = 2, .group = 4, .tokens = 150, .head_dim = 64}, true,
                61);
  data::cache const weights({.sequences = 1, .kv_heads = 8, .tokens = 64, .head_dim = 24}, 62);
  auto file = s.file();
  file.add("output_projection", {1, 8, 64, 24}, std::span<float const>(weights.k));
  at.write(file);
  std::string const snap = "--score snapkv --score-options '{\"window\": 16}' ";
  snapkv const window{{.window = 16}};
  check_as_compressed(s, at, snap + "--budget 50 --quant int_per_token8",
                      pipeline{window, top_k{{.budget = 50}}, int_per_token<8>{}}, 16);
  check_as_compressed(
      s, at, snap + "--select adakv --budget 40 --quant kivi4 --quant-options '{\"residual\": 32}'",
      pipeline{window, adakv{{.budget = 40, .kv_heads = 2}}, kivi<4>{{.residual = 32}}}, 16);
  check_as_compressed(s, at,
                      snap +
                          "--rescore blend --rescore-options '{\"standard\": true}' "
                          "--other knorm --budget 44 --quant int_per_token8",
                      pipeline{blend{window, knorm{}, {.standard = true}}, top_k{{.budget = 44}},
                               int_per_token<8>{}},
                      16);
  check_as_compressed(
      s, at,
      "--score keydiff --rescore chunked --rescore-options '{\"size\": 40}' --budget 44 "
      "--quant int_per_token8",
      pipeline{chunked{keydiff{}, {.size = 40}}, top_k{{.budget = 44}}, int_per_token<8>{}}, 16);
  check_as_compressed(
      s, at,
      snap +
          "--budget 40 --keep kvcrush --merge kvmerger --merge-options '{\"threshold\": 0.5, "
          "\"sigma\": 20}'",
      pipeline{window, top_k{{.budget = 40}}, kvcrush{},
               kvmerger{{.threshold = 0.5f, .sigma = 20.0f}}, dense<f16>{}},
      16);
  check_as_compressed(
      s, at,
      snap +
          "--merge kvmerger --merge-options '{\"threshold\": 0.5, \"sigma\": 20, \"recent\": 9, "
          "\"mass_bias\": true}' --quant dense_f16",
      pipeline{window,
               kvmerger{{.threshold = 0.5f, .sigma = 20.0f, .recent = 9, .mass_bias = true}},
               dense<f16>{}},
      16);
  check_as_compressed(
      s, at, "--score streaming_llm --budget 30 --reposition rerotate --quant int_per_token4",
      pipeline{streaming_llm{}, top_k{{.budget = 30}}, rerotate{}, int_per_token<4>{}}, 16);
}

TEST_CASE("kvslim_run reads the pages that Quest reads", "[kvslim_run]") {
  folder at;
  scene const s({.sequences = 2, .kv_heads = 2, .group = 4, .tokens = 150, .head_dim = 80}, true,
                66);
  at.write(s.file());
  REQUIRE(at.run("--score knorm --budget 100 --quant int_per_token8 --index quest --index-options "
                 "'{\"budget\": 24, \"page\": 8}'") == 0);
  result const x(at, 4);
  auto const plan = make_plan(pipeline{knorm{}, top_k{{.budget = 100}}, int_per_token<8>{},
                                       quest<>{{.budget = 24, .page = 8}}},
                              s.cells.view().extents());
  data::buffer storage(plan.packed_bytes()), scratch(plan.workspace_bytes()),
      update(update_index_bytes(plan)), choose(select_pages_bytes(plan, 8, 64)),
      attend_scratch(attend_bytes(plan.layout(), 8, 64));
  packed_cache packed(plan, storage);
  REQUIRE(compress(cpu{}, plan, s.cells.view(), evidence<>{}, packed, scratch).ok());
  REQUIRE(update_index(cpu{}, plan, packed, update).ok());
  std::vector<std::int32_t> begin_end(static_cast<std::size_t>(8 * most_spans(plan))), counts(4);
  page_spans const spans{begin_end.data(), counts.data(), most_spans(plan)};
  std::vector<float> out(2 * 8 * 64 * 80), lse(2 * 8 * 64);
  attend_request<> request{
      .q = s.c.queries(64), .out = dense_rows(out.data(), {2, 8, 64, 80}), .lse = lse.data()};
  REQUIRE(select_pages(cpu{}, plan, packed, request, spans, choose).ok());
  request.visible = spans;
  REQUIRE(attend(cpu{}, packed, request, attend_scratch).ok());
  CHECK(x.line["bytes"].get<std::size_t>() == packed.bytes());
  CHECK(x.line["tokens_read"] == 4 * (2 * 8 + 4));  // two pages and the newest, which has four
  auto const mine = x.file.floats("out");
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < out.size(); ++i) {
    error += std::pow(static_cast<double>(mine[i]) - static_cast<double>(out[i]), 2);
    norm += std::pow(static_cast<double>(out[i]), 2);
  }
  CHECK(std::sqrt(error) <= tolerance::attend * std::sqrt(norm));
}

TEST_CASE("kvslim_run takes rows without tokens", "[kvslim_run]") {
  folder at;
  scene const s({.sequences = 2, .kv_heads = 2, .group = 2, .tokens = 70, .head_dim = 64}, false,
                68);
  for (std::int32_t first : {0, 70}) {
    auto file = s.file();
    std::vector<std::int32_t> const lengths{first, 0};
    file.add("lengths", {2}, std::span<std::int32_t const>(lengths));
    at.write(file);
    for (char const* words :
         {"--quant kivi4", "--score knorm --budget 9",
          "--score knorm --budget 9 --merge kvmerger --reposition rerotate --index quest"}) {
      int const code = at.run(words);
      INFO(words << ", first row " << first << ": " << at.error());
      REQUIRE(code == 0);
      result const x(at, 4);
      CHECK(x.line["tokens"] == 2 * first);
      CHECK(x.begins[2] == x.line["kept"]);
      auto const lse = x.file.floats("lse");
      for (std::size_t i = lse.size() / 2; i < lse.size(); ++i)
        REQUIRE(lse[i] == -std::numeric_limits<float>::infinity());
    }
  }
}

TEST_CASE("kvslim_run refuses in one sentence and writes nothing", "[kvslim_run]") {
  folder at;
  scene const s({.sequences = 1, .kv_heads = 2, .group = 2, .tokens = 80, .head_dim = 64}, false,
                71);
  auto const refused = [&](std::string const& words, std::string const& part) {
    int const code = at.run(words);
    INFO(words << ": " << at.error());
    CHECK(code == 2);
    std::string const error = at.error();
    CHECK(error.rfind("kvslim_run: ", 0) == 0);
    CHECK(error.find(part) != std::string::npos);
    CHECK(std::count(error.begin(), error.end(), '\n') == 1);
    CHECK_FALSE(std::filesystem::exists(at.out()));
    CHECK(at.line().empty());
  };
  at.write(s.file());
  refused("--score snapk", "there is no method snapk for \"score\": there are streaming_llm");
  refused("--quant kivi", "there is no method kivi for \"quant\"");
  refused("--preset SnapKV", "there is no preset SnapKV");
  refused("--bugdet 3", "--bugdet");
  refused("--score", "--score");
  refused("--score snapkv --score-options '{\"windw\": 3}'", "snapkv has no option windw: it has");
  refused("--score snapkv --score-options '{\"window\": 65}'", "window is 65, but q has 64");
  refused("--score snapkv --score-options '{\"window\": 0}'", "snapkv needs a window");
  refused("--score snapkv --score-options '{\"window\": 3.5}'", "must be a whole number");
  refused("--score snapkv --score-options '{\"window\": 9223372036854775808}'", "out of range");
  refused("--score snapkv --score-options '{\"pool\": \"5\"}'", "must be a whole number");
  refused("--score snapkv --score-options '{\"kind\": \"median\"}'",
          "must be one of average, maximum");
  refused("--score snapkv --score-options '{\"reduce_first\": 1}'", "must be true or false");
  refused("--score lagkv --score-options '{\"value_weight\": 1e300}'", "out of range");
  refused("--score lagkv --score-options '{\"value_weight\": \"1\"}'", "must be a number");
  refused("--score snapkv --score-options '[1]'", "--score-options must be an object");
  refused("--score snapkv --score-options '{'", "--score-options is not JSON");
  refused("--score-options '{}'", "--score-options needs --score");
  refused("--settings '[]'", "--settings must be an object");
  refused("--settings '{\"scorer\": \"knorm\"}'", "there is no stage scorer: there are score");
  refused("--settings '{\"score\": 3}'", "\"score\" must be a name, or an object");
  refused("--settings '{\"score\": {\"name\": \"knorm\", \"window\": 3}}'",
          "\"score\" has a member window");
  refused("--settings '{\"score\": {\"name\": \"knorm\", \"options\": 3}}'",
          "the options of knorm must be an object");
  refused("--settings @/nowhere/at.all", "cannot open /nowhere/at.all");
  refused("--budget 3", "a quota needs scores");
  refused("--merge kvmerger", "a merger needs scores");
  refused("--keep kvcrush", "a keep rule needs a quota");
  refused("--shared '{}'", "\"shared\" needs scores");
  refused("--score knorm --shared '{\"heads\": 2}'", "shared has no option heads");
  refused("--score knorm --shared 3", "--shared must be an object");
  refused("--score knorm --budget 0", "top_k needs a budget");
  refused("--score knorm --budget lots", "must be a whole number or \"25%\"");
  refused("--score knorm --budget 120%", "must be a whole number or \"25%\"");
  refused("--score knorm --select cake --budget 9", "cake reads statistics of rows that knorm");
  refused("--score knorm --select adakv --budget 9 --select-options '{\"kv_heads\": 3}'", "group");
  refused("--score knorm --select head_table --select-options '{\"counts\": [3], \"most\": 4}'",
          "head_table's counts has 1 entries, it needs layers * kv_heads");
  refused("--score knorm --select head_table --select-options '{\"counts\": [3, \"4\"]}'",
          "must be a whole number");
  refused("--score knorm --select head_classes --select-options '{\"retrieval\": [1, 300]}'",
          "out of range");
  refused("--score given_scores", "given_scores reads scores");
  refused("--score qfilters", "qfilters reads query_filters");
  refused("--score knorm --rescore blend", "blend needs a second scorer");
  refused("--score knorm --other keydiff", "\"other\" is the second scorer of blend");
  refused("--rescore criticalkv", "criticalkv needs scores");
  refused("--score knorm --rescore criticalkv", "criticalkv reads output_projection");
  refused("--score kvzip", "kvzip reads probes");
  refused("--score snapkv --rescore chunked", "chunked cannot ask snapkv");
  refused("--score knorm --rescore chunked --rescore-options '{\"size\": 0}'",
          "chunked needs a size");
  refused("--score fastkvzip", "fastkvzip reads hidden");
  refused("--score expected_attention", "expected_attention reads raw_queries");
  refused("--score expected_attention_stored", "reads query");
  refused("--quant kivi4 --quant-options '{\"group\": 33}'", "group");
  refused("--index quest --index-options '{\"page\": 0}'", "quest's page");
  refused("--out /nowhere/at.all", "--out");  // given twice

  auto const with = [&](auto const& change) {
    safetensors_writer w;
    index_t const d = s.c.shape.head_dim;
    std::vector<float> x(2 * 80 * 64, 1.0f);
    change(w, x, d);
    at.write(w);
  };
  using span = std::span<float const>;
  with([](auto&, auto&, index_t) {});
  refused("", "the file has no tensor k");
  with([](auto& w, auto& x, index_t d) { w.add("k", {1, 2, 80, d}, span(x)); });
  refused("", "the file has no tensor v");
  with([](auto& w, auto& x, index_t d) {
    w.add("k", {2, 80, d}, span(x));
    w.add("v", {2, 80, d}, span(x));
  });
  refused("", "k has the shape [2, 80, 64], it must be [B, KV heads, tokens, head_dim]");
  with([](auto& w, auto& x, index_t d) {
    w.add("k", {1, 2, 80, d}, span(x));
    w.add("v", {2, 1, 80, d}, span(x));
  });
  refused("", "k and v have the shapes [1, 2, 80, 64] and [2, 1, 80, 64]");
  with([](auto& w, auto&, index_t d) {
    w.add("k", {1, 2, 0, d}, span());
    w.add("v", {1, 2, 0, d}, span());
  });
  refused("", "which holds nothing");
  auto const both = [&](auto const& more) {
    with([&](auto& w, auto& x, index_t d) {
      w.add("k", {1, 2, 80, d}, span(x));
      w.add("v", {1, 2, 80, d}, span(x));
      more(w, x);
    });
  };
  std::vector<std::int32_t> const ones(160, 1);
  using integers = std::span<std::int32_t const>;
  both([&](auto& w, auto&) { w.add("postions", {1, 80}, integers(ones).first(80)); });
  refused("", "the file has a tensor postions, which is none of k, v, q");
  both([&](auto& w, auto&) { w.add("positions", {2, 80}, integers(ones)); });
  refused("", "positions has the shape [2, 80], it must be [1, 80] or [1, 2, 80]");
  both([&](auto& w, auto& x) { w.add("positions", {1, 80}, span(x).first(80)); });
  refused("", "positions is F32, it must be I64");
  both([&](auto& w, auto&) { w.add("lengths", {2}, integers(ones).first(2)); });
  refused("", "lengths has the shape [2], it must be [1] or [1, 2]");
  both([&](auto& w, auto&) {
    std::vector<std::int32_t> const long_one{81};
    w.add("lengths", {1}, integers(long_one));
  });
  refused("", "a sequence length is negative or above");
  both([&](auto& w, auto&) {
    std::vector<std::int64_t> const far(80, std::int64_t{1} << 40);
    w.add("positions", {1, 80}, std::span<std::int64_t const>(far));
  });
  refused("", "positions holds 1099511627776, which is out of range");
  both([&](auto& w, auto&) {
    std::vector<std::int32_t> const odd(80, 3);
    w.add("valid", {1, 80}, integers(odd));
  });
  refused("", "valid must be 0");
  both([&](auto& w, auto& x) { w.add("q", {1, 3, 20, 64}, span(x).first(3 * 20 * 64)); });
  refused("", "q has the shape [1, 3, 20, 64], it must be [1, a multiple of 2, queries, 64]");
  both([&](auto& w, auto&) { w.add("scores", {1, 2, 80}, integers(ones)); });
  refused("", "scores is I32, it must be F32");
  both([&](auto&, auto&) {});
  refused("--score snapkv", "snapkv reads q");
  refused("--per-query-head --score knorm", "--per-query-head needs q or queries");
  refused("--index quest", "an index needs queries or q");
  with([](auto& w, auto& x, index_t d) {
    x[77] = std::numeric_limits<float>::quiet_NaN();
    w.add("k", {1, 2, 80, d}, span(x));
    w.add("v", {1, 2, 80, d}, span(x));
  });
  refused("--score knorm --budget 9", "K holds NaN");
  refused("", "holds NaN");
  at.write(std::vector<std::uint8_t>{1, 2, 3});
  refused("", "shorter than 8 bytes");
}

TEST_CASE("kvslim_run lists every method and runs every preset", "[kvslim_run]") {
  folder at;
  scene const s({.sequences = 2, .kv_heads = 2, .group = 4, .tokens = 64, .head_dim = 64}, false,
                81);
  auto file = s.file();
  auto const add = [&](char const* name, axes const& shape) {
    std::int64_t n = 1;
    for (auto const x : shape) n *= x;
    file.add(name, shape, std::span<float const>(s.c.q).first(static_cast<std::size_t>(n)));
  };
  add("probes", {2, 8, 20, 64});
  add("hidden", {2, 64, 24});
  add("gate_query", {1, 8, 4, 24});
  add("gate_query_bias", {1, 8, 4});
  add("gate_query_gain", {1, 1, 4});
  add("gate_key", {1, 2, 4, 24});
  add("gate_key_gain", {1, 1, 4});
  add("gate_sinks", {1, 2, 3, 4});
  add("gate_offset", {1, 2, 4});
  at.write(file);
  REQUIRE(at.run("--list") == 0);
  std::string const list = at.line();
  std::ifstream rows(KVSLIM_SOURCE_DIR "/tests/matrix/methods.txt");
  for (std::string row; std::getline(rows, row);) {
    if (row.empty() || row[0] == '#') continue;
    auto const name = row.substr(0, row.find(' '));
    INFO(name);
    CHECK((list.find("\n  " + name) != std::string::npos ||
           list.find("\n" + name) != std::string::npos));
  }
  std::string source;  // of the comparison's rows
  for (auto const* unit : {"", "_budgets", "_combined", "_evicted", "_quantized"})
    source += text_of(std::string(KVSLIM_SOURCE_DIR "/examples/compare/methods") + unit + ".cpp");
  std::string const title = "\nrows of the comparison\n";
  std::istringstream presets(list.substr(list.find(title) + title.size()));
  int ran = 0;
  for (std::string name, settings;
       std::getline(presets, name) && std::getline(presets, settings);) {
    INFO(name);
    CHECK(source.find('"' + name.substr(2) + '"') != std::string::npos);
    CHECK(at.run("--preset '" + name.substr(2) + "'") == 0);
    ++ran;
  }
  CHECK(ran > 30);
  kvslim::presets::each([&](auto const& row) {
    INFO(row.name);
    CHECK(list.find(std::string("\n  ") + row.name + "\n    " + row.what + "; " + row.source +
                    "\n") != std::string::npos);
    using type = decltype(row(kvslim::presets::scale{}));
    constexpr bool evicts = type::template has<quota_tag>;
    int const code =
        at.run(std::string(evicts ? "--budget 50 " : "") + "--preset '" + row.name + "'");
    INFO(at.error());
    REQUIRE(code == 0);
    auto const kept = result(at, 4).begins.back();
    CHECK((evicts ? kept >= 4 * 40 : kept == 4 * 64));  // CAKE and WindowKV spare short texts
  });
}
