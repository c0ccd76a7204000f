// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/quest.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/life.hpp"
#include "support/oracle.hpp"
#include "support/policies.hpp"
#include "support/tolerance.hpp"

#include <kvslim/index/quest.hpp>
#include <kvslim/run/select_pages.hpp>

using namespace kvslim;

namespace {

/// Relative L2 distance.
double distance(std::vector<float> const& a, std::vector<float> const& b) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    norm += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(error / norm);
}

/// Queries, their answers, and the spans that the index chooses for them.
template <class Plan, class Packed>
struct reader {
  Plan const& plan;
  Packed const& packed;
  index_t group, n;
  std::vector<float> q, out, lse;
  std::vector<std::int32_t> begin_end, counts;
  data::buffer updates, choices, scratch;
  attend_request<> request;
  page_spans spans;

  reader(Plan const& p, Packed const& c, index_t heads_of_one, index_t q_tokens, unsigned seed)
      : plan(p),
        packed(c),
        group(heads_of_one),
        n(q_tokens),
        updates(update_index_bytes(p)),
        choices(select_pages_bytes(p, p.extents().kv_heads * group, n)),
        scratch(attend_bytes(p.layout(), p.extents().kv_heads * group, n)) {
    auto const& e = p.extents();
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    auto const heads = static_cast<std::size_t>(e.rows() * group * n);
    q.resize(heads * static_cast<std::size_t>(e.head_dim));
    for (float& x : q) x = data::rounded(normal(engine));
    out.resize(heads * static_cast<std::size_t>(e.value_width()), -7.0f);
    lse.resize(heads, -7.0f);
    index_t const most = most_spans(p);
    begin_end.resize(static_cast<std::size_t>(e.rows() * most * 2), -7);
    counts.resize(static_cast<std::size_t>(e.rows()), -7);
    rows_shape const shape{e.sequences, e.kv_heads * group, n, e.head_dim};
    request = {.q = dense_rows<host_space, float const>(q.data(), shape),
               .out = dense_rows(out.data(), {e.sequences, e.kv_heads * group, n, e.value_width()}),
               .lse = lse.data()};
    spans = {begin_end.data(), counts.data(), most};
  }
  status update(step at = {}) { return update_index(cpu{}, plan, packed, updates, at); }
  status choose() { return select_pages(cpu{}, plan, packed, request, spans, choices); }
  status attend_to(visible_spans const& visible) {
    request.visible = visible;
    return attend(cpu{}, packed, request, scratch);
  }
  /// Pages of row r, in order; spans must be ascending, apart, and begin and end with pages.
  [[nodiscard]] reference::indices pages(index_t r) const {
    index_t const unit = plan.template stage<index_tag>().page_tokens(),
                  slots = packed.raw_row(r).slots;
    reference::indices all;
    std::int32_t last = -1;
    for (std::int32_t i = 0; i < counts[static_cast<std::size_t>(r)]; ++i) {
      auto const at = static_cast<std::size_t>(r * spans.most * 2 + 2 * i);
      std::int32_t const begin = begin_end[at], end = begin_end[at + 1];
      REQUIRE((begin > last && begin % unit == 0 && end > begin));
      REQUIRE((end % unit == 0 || end == slots));
      for (std::int32_t t = begin; t < end; t += static_cast<std::int32_t>(unit))
        all.push_back(t / unit);
      last = end;
    }
    return all;
  }
  /// Decoded keys of a row.
  [[nodiscard]] reference::matrix keys(index_t r) const {
    reference::matrix m;
    for (index_t t = 0; t < packed.raw_row(r).slots; ++t) {
      m.emplace_back();
      for (index_t d = 0; d < plan.extents().head_dim; ++d)
        m.back().push_back(static_cast<double>(packed.key(r, t, d)));
    }
    return m;
  }
  /// All queries that belong to row r.
  [[nodiscard]] reference::matrix queries(index_t r) const {
    auto const& e = plan.extents();
    reference::matrix m;
    for (index_t i = 0; i < group * n; ++i) {
      auto const* const row =
          q.data() + (r * group * n + i) * e.head_dim;  // heads of a KV head are neighbours
      m.emplace_back(row, row + e.head_dim);
    }
    return m;
  }
  [[nodiscard]] bool intact() const {
    return updates.intact() && choices.intact() && scratch.intact();
  }
};

