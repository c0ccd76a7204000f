// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Landmarks choose the chunks that the authors' code chooses, and those of the reference while a
// cache lives.

#include "reference/landmarks.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <kvslim/kvslim.hpp>

using namespace kvslim;

namespace {

/// Queries of a cache and the chunks that are chosen for them.
template <class Plan, class Packed>
struct chooser {
  Plan const& plan;
  Packed const& packed;
  oracle::asked asked;
  std::vector<std::int32_t> begin_end, counts;
  data::buffer updates, choices;
  page_spans spans;

  chooser(Plan const& p, Packed const& c, rows<> const& q)
      : plan(p),
        packed(c),
        asked(c, q),
        begin_end(static_cast<std::size_t>(p.extents().rows() * most_spans(p) * 2), -7),
        counts(static_cast<std::size_t>(p.extents().rows()), -7),
        updates(update_index_bytes(p)),
        choices(select_pages_bytes(p, q.heads, q.tokens)),
        spans{begin_end.data(), counts.data(), most_spans(p)} {}
  void choose() {
    REQUIRE(update_index(cpu{}, plan, packed, updates).ok());
    REQUIRE(select_pages(cpu{}, plan, packed, asked.request, spans, choices).ok());
    CHECK((updates.intact() && choices.intact()));
  }
  [[nodiscard]] reference::indices pages(index_t r, index_t unit) const {
    reference::indices all;
    for (std::int32_t i = 0; i < counts[static_cast<std::size_t>(r)]; ++i) {
      auto const at = static_cast<std::size_t>(r * spans.most * 2 + 2 * i);
      for (auto t = begin_end[at]; t < begin_end[at + 1]; t += static_cast<std::int32_t>(unit))
        all.push_back(t / unit);
    }
    return all;
  }
};

/// What the reference reads of row r, over what is stored.
template <class Packed>
reference::indices expected(Packed const& packed, attend_request<> const& a, index_t r,
                            landmarks<float>::options const& o) {
  auto const& e = packed.extents();
  index_t const group = a.q.heads / e.kv_heads;
  reference::matrix k;
  for (index_t t = 0; t < packed.raw_row(r).slots; ++t) {
    k.emplace_back();
    for (index_t d = 0; d < e.head_dim; ++d) k.back().push_back(packed.key(r, t, d));
  }
  std::vector<reference::matrix> q;
  for (index_t g = 0; g < group; ++g) {
    q.emplace_back();
    for (index_t t = 0; t < a.q.tokens; ++t) {
      q.back().emplace_back();
      for (index_t d = 0; d < e.head_dim; ++d)
        q.back().back().push_back(a.q.at(r / e.kv_heads, r % e.kv_heads * group + g, t, d));
    }
  }
  auto const size = [](index_t n) { return static_cast<std::size_t>(n); };
  if (k.empty()) return {};
  return reference::landmark_pages(q, k,
                                   {size(o.page), size(o.budget), size(o.local), size(o.outliers)},
                                   1 / std::sqrt(static_cast<double>(e.head_dim)));
}

void lives(data::shape const& shape, landmarks<float>::options const& o, index_t q_tokens,
           std::vector<std::int32_t> const& lengths = {}) {
  CAPTURE(shape.head_dim, shape.tokens, o.page, o.local, o.outliers, o.budget);
  data::cache const c(shape, 11);
  auto view = c.view();
  if (!lengths.empty()) view.lengths = lengths.data();
  data::compressed const run(pipeline{dense<float>{}, landmarks<float>{o}}, view, evidence<>{},
                             {.append_tokens = 20, .draft_tokens = 6});
  REQUIRE(run.result.ok());
  chooser x(run.plan, run.packed, c.queries(q_tokens));
  data::life life(run.packed, c);
  for (int i = 0; i < 8; ++i) {
    x.choose();
    for (index_t r = 0; r < shape.rows(); ++r)
      CHECK(x.pages(r, o.page) == expected(run.packed, x.asked.request, r, o));
    x.asked.request.visible = x.spans;
    REQUIRE(attend(cpu{}, run.packed, x.asked.request).ok());
    CHECK(oracle::error_of(run.packed, x.asked.request) <= tolerance::attend);
    REQUIRE(life.append(1 + i % 3).ok());
    if (i % 2 == 1) REQUIRE(life.settle().ok());
  }
  CHECK(run.storage.intact());
}

}  // namespace