/// Chosen pages are the reference's, over what is stored, and bounds are bounds.
template <class Reader>
void agrees(Reader& x, index_t page, index_t budget, bool kernel_rule) {
  REQUIRE(x.choose().ok());
  for (index_t r = 0; r < x.plan.extents().rows(); ++r) {
    auto const keys = x.keys(r);
    if (keys.empty()) {
      CHECK(x.pages(r).empty());
      continue;
    }
    auto const bounds = reference::quest_bounds(x.queries(r), keys, static_cast<std::size_t>(page));
    CHECK(x.pages(r) == reference::quest_pages(bounds, keys.size(), static_cast<std::size_t>(page),
                                               static_cast<std::size_t>(budget), kernel_rule));
  }
}

template <class Policy>
void chooses(Policy const& policy, data::shape const& shape, index_t page, index_t budget,
             bool kernel_rule, index_t q_tokens = 1) {
  data::cache const c(shape, static_cast<unsigned>(shape.tokens));
  data::compressed const run(policy, c.view(), evidence<>{},
                             {.append_tokens = 40, .draft_tokens = 6});
  REQUIRE(run.result.ok());
  reader x(run.plan, run.packed, shape.group, q_tokens, 5);
  REQUIRE(x.update().ok());
  agrees(x, page, budget, kernel_rule);
  data::life life(run.packed, c);
  for (int i = 0; i < 9; ++i) {
    REQUIRE(life.append(1 + i % 3).ok());
    REQUIRE(x.update().ok());
    if (i % 4 == 3) REQUIRE(rewind(run.packed, 2).ok());
    if (i % 2 == 1) REQUIRE(life.settle().ok());
    REQUIRE(x.update().ok());
    agrees(x, page, budget, kernel_rule);
  }
  CHECK(x.intact());
  CHECK(run.storage.intact());
}

constexpr quest<>::options small{.budget = 48, .page = 16};

}  // namespace

TEST_CASE("quest reads the pages that its authors' code reads", "[quest]") {
  golden const g("quest");
  auto const k = g.floats("k"), v = g.floats("v"), q = g.floats("q");
  extents const e{1, 3, 107, 16};
  data::compressed const run(
      pipeline{dense<float>{},
               quest<float>{{.budget = 64, .page = 16, .rule = quest_rule::evaluation}}},
      dense_cache(k.data(), v.data(), e));
  REQUIRE(run.result.ok());
  reader x(run.plan, run.packed, 1, 1, 1);
  std::copy(q.begin(), q.end(), x.q.begin());
  REQUIRE(x.update().ok());
  REQUIRE(x.choose().ok());
  std::vector<double> read(3 * 107, 0.0);
  for (index_t r = 0; r < 3; ++r)
    for (auto const page : x.pages(r))
      for (index_t t = 16 * page; t < std::min<index_t>(107, 16 * page + 16); ++t)
        read[static_cast<std::size_t>(r * 107 + t)] = 1.0;
  CHECK(read == g["read"]);
  REQUIRE(x.attend_to(x.spans).ok());
  CHECK(distance(x.out, g.floats("out")) <= tolerance::attend);
}

TEST_CASE("chosen pages follow the cache through its life", "[quest]") {
  data::shape const plain{.sequences = 2, .kv_heads = 2, .group = 2, .tokens = 203, .head_dim = 32};
  chooses(pipeline{dense<f16>{}, quest<>{small}}, plain, 16, 48, true);
  chooses(pipeline{kivi<4>{{.residual = 32}}, quest<>{small}}, plain, 16, 48, true, 3);
  chooses(pipeline{kivi<2>{{.residual = 64}}, quest<bf16>{{.budget = 100, .page = 24}}}, plain, 24,
          100, true);
  chooses(pipeline{int_per_token<8>{{.residual = 5}},
                   quest<>{{.budget = 60, .page = 10, .rule = quest_rule::evaluation}}},
          {.sequences = 1, .kv_heads = 3, .group = 1, .tokens = 91, .head_dim = 80}, 10, 60, false);
  chooses(pipeline{knorm{}, top_k{{.budget = 77}}, dense<float>{}, quest<float>{{.budget = 7}}},
          {.kv_heads = 1, .group = 8, .tokens = 150, .head_dim = 16}, 16, 7, true);
  chooses(pipeline{ggml<ggml_block::q8_0, ggml_block::q4_0>{}, quest<>{{.budget = 9, .page = 1}}},
          plain, 1, 9, true);
}

TEST_CASE("ragged, padded and unordered cells are summarised as stored", "[quest]") {
  data::cache const c({.sequences = 3, .kv_heads = 2, .group = 2, .tokens = 100, .head_dim = 32});
  std::vector<std::int32_t> const lengths{100, 0, 37};
  std::vector<std::int32_t> positions(300);
  std::vector<std::uint8_t> valid(300, 1);
  std::mt19937 engine(3);
  for (std::size_t s = 0; s < 3; ++s) {
    auto const begin = positions.begin() + static_cast<std::ptrdiff_t>(100 * s);
    std::iota(begin, begin + 100, 0);
    std::shuffle(begin, begin + 100, engine);
    for (std::size_t i = 0; i < 100; i += 7) valid[100 * s + i] = i % 3 == 0 ? 0 : 2;
  }
  auto view = c.view();
  view.lengths = lengths.data();
  view.positions = positions.data();
  view.valid = valid.data();
  data::compressed const run(pipeline{int_per_token<8>{}, quest<>{small}}, view, evidence<>{},
                             {.positions = true});
  REQUIRE(run.result.ok());
  reader x(run.plan, run.packed, 2, 1, 8);
  REQUIRE(x.update().ok());
  agrees(x, 16, 48, true);
}

TEST_CASE("a budget of everything attends to everything", "[quest]") {
  data::cache const c({.sequences = 1, .kv_heads = 2, .group = 4, .tokens = 128, .head_dim = 64});
  for (auto const rule : {quest_rule::kernel, quest_rule::evaluation}) {
    data::compressed const run(
        pipeline{kivi<4>{{.residual = 32}}, quest<>{{.budget = 1000, .page = 16, .rule = rule}}},
        c.view());
    REQUIRE(run.result.ok());
    reader x(run.plan, run.packed, 4, 1, 8);
    REQUIRE((x.update().ok() && x.choose().ok()));
    CHECK(x.counts[0] == 1);
    REQUIRE(x.attend_to(x.spans).ok());
    auto const some = x.out;
    REQUIRE(x.attend_to({}).ok());
    CHECK(distance(some, x.out) <= tolerance::attend);
  }
}