TEST_CASE("landmarks are chosen as the authors choose them", "[golden][landmarks]") {
  golden const g("landmarks");
  data::cache c({.kv_heads = 2, .group = 3, .tokens = 139, .head_dim = 16});
  c.k = g.floats("k");
  landmarks<float>::options const o{.budget = 40, .outliers = 3};
  data::compressed const run(pipeline{dense<float>{}, landmarks<float>{o}}, c.view());
  REQUIRE(run.result.ok());
  auto const all = g.floats("q");
  auto const outliers = g["outliers"];
  for (index_t const tokens : {1, 2}) {
    auto const chosen = g[tokens == 1 ? "chosen_1" : "chosen_2"];
    chooser x(run.plan, run.packed, c.queries(tokens));
    // Of each head the first `tokens` of two queries.
    x.asked.request.q = rows_view<float const>{all.data(), 1, 6, tokens, 16, {192, 32, 16, 1}};
    x.choose();
    for (index_t r = 0; r < 2; ++r) {
      reference::indices theirs;
      for (index_t i = 0; i < 3; ++i)
        theirs.push_back(static_cast<std::int64_t>(outliers[static_cast<std::size_t>(3 * r + i)]));
      for (index_t i = 0; i < 5; ++i)
        theirs.push_back(static_cast<std::int64_t>(chosen[static_cast<std::size_t>(5 * r + i)]));
      for (auto p = static_cast<std::int64_t>(g["local"][0]); p < 18; ++p) theirs.push_back(p);
      std::sort(theirs.begin(), theirs.end());
      CHECK(x.pages(r, 8) == theirs);
      CHECK(expected(run.packed, x.asked.request, r, o) == theirs);
    }
  }
}

TEST_CASE("landmarks follow a cache that lives", "[landmarks]") {
  lives({.sequences = 2, .kv_heads = 2, .group = 4, .tokens = 150, .head_dim = 80},
        {.budget = 32, .page = 8, .local = 2, .outliers = 3}, 1);
  lives({.sequences = 3, .kv_heads = 1, .group = 8, .tokens = 97, .head_dim = 37},
        {.budget = 20, .page = 5, .local = 1, .outliers = 2}, 3, {97, 0, 11});
  lives({.kv_heads = 2, .group = 1, .tokens = 60, .head_dim = 16},
        {.budget = 4, .page = 4, .local = 0, .outliers = 0}, 1);
  lives({.kv_heads = 1, .group = 2, .tokens = 40, .head_dim = 16},
        {.budget = 4000, .page = 8, .local = 1, .outliers = 100}, 2);
  lives({.kv_heads = 1, .group = 2, .tokens = 1, .head_dim = 4}, {}, 1);
  isa::path const before = isa::current();
  isa::use(isa::path::portable);
  lives({.kv_heads = 2, .group = 3, .tokens = 90, .head_dim = 37},
        {.budget = 20, .page = 5, .local = 1, .outliers = 2}, 2);
  isa::use(before);
}

TEST_CASE("landmarks take as many bytes as they say, and read as they are stored", "[landmarks]") {
  data::cache const c({.kv_heads = 2, .group = 2, .tokens = 80, .head_dim = 32});
  pipeline const policy{shadowkv<>{{.kv_heads = 2, .rank = 20, .local = 8}},
                        landmarks<>{{.budget = 16, .local = 1, .outliers = 1}}};
  data::compressed const run(policy, c.view(), {}, {.append_tokens = 48});
  data::compressed const plain(shadowkv<>{{.kv_heads = 2, .rank = 20, .local = 8}}, c.view(), {},
                               {.append_tokens = 48});
  REQUIRE(run.result.ok());
  CHECK(run.packed.bytes() == plain.packed.bytes() + 2 * 16 * (32 * 2 + 4));
  auto const layout = run.plan.layout();
  CHECK(layout.sides[layout.find(side_kind::page)].meaning == 0x20002);
  chooser x(run.plan, run.packed, c.queries(1));
  x.choose();
  CHECK(x.pages(0, 8).size() == 4);
  x.asked.request.visible = x.spans;
  REQUIRE(attend(cpu{}, run.packed, x.asked.request).ok());
  CHECK(oracle::error_of(run.packed, x.asked.request) <= tolerance::attend);
  std::vector<std::byte> file(serialized_bytes(run.packed));
  REQUIRE(serialize(run.packed, file.data(), file.size()).ok());
  data::buffer memory(run.packed.bytes());
  packed_cache const back(run.plan, memory);
  REQUIRE(deserialize(file.data(), file.size(), back).ok());
  chooser y(run.plan, back, c.queries(1));
  REQUIRE(select_pages(cpu{}, run.plan, back, y.asked.request, y.spans, y.choices).ok());
  CHECK(x.begin_end == y.begin_end);
}

TEST_CASE("landmarks refuse what is no number of chunks", "[landmarks]") {
  auto const code = [](landmarks<>::options const& o) {
    return make_plan(pipeline{dense<f16>{}, landmarks<>{o}}, {1, 1, 10, 8}).check().code;
  };
  CHECK(code({}) == errc::ok);
  CHECK(code({.page = 0}) == errc::invalid_option);
  CHECK(code({.page = 5000}) == errc::invalid_option);
  CHECK(code({.budget = -1}) == errc::invalid_option);
  CHECK(code({.local = -1}) == errc::invalid_option);
  CHECK(code({.outliers = index_t{1} << 31}) == errc::invalid_option);
}