TEST_CASE("no key of a page exceeds its bound", "[quest]") {
  data::cache const c({.sequences = 1, .kv_heads = 2, .group = 2, .tokens = 64, .head_dim = 32});
  // Keys of all magnitudes, which f16 and bf16 round: bounds are rounded outwards.
  std::vector<float> k = c.k;
  for (std::size_t i = 0; i < k.size(); ++i)
    k[i] = c.k[i] * std::exp2(static_cast<float>(i % 41) - 30.0f) * 1.0009f;
  auto const bounded = [&]<class T>(T, auto const& index) {
    data::compressed const run(pipeline{dense<float>{}, index},
                               dense_cache(std::as_const(k).data(), c.v.data(), c.shape.extents()));
    REQUIRE(run.result.ok());
    reader x(run.plan, run.packed, 2, 1, 8);
    REQUIRE(x.update().ok());
    for (index_t r = 0; r < 2; ++r)
      for (index_t p = 0; p < 4; ++p) {
        T const* const page =
            detail::page_fields<std::remove_cvref_t<decltype(index)>>(run.packed, r, p);
        for (index_t t = 16 * p; t < 16 * p + 16; ++t)
          for (index_t d = 0; d < 32; ++d) {
            float const key = run.packed.key(r, t, d);
            REQUIRE((to_float(page[d]) <= key && key <= to_float(page[32 + d])));
          }
      }
  };
  bounded(f16{}, quest<f16>{});
  bounded(bf16{}, quest<bf16>{});
  bounded(float{}, quest<float>{});
  // Exactly the neighbour: nothing between it and the number.
  for (float const x : {1.0f + 1e-5f, -1.0f - 1e-5f, 1e-9f, -1e-9f, 65519.0f, -65519.0f, 0.0f}) {
    float const low = detail::round_outwards<f16>(x, -1.0f),
                high = detail::round_outwards<f16>(x, 1.0f);
    CHECK(low <= x);
    CHECK(x <= high);
    auto const nearest = to_float(from_float<f16>(x));
    CHECK((low == nearest || high == nearest));
  }
}

TEST_CASE("an index is stored, joined and read again", "[quest][join]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .group = 1, .tokens = 80, .head_dim = 32});
  data::compressed const run(pipeline{dense<f16>{}, quest<>{small}}, c.view(), evidence<>{},
                             {.append_tokens = 10});
  reader x(run.plan, run.packed, 1, 1, 2);
  REQUIRE((x.update().ok() && x.choose().ok()));
  auto const layout = run.plan.layout();
  CHECK(layout.sides[layout.find(side_kind::page)].meaning == 0x10001);
  CHECK(quest<float>::traits.id == 0x10003);
  // Five pages and a part of 2 * 32 numbers of two bytes, for each of four rows.
  data::compressed const plain(dense<f16>{}, c.view(), evidence<>{}, {.append_tokens = 10});
  CHECK(run.packed.bytes() == plain.packed.bytes() + 4 * 6 * 128);
  std::vector<std::byte> file(serialized_bytes(run.packed));
  REQUIRE(serialize(run.packed, file.data(), file.size()).ok());
  data::buffer memory(run.packed.bytes());
  packed_cache const back(run.plan, memory);
  REQUIRE(deserialize(file.data(), file.size(), back).ok());
  reader y(run.plan, back, 1, 1, 2);
  REQUIRE(y.choose().ok());
  CHECK((x.begin_end == y.begin_end && x.counts == y.counts));
  std::vector<std::byte> scratch(append_bytes(run.plan.layout()));
  REQUIRE(leave(back, {.first_sequence = 0, .sequences = 1}).ok());
  REQUIRE(y.choose().ok());
  CHECK(y.counts[0] == 0);
  REQUIRE(join(cpu{}, run.packed, 0, back, 0, scratch).ok());
  REQUIRE(y.choose().ok());
  CHECK(x.begin_end == y.begin_end);
}

TEST_CASE("one sequence of a batch is summarised and chosen for", "[quest]") {
  data::cache const c({.sequences = 3, .kv_heads = 1, .group = 2, .tokens = 90, .head_dim = 32});
  data::compressed const run(pipeline{dense<f16>{}, quest<>{small}}, c.view());
  reader x(run.plan, run.packed, 2, 1, 2);
  REQUIRE(x.update({.first_sequence = 1, .sequences = 1}).ok());
  CHECK(x.choose().code == errc::corrupt);  // the others are not summarised yet
  x.request.first_sequence = 1;
  x.request.q = dense_rows<host_space, float const>(x.q.data(), {1, 2, 1, 32});
  REQUIRE(x.choose().ok());
  CHECK(x.counts == std::vector<std::int32_t>{-7, x.counts[1], -7});
  std::uint8_t const active[] = {0, 1, 0};
  x.request.first_sequence = 0;
  x.request.q = dense_rows<host_space, float const>(x.q.data(), {3, 2, 1, 32});
  x.request.active = active;
  REQUIRE(x.choose().ok());
  CHECK(x.counts[0] == -7);
}

TEST_CASE("an index refuses, and nothing is written", "[quest][bad_input]") {
  data::cache const c({.sequences = 1, .kv_heads = 2, .group = 2, .tokens = 80, .head_dim = 32});
  pipeline const policy{dense<f16>{}, quest<>{small}};
  data::compressed const run(policy, c.view(), evidence<>{}, {.append_tokens = 4});
  data::compressed const bare(dense<f16>{}, c.view(), evidence<>{}, {.append_tokens = 4});
  data::compressed const other(pipeline{dense<f16>{}, quest<>{{.budget = 48, .page = 8}}}, c.view(),
                               evidence<>{}, {.append_tokens = 4});
  data::room<std::remove_const_t<decltype(policy)>> const never(policy, c.shape.extents(), {});
  reader x(run.plan, run.packed, 2, 1, 2);
  auto const code = [&](auto const& packed, workspace w) {
    return update_index(cpu{}, run.plan, packed, w).code;
  };
  auto const before = run.storage.copy();
  CHECK(code(bare.packed, x.updates) == errc::unsupported);
  CHECK(code(other.packed, x.updates) == errc::unsupported);
  CHECK(code(never.packed, x.updates) == errc::corrupt);
  CHECK(code(run.packed, {x.updates.data(), x.updates.size() - 1}) == errc::buffer_too_small);
  CHECK(update_index(cpu{}, run.plan, run.packed, x.updates, {.first_sequence = 2}).code ==
        errc::invalid_shape);
  CHECK(run.storage.copy() == before);
  CHECK(x.choose().code == errc::corrupt);
  REQUIRE(x.update().ok());
  auto const choose = [&](attend_request<> const& a, page_spans const& to, std::size_t less = 0) {
    return select_pages(cpu{}, run.plan, run.packed, a, to,
                        {x.choices.data(), x.choices.size() - less})
        .code;
  };
  auto request = x.request;
  auto spans = x.spans;
  CHECK(choose(request, spans, 1) == errc::buffer_too_small);
  spans.most -= 1;
  CHECK(choose(request, spans) == errc::buffer_too_small);
  spans = {};
  CHECK(choose(request, spans) == errc::invalid_pointer);
  request.q.heads = 3;
  CHECK(choose(request, x.spans) == errc::invalid_shape);
  request = x.request;
  request.first_sequence = 1;
  CHECK(choose(request, x.spans) == errc::invalid_shape);
  request = x.request;
  request.q.data = nullptr;
  CHECK(choose(request, x.spans) == errc::invalid_pointer);
  for (std::int32_t const n : x.counts) CHECK(n == -7);
  // Appended since.
  data::life life(run.packed, c);
  REQUIRE(life.append(1).ok());
  CHECK(x.choose().code == errc::corrupt);

  auto const plan = [&](quest<>::options const& o, plan_options const& p = {}) {
    return make_plan(pipeline{dense<f16>{}, quest<>{o}}, c.shape.extents(), p).check().code;
  };
  CHECK(plan({.page = 0}) == errc::invalid_option);
  CHECK(plan({.page = 5000}) == errc::invalid_option);
  CHECK(plan({.budget = -1}) == errc::invalid_option);
  CHECK(plan({.budget = index_t{1} << 31}) == errc::invalid_option);
  CHECK(plan({}, {.evicts = true}) == errc::unsupported);
  // Tokens of an indexed cache do not leave.
  data::compressed const placed(policy, c.view(), evidence<>{}, {.positions = true});
  std::vector<std::int32_t> const victims{3, 3};
  CHECK(evict(cpu{}, placed.packed, victims.data()).code == errc::unsupported);
  CHECK(select_pages_bytes(run.plan, 3) == 0);
  CHECK(select_pages_bytes(run.plan, 2, 0) == 0);
}
