// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Every op of selection and scoring on both backends: the same orders, sets and lists, scores
// within the bound of their family. Exits 77 (skipped) where there is no GPU.

#include "on_device.hpp"
#include "support/policies.hpp"
#include "support/tolerance.hpp"

#include <kvslim/codec/planar.cuh>
#include <kvslim/merge/kvmerger.hpp>
#include <kvslim/ops/attention_mass.cuh>
#include <kvslim/ops/compact.cuh>
#include <kvslim/ops/rest_of.cuh>
#include <kvslim/run/select.cuh>
#include <kvslim/score/given_scores.hpp>
#include <kvslim/score/streaming_llm.hpp>
#include <kvslim/select/top_k.hpp>

using namespace on_device;
using namespace kvslim;
using policies::above, policies::contested, policies::heavy, policies::ledger,
    policies::third_party;

namespace {

kvslim::cuda const gpu{};
cpu const host{};

/// A text in both memories, ordered by both backends.
struct texts {
  using host_view = decltype(std::declval<cells>().view<host_space>());
  using device_view = decltype(std::declval<cells>().view<cuda_space>());

  explicit texts(cells const& c, char const* name)
      : all(static_cast<std::size_t>(c.e.rows() * c.e.tokens)),
        cell(all, 7),
        count(static_cast<std::size_t>(c.e.rows()), 7),
        keys(all),
        dcell(cell),
        dcount(count),
        dkeys(all),
        on_host{c.view<host_space>()},
        on_gpu{c.view<cuda_space>()} {
    auto a = ops::make_text_order(host, on_host.cells, {cell.data(), count.data(), keys.data()},
                                  on_host.order);
    auto b = ops::make_text_order(gpu, on_gpu.cells, {dcell.get(), dcount.get(), dkeys.get()},
                                  on_gpu.order);
    check(a && b, a ? b.message : a.message, name);
    auto const got_counts = dcount.host();
    check(same(got_counts, count), "counts of the text order", name);
    auto const got = dcell.host();
    for (index_t r = 0; r < c.e.rows(); ++r)
      check(same(&got[static_cast<std::size_t>(r * c.e.tokens)],
                 &cell[static_cast<std::size_t>(r * c.e.tokens)],
                 on_host.order.cells == nullptr ? c.e.tokens : count[static_cast<std::size_t>(r)]),
            "text order", name);
  }
  [[nodiscard]] index_t tokens(index_t r) const {
    auto const& e = on_host.extents();
    return on_host.tokens(r / e.kv_heads, r % e.kv_heads);
  }

  std::size_t all;
  std::vector<std::int32_t> cell, count;
  std::vector<std::uint64_t> keys;
  device<std::int32_t> dcell, dcount;
  device<std::uint64_t> dkeys;
  text<host_view> on_host;
  text<device_view> on_gpu;
};

/// Scores that selections find hard.
enum class kind { random, ties, equal, special };

std::vector<float> make_scores(std::size_t count, kind k, std::mt19937& engine) {
  float const odd[] = {NAN, -NAN, 0.0f, -0.0f, INFINITY, -INFINITY, 1e-42f, -1e-42f, 1.0f};
  std::normal_distribution<float> normal;
  std::vector<float> scores(count);
  for (float& x : scores) {
    if (k == kind::random) x = normal(engine);
    if (k == kind::ties) x = static_cast<float>(engine() % 3);
    if (k == kind::equal) x = 0.25f;
    if (k == kind::special) x = odd[engine() % std::size(odd)];
  }
  return scores;
}

void test_selection(cells const& c, kind scores_kind, unsigned seed, char const* name) {
  texts const t(c, name);
  auto const& e = c.e;
  std::mt19937 engine(seed);
  auto scores = make_scores(t.all, scores_kind, engine);
  device<float> const dscores(scores);
  score_view const a{scores.data(), e.tokens}, b{dscores.get(), e.tokens};

  std::vector<quota> quotas;
  auto const up_to = [&](index_t n) {
    return static_cast<index_t>(engine() % static_cast<unsigned>(n + 1));
  };
  for (index_t r = 0; r < e.rows(); ++r)
    quotas.push_back({.count = up_to(e.tokens),
                      .sinks = engine() % 4 == 0 ? up_to(e.tokens) : up_to(9),
                      .recent = engine() % 4 == 0 ? up_to(e.tokens) : up_to(9),
                      .least = engine() % 3 == 0 ? 0.1f : -INFINITY,
                      .cover = scores_kind == kind::random && engine() % 4 == 0 ? 0.6f : 0.0f});
  quotas.front() = {.count = e.tokens / 3};
  device<quota> const dquotas(quotas);
  slice<quota const> const q{quotas.data(), e.rows()}, dq{dquotas.get(), e.rows()};

  std::vector<fate> fates(t.all, fate::kept);
  std::vector<std::uint64_t> keys(t.all);
  device<fate> const dfates(fates);
  auto const same_fates = [&](char const* what, device<fate> const& on_gpu) {
    auto const got = on_gpu.host();
    for (index_t r = 0; r < e.rows(); ++r)
      check(same(&got[static_cast<std::size_t>(r * e.tokens)],
                 &fates[static_cast<std::size_t>(r * e.tokens)], t.tokens(r)),
            what, name);
  };
  check(ops::protect(host, t.on_host, q, fates.data()) &&
            ops::protect(gpu, t.on_gpu, dq, dfates.get()),
        "protect runs", name);
  same_fates("protect", dfates);
  device<fate> const of_cluster(fates), of_passes(fates);
  check(ops::keep_best(host, t.on_host, a, q, keys.data(), fates.data()) &&
            ops::keep_best(gpu, t.on_gpu, b, dq, t.dkeys.get(), dfates.get()),
        "keep_best runs", name);
  same_fates("keep_best", dfates);
  // What other devices, or rows of another length, would take.
  using keep_best = implementation<ops::keep_best_op, kvslim::cuda>;
  using detail::cluster_team;
  if (detail::runs_clusters(detail::keep_best_kernel<cluster_team, text<texts::device_view>>)) {
    check(keep_best::by_teams<cluster_team>(gpu, t.on_gpu, b, dq, of_cluster.get(), false).ok(),
          "a cluster a row runs", name);
    same_fates("keep_best by clusters", of_cluster);
  }
  if (e.tokens > detail::block_keys) {
    check(keep_best::by_passes(gpu, t.on_gpu, b, dq, t.dkeys.get(), of_passes.get()).ok(),
          "passes over rows run", name);
    same_fates("keep_best by passes", of_passes);
  }

  // Lists with all the room they need, and with less.
  for (index_t const room : {e.rows() * e.tokens, e.tokens / 2 + 1}) {
    auto const n = static_cast<std::size_t>(room);
    std::vector<std::int64_t> begins(static_cast<std::size_t>(e.rows() + 1), -1);
    std::vector<std::int32_t> kept(n, -1), ranks(n, -1);
    std::vector<std::uint32_t> columns(t.all * 2), listed(n * 2, 0);
    for (auto& x : columns) x = static_cast<std::uint32_t>(engine());
    device<std::int64_t> const dbegins(begins);
    device<std::int32_t> const dkept(kept), dranks(ranks);
    device<std::uint32_t> const dcolumns(columns), dlisted(listed);
    auto const bytes = [](auto* p) { return static_cast<std::byte*>(static_cast<void*>(p)); };
    keep_set const set{.begins = begins.data(),
                       .cells = kept.data(),
                       .ranks = ranks.data(),
                       .room = room,
                       .columns = bytes(listed.data())};
    keep_set const dset{.begins = dbegins.get(),
                        .cells = dkept.get(),
                        .ranks = dranks.get(),
                        .room = room,
                        .columns = bytes(dlisted.get())};
    check(ops::list_kept(host, t.on_host, fates.data(), set) &&
              ops::list_kept(gpu, t.on_gpu, dfates.get(), dset) &&
              ops::list_columns(host, e, bytes(columns.data()), 8, set) &&
              ops::list_columns(gpu, e, bytes(dcolumns.get()), 8, dset),
          "list_kept and list_columns run", name);
    check(same(dbegins.host(), begins), "begins", name);
    check(same(dkept.host(), kept) && same(dranks.host(), ranks), "kept cells and ranks", name);
    check(same(dlisted.host(), listed), "columns of what stays", name);
  }
}

void test_contest(cells const& c, kind scores_kind, row_group group, contest rules, unsigned seed,
                  char const* name) {
  texts const t(c, name);
  auto const& e = c.e;
  std::mt19937 engine(seed);
  auto scores = make_scores(t.all, scores_kind, engine);
  device<float> const dscores(scores);
  std::vector<row_facts> facts;
  for (index_t g = 0; g < group.groups(e); ++g)
    for (index_t m = 0; m < group.size(); ++m) {
      index_t const r = group.member_row(e, group.group_row(e, g), m);
      facts.push_back(
          {.row = r, .tokens = t.tokens(r), .recent = static_cast<index_t>(engine() % 20)});
    }
  device<row_facts> const dfacts(facts);
  std::vector<std::uint64_t> keys(t.all);
  check(ops::hold_contest(host, t.on_host, {scores.data(), e.tokens}, group, rules, keys.data(),
                          slice<row_facts>{facts.data(), e.rows()}) &&
            ops::hold_contest(gpu, t.on_gpu, {dscores.get(), e.tokens}, group, rules, t.dkeys.get(),
                              slice<row_facts>{dfacts.get(), e.rows()}),
        "hold_contest runs", name);
  auto const got = dfacts.host();
  for (std::size_t i = 0; i < facts.size(); ++i)
    check(got[i].winners == facts[i].winners, "winners of a contest", name);
}

void test_scores(cells const& c, unsigned seed, char const* name) {
  texts const t(c, name);
  auto const& e = c.e;
  std::vector<float> out(t.all, NAN);
  device<float> const dout(out);
  score_view const a{out.data(), e.tokens}, b{dout.get(), e.tokens};
  columns_by_rank<no_column> const none{};
  check(ops::score_tokens(host, third_party{}, t.on_host, none, a) &&
            ops::score_tokens(gpu, third_party{}, t.on_gpu, none, b),
        "score_tokens runs", name);
  check(distance(dout.host(), out) <= tolerance::elementwise, "score_tokens", name);
  for (auto const scores_kind : {kind::random, kind::special}) {
    std::mt19937 engine(seed);
    auto const by_cell = make_scores(t.all, scores_kind, engine);
    device<float> const dby_cell(by_cell);
    for (auto const how : {reduce::mean, reduce::sum, reduce::maximum}) {
      check(ops::gather_scores(host, t.on_host, by_cell.data(), a) &&
                ops::gather_scores(gpu, t.on_gpu, dby_cell.get(), b),
            "gather_scores runs", name);
      check(same(dout.host(), out), "gather_scores", name);
      row_group const group{e.sequences, e.kv_heads};
      ops::share_rule const rule{group, how, scores_kind == kind::special};
      check(
          ops::share_scores(host, t.on_host, rule, a) && ops::share_scores(gpu, t.on_gpu, rule, b),
          "share_scores runs", name);
      auto const got = dout.host();
      bool equal = true;  // two NaN are as good as each other
      for (std::size_t i = 0; i < out.size(); ++i)
        equal = equal && (got[i] == out[i] || (std::isnan(got[i]) && std::isnan(out[i])));
      check(equal, "share_scores", name);
    }
  }
}

void test_queries(cells const& c, index_t group, index_t window, unsigned seed, char const* name) {
  texts const t(c, name);
  auto const& e = c.e;
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  rows_shape const shape{e.sequences, e.kv_heads * group, window, e.head_dim};
  std::vector<float> q(
      static_cast<std::size_t>(shape.sequences * shape.heads * window * e.head_dim));
  for (float& x : q) x = normal(engine);
  device<float> const dq(q);
  rows<host_space> const queries = dense_rows(static_cast<float const*>(q.data()), shape);
  rows<cuda_space> const dqueries =
      dense_rows<cuda_space>(static_cast<float const*>(dq.get()), shape);

  // Scratch of exactly the size that is promised.
  auto const floats = static_cast<std::size_t>(e.rows() * ops::mass_floats(e, window));
  std::vector<float> out(t.all, NAN), scratch(floats);
  device<float> const dout(out), dscratch(floats);
  for (auto const how : {reduce::mean, reduce::maximum})
    for (auto const pool : {pooling::average, pooling::maximum}) {
      // The wide one has neighbours in the blocks of other tokens.
      bool const wide = pool == pooling::average && how == reduce::mean;
      ops::mass_options const options{pool, wide ? 301 : 5, how, pool == pooling::maximum};
      check(ops::attention_mass(host, t.on_host, queries, options, {out.data(), e.tokens},
                                scratch.data()) &&
                ops::attention_mass(gpu, t.on_gpu, dqueries, options, {dout.get(), e.tokens},
                                    dscratch.get()),
            "attention_mass runs", name);
      check(distance(dout.host(), out) <= tolerance::accumulated, "attention_mass", name);
    }
  for (index_t const kernel : {6017, 6019}) {
    auto const code = ops::attention_mass(gpu, t.on_gpu, dqueries, {.kernel = kernel},
                                          {dout.get(), e.tokens}, dscratch.get())
                          .code;
    check(code == (kernel == 6017 ? errc::ok : errc::unsupported), "the widest pooling", name);
  }

  std::vector<ledger> ledgers(t.all);
  auto const observed = static_cast<std::size_t>(e.rows() * ops::observe_floats(e));
  scratch.resize(observed);
  device<ledger> const dledgers(ledgers);
  device<float> const dobserved(observed);
  auto const bytes = [](auto* p) { return static_cast<std::byte*>(static_cast<void*>(p)); };
  logit_rule const logit{.scale = 0.1f, .soft_cap = 20.0f};
  check(ops::observe_queries(host, heavy{}, t.on_host, queries, logit, bytes(ledgers.data()),
                             scratch.data()) &&
            ops::observe_queries(gpu, heavy{}, t.on_gpu, dqueries, logit, bytes(dledgers.get()),
                                 dobserved.get()),
        "observe_queries runs", name);
  auto const got = dledgers.host();
  std::vector<float> sums, expected;
  bool equal = true;
  for (index_t r = 0; r < e.rows(); ++r)
    for (index_t i = 0; i < t.tokens(r); ++i) {
      auto const &x = got[static_cast<std::size_t>(r * e.tokens + i)],
                 &y = ledgers[static_cast<std::size_t>(r * e.tokens + i)];
      equal = equal && x.born == y.born && x.looks == y.looks;
      sums.push_back(x.sum);
      expected.push_back(y.sum);
    }
  check(equal, "observe_queries' births and looks", name);
  check(distance(sums, expected) <= tolerance::accumulated, "observe_queries' masses", name);
}

/// How keys of 16 bits lie in memory: as matrix units read them, or to be gathered.
enum class placed { whole, apart, uneven };

/// attention_mass over keys of 16 bits, which matrix units multiply.
template <class T>
void test_matrix_window(cells const& c, index_t group, index_t window, placed how, unsigned seed,
                        char const* name) {
  texts const t(c, name);
  auto const& e = c.e;
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  rows_shape const shape{e.sequences, e.kv_heads * group, window, e.head_dim};
  std::vector<float> q(
      static_cast<std::size_t>(shape.sequences * shape.heads * window * e.head_dim));
  for (std::size_t i = 0; i < q.size(); ++i)
    q[i] = normal(engine) * (i % 97 == 0 ? 20.0f : i % 5 == 0 ? 1e-6f : 1.0f);
  device<float> const dq(q);

  index_t const apart = how == placed::apart ? 2 : 1, from = how == placed::uneven ? 3 : 0;
  std::vector<T> k(c.k.size() * static_cast<std::size_t>(apart) + 3, T{0x7fff});  // NaN between
  for (std::size_t i = 0; i < c.k.size(); ++i)
    k[i * static_cast<std::size_t>(apart) + static_cast<std::size_t>(from)] = from_float<T>(c.k[i]);
  device<T> const dk(k);
  auto const seen = [&]<class Text>(Text const& of, T const* at) {
    using space = typename Text::space;
    index_t const row = e.tokens * e.head_dim * apart;
    cache_view<plane<T const, strided, space>, typename Text::cells_type::value_plane> view{
        e, {at + from, {e.kv_heads * row, row, e.head_dim * apart, apart}}, of.cells.v};
    view.lengths = of.cells.lengths;
    view.positions = of.cells.positions;
    view.valid = of.cells.valid;
    view.bias = of.cells.bias;
    return text<decltype(view)>{view, of.order};
  };

  auto const floats = static_cast<std::size_t>(e.rows() * ops::mass_floats(e, window));
  std::vector<float> out(t.all, NAN), scratch(floats);
  device<float> const dout(out), dscratch(floats);
  ops::mass_options options{.kernel = 5};
  if (seed % 2 == 0) options.logit = {.scale = 0.2f, .soft_cap = 3.0f};
  if (seed % 3 == 0) options = {pooling::maximum, 7, reduce::maximum, true, true, options.logit};
  check(
      ops::attention_mass(host, seen(t.on_host, k.data()),
                          rows<host_space>(dense_rows(static_cast<float const*>(q.data()), shape)),
                          options, {out.data(), e.tokens}, scratch.data()) &&
          ops::attention_mass(
              gpu, seen(t.on_gpu, dk.get()),
              rows<cuda_space>(dense_rows<cuda_space>(static_cast<float const*>(dq.get()), shape)),
              options, {dout.get(), e.tokens}, dscratch.get()),
      "attention_mass runs", name);
  check(distance(dout.host(), out) <= tolerance::accumulated, "attention_mass by matrix units",
        name);
}

void test_compact(cells const& c, bool in_place, unsigned seed, char const* name) {
  texts const t(c, name);
  auto const& e = c.e;
  std::mt19937 engine(seed);
  std::vector<std::int64_t> begins{0};
  std::vector<std::int32_t> kept;
  for (index_t r = 0; r < e.rows(); ++r) {
    for (index_t i = 0; i < t.tokens(r); ++i)
      if (engine() % 3 != 0)
        kept.push_back(
            static_cast<std::int32_t>(t.on_host.cell(r / e.kv_heads, r % e.kv_heads, i)));
    begins.push_back(static_cast<std::int64_t>(kept.size()));
  }
  kept.push_back(-1);  // never null
  device<std::int64_t> const dbegins(begins);
  device<std::int32_t> const dkept(kept);
  auto k = c.k, v = c.v;
  if (!in_place) std::fill(k.begin(), k.end(), 0.0f), std::fill(v.begin(), v.end(), 0.0f);
  device<float> const dk(k), dv(v);
  auto const target = dense_cache(k.data(), v.data(), e);
  auto const dtarget = dense_cache<cuda_space>(dk.get(), dv.get(), e);
  keep_set const set{.begins = begins.data(), .cells = kept.data()};
  keep_set const dset{.begins = dbegins.get(), .cells = dkept.get()};
  auto const both = [](auto const& x, auto const& y, char const* what) {
    check(x && y, !x ? x.message : !y ? y.message : "", what);
  };
  if (in_place) {
    auto source = target;
    auto dsource = dtarget;
    source.lengths = c.view<host_space>().lengths;
    dsource.lengths = c.view<cuda_space>().lengths;
    both(ops::compact(host, source, target, set), ops::compact(gpu, dsource, dtarget, dset), name);
  } else {
    both(ops::compact(host, c.view<host_space>(), target, set),
         ops::compact(gpu, c.view<cuda_space>(), dtarget, dset), name);
  }
  check(same(dk.host(), k) && same(dv.host(), v), "compact", name);
}

/// Codes by a group's reciprocal, one thread a value.
template <class Param>
struct affine_codes {
  affine<Param> const* groups;
  float const* x;
  std::uint32_t* out;
  int bits;
  rounding mode;
  __device__ void operator()(index_t i) const {
    out[i] = detail::affine_coder<Param>(groups[i]).code(x[i], bits, mode);
  }
};
/// What no division computes is what a division computes: around every boundary between codes, for
/// scales of all sizes, for values beyond all codes and those that are no numbers.
template <class Param>
void test_affine_codes(int bits, rounding mode, char const* name) {
  std::mt19937 engine(static_cast<unsigned>(bits));
  std::vector<affine<Param>> groups;
  std::vector<float> x;
  float const odd[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e-40f, 0.0f, -0.0f};
  constexpr int far = std::same_as<Param, f16> ? 14 : 120;
  for (int i = 0; i < 20000; ++i) {
    auto const random = [&] { return static_cast<float>(engine() >> 8) * 0x1p-24f; };
    float const span = std::ldexp(1.0f + random(), static_cast<int>(engine() % (2 * far)) - far);
    float const low = i % 2 == 0 ? 0.0f : (random() - 0.5f) * span;
    groups.push_back(detail::fit_affine<Param>({low, i % 11 == 0 ? low : low + span}, bits, mode));
    auto const [scale, from] = groups.back();
    float const code = static_cast<float>(engine() % (2u << bits)) * 0.5f;
    float y = to_float(from) + code * to_float(scale);
    for (unsigned n = engine() % 4; n > 0; --n) y = std::nextafter(y, i % 3 == 0 ? 3e38f : -3e38f);
    x.push_back(i % 17 == 0 ? odd[engine() % std::size(odd)] : y);
  }
  device<affine<Param>> const dgroups(groups);
  device<float> const dx(x);
  device<std::uint32_t> const dcodes(x.size());
  std::vector<std::uint32_t> codes;
  for (std::size_t i = 0; i < x.size(); ++i)
    codes.push_back(detail::encode_affine(x[i], groups[i], bits, mode));
  check(detail::launch_for_each(
            gpu, static_cast<index_t>(x.size()),
            affine_codes<Param>{dgroups.get(), dx.get(), dcodes.get(), bits, mode})
            .ok(),
        "codes run", name);
  check(same(dcodes.host(), codes), "codes", name);
}

/// compact() of elements of any size, row t of a sequence at element place[t]: to a dense cache and
/// in place.
template <class T>
void test_compact_rows(std::vector<std::int32_t> const& place, index_t width, index_t apart,
                       char const* name) {
  auto const tokens = static_cast<index_t>(place.size());
  extents const e{1, 2, tokens, width};
  index_t const row = place.back() + width * apart;  // of a head
  std::vector<T> cells(static_cast<std::size_t>(e.rows() * row + place.front()));
  for (std::size_t i = 0; i < cells.size(); ++i)
    cells[i] = from_float<T>(static_cast<float>(i % 251));
  std::vector<std::int64_t> begins{0};
  std::vector<std::int32_t> kept;
  for (index_t r = 0; r < e.rows(); ++r) {
    for (index_t t = 0; t < tokens; ++t)
      if ((t * 7919 + r) % 5 != 0) kept.push_back(static_cast<std::int32_t>(t));
    begins.push_back(static_cast<std::int64_t>(kept.size()));
  }
  std::vector<T> out(static_cast<std::size_t>(e.rows() * tokens * width));
  device<T> const dcells(cells), dvalues(cells), dk(out), dv(out);
  device<std::int32_t> const dplace(place), dkept(kept);
  device<std::int64_t> const dbegins(begins);
  keep_set const set{.begins = begins.data(), .cells = kept.data()},
      dset{.begins = dbegins.get(), .cells = dkept.get()};
  auto const view = [&]<class Space>(Space, T* k, T* v, std::int32_t const* at) {
    using in = plane<T, slot_list, Space>;
    slot_list const slots{at, tokens, 1, row, apart};
    return cache_view<in>{e, {k, slots}, {v, slots}};
  };
  auto k = out, v = out, values = cells;
  auto const here = view(host_space{}, cells.data(), values.data(), place.data());
  auto const there = view(cuda_space{}, dcells.get(), dvalues.get(), dplace.get());
  check(ops::compact(host, here, dense_cache(k.data(), v.data(), e), set) &&
            ops::compact(gpu, there, dense_cache<cuda_space>(dk.get(), dv.get(), e), dset),
        "compact runs", name);
  check(same(dk.host(), k) && same(dv.host(), v), "compact", name);
  check(ops::compact(host, here, here, set) && ops::compact(gpu, there, there, dset),
        "compact runs in place", name);
  check(same(dcells.host(), cells) && same(dvalues.host(), values), "compact in place", name);
}

/// Rows that are moved 16 bytes at a time, some that are not, and both in one sequence.
void test_compact_pieces() {
  auto const rows = [](index_t tokens, index_t step, index_t first, index_t odd_from) {
    std::vector<std::int32_t> place;
    for (index_t t = 0; t < tokens; ++t)
      place.push_back(static_cast<std::int32_t>(first + t * step + (t >= odd_from ? 1 : 0)));
    return place;
  };
  test_compact_rows<f16>(rows(3000, 24, 0, 3000), 24, 1, "f16 rows of 48 bytes");
  test_compact_rows<f16>(rows(3000, 24, 0, 1500), 24, 1, "f16 rows, the last not at 16 bytes");
  test_compact_rows<f16>(rows(300, 40, 3, 300), 40, 1, "f16 rows not at 16 bytes");
  test_compact_rows<f16>(rows(300, 33, 0, 300), 33, 1, "f16 rows of 66 bytes");
  test_compact_rows<bf16>(rows(200, 80, 0, 200), 40, 2, "bf16 channels apart");
  test_compact_rows<e4m3>(rows(2600, 80, 16, 2600), 80, 1, "e4m3 rows of 80 bytes");
  test_compact_rows<float>(rows(2600, 12, 4, 2600), 12, 1, "f32 rows of 48 bytes");
}

void test_rest_of(cells const& c, unsigned seed, char const* name) {
  texts const t(c, name);
  auto const& e = c.e;
  std::mt19937 engine(seed);
  std::vector<std::int64_t> begins{0};
  std::vector<std::int32_t> kept;
  index_t others = 0;
  for (index_t r = 0; r < e.rows(); ++r) {
    for (index_t i = 0; i < t.tokens(r); ++i)
      if (engine() % 3 == 0)
        kept.push_back(
            static_cast<std::int32_t>(t.on_host.cell(r / e.kv_heads, r % e.kv_heads, i)));
      else
        ++others;
    begins.push_back(static_cast<std::int64_t>(kept.size()));
  }
  kept.push_back(-1);  // never null
  device<std::int64_t> const dbegins(begins);
  device<std::int32_t> const dkept(kept);
  auto const room = static_cast<std::size_t>(others);
  std::vector<std::int64_t> rest_begins(begins.size());
  std::vector<std::int32_t> cells(room + 1, -1), ranks(room + 1, -1);
  device<std::int64_t> const drest_begins(rest_begins);
  device<std::int32_t> const dcells(cells), dranks(ranks);
  keep_set const set{.begins = begins.data(), .cells = kept.data(), .order = t.on_host.order};
  keep_set const dset{.begins = dbegins.get(), .cells = dkept.get(), .order = t.on_gpu.order};
  keep_set rest{
      .begins = rest_begins.data(), .cells = cells.data(), .ranks = ranks.data(), .room = others},
      drest{.begins = drest_begins.get(),
            .cells = dcells.get(),
            .ranks = dranks.get(),
            .room = others};
  auto const a = ops::rest_of(host, c.view<host_space>(), set, rest),
             b = ops::rest_of(gpu, c.view<cuda_space>(), dset, drest);
  check(a && b, a ? b.message : a.message, name);
  check(rest_begins.back() == others && same(drest_begins.host(), rest_begins) &&
            same(dcells.host(), cells) && same(dranks.host(), ranks),
        "rest_of", name);
}

/// What evicted tokens join, of which one in `kept` is kept: listed by target, and let go of where
/// they are too little alike.
void test_lists(cells const& c, unsigned kept, unsigned seed, char const* name) {
  texts const t(c, name);
  auto const& e = c.e;
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<std::int32_t> target(t.all, -1), begins(t.all + static_cast<std::size_t>(e.rows())),
      sources(t.all);
  std::vector<float> strength(t.all);
  for (float& x : strength) x = normal(engine);
  for (index_t r = 0; r < e.rows(); ++r) {
    std::vector<std::int32_t> stay;
    auto* const mine = &target[static_cast<std::size_t>(r * e.tokens)];
    for (index_t i = 0; i < t.tokens(r); ++i)
      if (engine() % kept == 0) stay.push_back(mine[i] = static_cast<std::int32_t>(i));
    for (index_t i = 0; i < t.tokens(r) && !stay.empty(); ++i)
      if (mine[i] < 0 && engine() % 8 != 0) mine[i] = stay[engine() % stay.size()];
  }
  std::vector<fate> fates(t.all, fate::sure);
  std::vector<float> scratch(static_cast<std::size_t>(e.rows() * ops::assign_floats(e)));
  device<std::int32_t> const dtarget(target), dbegins(begins), dsources(sources);
  device<float> const dstrength(strength), dscratch(scratch);
  device<fate> const dfates(fates);
  folding const a{target.data(), strength.data(), begins.data(), sources.data()},
      b{dtarget.get(), dstrength.get(), dbegins.get(), dsources.get()};
  auto const each_row = [&](auto const& what) {
    for (index_t r = 0; r < e.rows(); ++r)
      what(static_cast<std::size_t>(r * e.tokens), static_cast<std::size_t>(r), t.tokens(r));
  };
  for (auto const filter : {fold_filter::none, fold_filter::mean, fold_filter::places}) {
    ops::drop_rule const rule{.filter = filter};
    check(ops::drop_unlike(host, t.on_host, rule, a, scratch.data()) &&
              ops::drop_unlike(gpu, t.on_gpu, rule, b, dscratch.get()),
          "drop_unlike runs", name);
    check(ops::group_sources(host, t.on_host, a, fates.data()) &&
              ops::group_sources(gpu, t.on_gpu, b, dfates.get()),
          "group_sources runs", name);
    auto const of_targets = dtarget.host(), of_begins = dbegins.host(),
               of_sources = dsources.host();
    auto const of_fates = dfates.host();
    each_row([&](std::size_t at, std::size_t r, index_t n) {
      check(same(&of_targets[at], &target[at], n), "targets", name);
      check(same(&of_begins[at + r], &begins[at + r], n + 1), "lists begin", name);
      check(same(&of_sources[at], &sources[at], begins[at + r + static_cast<std::size_t>(n)]),
            "sources", name);
      check(same(&of_fates[at], &fates[at], n), "fates of targets", name);
    });
  }
}

/// A whole select() by policies that score alike to the bit on both backends.
template <class Policy>
void test_select(cells const& c, Policy const& policy, unsigned seed, char const* name) {
  auto const& e = c.e;
  std::mt19937 engine(seed);
  auto const plan = make_plan(policy, e);
  check(plan.check().ok(), plan.check().message, name);
  auto const given = make_scores(static_cast<std::size_t>(e.rows() * e.tokens), kind::ties, engine);
  device<float> const dgiven(given);
  std::vector<std::byte> memory(plan.keep_bytes()), scratch(plan.select_bytes());
  device<std::byte> const dmemory(memory.size()), dscratch(scratch.size());
  keep_set a = plan.keep(memory), b = plan.keep({dmemory.get(), dmemory.size()});
  auto const x = kvslim::select(host, plan, c.view<host_space>(),
                                evidence{token_scores<host_space>{given.data()}}, a, scratch);
  auto const y = kvslim::select(gpu, plan, c.view<cuda_space>(),
                                evidence{token_scores<cuda_space>{dgiven.get()}}, b,
                                {dscratch.get(), dscratch.size()});
  check(x && y, x ? y.message : x.message, name);
  auto const got = dmemory.host();
  auto const at = [&](auto const* p, auto const* base) {
    return reinterpret_cast<std::byte const*>(p) - base;
  };
  auto const equal = [&](auto const* p, auto const* q, index_t count) {
    return same(p, reinterpret_cast<decltype(p)>(got.data() + at(q, dmemory.get())), count);
  };
  check(equal(a.begins, b.begins, e.rows() + 1), "begins", name);
  index_t const kept = a.begins[e.rows()];
  check(equal(a.cells, b.cells, kept) && equal(a.ranks, b.ranks, kept), "kept", name);
  check(kept > 0 || e.tokens == 1, "something is kept", name);
  if constexpr (decltype(plan)::has_merger)
    for (index_t r = 0; r < e.rows(); ++r)
      check(equal(a.merged + r * e.tokens, b.merged + r * e.tokens,
                  text<decltype(c.view<host_space>())>{c.view<host_space>(), a.order}.tokens(
                      r / e.kv_heads, r % e.kv_heads)),
            "merged", name);
}

/// A launch answers for itself: not for what a caller has left behind, and never with fewer blocks.
struct write_index {
  int* out;
  KVSLIM_HD void operator()(index_t i) const { out[i] = static_cast<int>(i); }
};
void test_launches() {
  constexpr index_t count = 1000;
  device<int> const out(std::vector<int>(count, -1));
  write_index const body{out.get()};
  auto const kernel = detail::for_each_kernel<write_index>;
  check(detail::launch(gpu, {1, 4096}, kernel, count, body).code == errc::cuda,
        "a block of 4096 threads is refused", "launch");
  check(detail::launch_for_each(gpu, count, body).ok(), "an older error stops nothing", "launch");
  auto const got = out.host();
  for (int i = 0; i < count; ++i)
    check(got[static_cast<std::size_t>(i)] == i, "one thread per index", "launch");
  check(cudaGetLastError() != cudaSuccess, "the older error is the caller's to read", "launch");
  check(detail::launch(gpu, {index_t{1} << 31, 32}, kernel, count, body).code == errc::unsupported,
        "a grid of 2^31 blocks is refused", "launch");
  check(detail::launch(gpu, {1, 32, 100 << 10}, kernel, count, body).code == errc::unsupported,
        "100 KiB of shared memory are refused", "launch");
  check(detail::launch(gpu, {1, 32, 99 << 10}, kernel, count, body).ok(),
        "99 KiB of shared memory are asked for", "launch");
  check(detail::launch(gpu, {0, 32}, kernel, count, body).ok(), "no blocks: nothing", "launch");
}

}  // namespace

/// Everything, or the caches of one name.
int main(int argc, char** argv) {
  auto const skips = [&](char const* name) { return argc > 1 && std::strcmp(argv[1], name) != 0; };
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: no CUDA device\n");
    return 77;
  }
  test_launches();
  for (int const bits : {1, 2, 4, 8}) {
    test_affine_codes<f16>(bits, rounding::precise, "codes of f16 groups");
    test_affine_codes<f16>(bits, rounding::authors, "codes of f16 groups, as the authors round");
    test_affine_codes<bf16>(bits, rounding::precise, "codes of bf16 groups");
    test_affine_codes<float>(bits, rounding::precise, "codes of f32 groups");
  }
  test_compact_pieces();
  struct {
    char const* name;
    extents e;
    traits has;
  } const caches[] = {
      {"plain", {1, 2, 700, 32}, {}},
      {"one token", {1, 1, 1, 4}, {}},
      {"ragged", {3, 2, 300, 40}, {.lengths = true}},
      {"ragged heads", {2, 3, 300, 40}, {.lengths = true, .per_head = true}},
      {"ascending with padding",
       {2, 2, 600, 24},
       {.lengths = true, .positions = true, .valid = true, .ascending = true}},
      {"any order", {2, 2, 1500, 16, 24}, {.positions = true, .valid = true, .bias = true}},
      {"any order, ragged heads",
       {3, 2, 513, 33},
       {.lengths = true, .positions = true, .valid = true, .bias = true, .per_head = true}},
      {"long", {1, 1, 5000, 8}, {.lengths = true, .positions = true, .valid = true}},
  };
  unsigned seed = 1;
  for (auto const& [name, e, has] : caches) {
    if (skips(name)) continue;
    cells const c(e, has, ++seed);
    for (auto const k : {kind::random, kind::ties, kind::equal, kind::special})
      test_selection(c, k, ++seed, name);
    kind const kinds[] = {kind::random, kind::ties, kind::special};
    for (auto const group :
         {row_group{1, e.kv_heads}, row_group{e.sequences, e.kv_heads}, row_group{e.sequences, 1}})
      for (auto const rules :
           {contest{0, 0}, contest{e.tokens / 2, 0}, contest{group.size() * e.tokens / 3, 17},
            contest{group.size() * e.tokens, e.tokens}}) {
        ++seed;
        test_contest(c, kinds[seed % 3], group, rules, seed, name);
      }
    test_scores(c, ++seed, name);
    test_compact(c, false, ++seed, name);
    if (!has.positions) test_compact(c, true, ++seed, name);
    test_rest_of(c, ++seed, name);
    pipeline const best{given_scores{}, top_k{{.budget = e.tokens / 3 + 1, .sinks = 2}}};
    test_select(c, best, ++seed, name);
    test_select(c, pipeline{shared{given_scores{}, row_group{1, e.kv_heads}}, above{}}, ++seed,
                name);
    test_select(c,
                pipeline{given_scores{}, contested{.each = 9, .sure = 2, .kv_heads = e.kv_heads}},
                ++seed, name);
    test_select(c,
                pipeline{given_scores{}, top_k{{.budget = e.tokens / 2 + 1, .recent = 3}},
                         kvmerger{{.threshold = 0.1f}}},
                ++seed, name);
    for (float const threshold : {-1.0f, 0.0f})
      test_select(c, pipeline{streaming_llm{}, kvmerger{{.threshold = threshold}}}, ++seed, name);
    test_select(c, pipeline{given_scores{}, top_k{{.budget = 7}}, kvmerger{{.threshold = -1.0f}}},
                ++seed, name);
    for (unsigned const kept : {1u, 3u, 400u}) test_lists(c, kept, ++seed, name);
  }
  for (auto const k : {kind::random, kind::ties, kind::equal, kind::special}) {
    char const* const name = "long rows";
    if (skips(name)) break;
    cells const c({3, 2, 9000, 1}, {.lengths = true}, ++seed);
    test_selection(c, k, ++seed, name);
  }
#if defined(KVSLIM_DETAIL_CLUSTER)
  if (char const* const name = "long rows, a device without clusters"; !skips(name)) {
    ::emulated::clusters = false;
    cells const c({2, 2, 9000, 1}, {.lengths = true}, ++seed);
    test_selection(c, kind::random, ++seed, name);
    ::emulated::clusters = true;
  }
#endif
  for (auto const k : {kind::random, kind::ties, kind::special}) {
    char const* const name = "rows longer than a cluster holds";
    if (skips(name)) break;
    cells const c({1, 2, 66000, 1}, {}, ++seed);
    test_selection(c, k, ++seed, name);
  }
  for (auto const k : {kind::random, kind::ties, kind::equal, kind::special}) {
    char const* const name = "large groups";
    if (skips(name)) break;
    cells const c({6, 4, 1100, 2}, {.lengths = true}, ++seed);
    for (auto const rules : {contest{0, 0}, contest{5000, 0}, contest{7777, 100, 3, 9},
                             contest{1, 0}, contest{1 << 20, 0}})
      test_contest(c, k, {3, 4}, rules, ++seed, name);
    test_contest(c, k, {6, 4}, {20000, 1}, ++seed, name);
  }
  struct {
    char const* name;
    extents e;
    index_t group, window;
    traits has;
  } const windows[] = {
      {"window", {1, 2, 700, 64}, 2, 32, {}},
      {"window longer than a tile", {1, 1, 400, 33}, 1, 70, {.bias = true}},
      {"window of any order",
       {2, 2, 300, 16},
       4,
       33,
       {.lengths = true, .positions = true, .valid = true, .bias = true, .per_head = true}},
      {"window longer than the text", {2, 1, 16, 8}, 3, 40, {.lengths = true}},
      {"one head of 48", {1, 1, 90, 8}, 48, 3, {}},
      {"one channel", {1, 1, 5, 1}, 5, 2, {}},
  };
  for (auto const& [name, e, group, window, has] : windows) {
    if (skips(name)) continue;
    cells const c(e, has, ++seed);
    test_queries(c, group, window, ++seed, name);
  }
  struct {
    char const* name;
    extents e;
    index_t group, window;
    placed how;
    traits has;
  } const of_matrices[] = {
      {"keys of 16 bits", {1, 2, 333, 128}, 4, 32, placed::whole, {}},
      {"keys of 16 bits of any order",
       {3, 2, 200, 80},
       3,
       8,
       placed::whole,
       {.lengths = true, .positions = true, .valid = true, .bias = true, .per_head = true}},
      {"keys of 16 bits not at 16 bytes", {2, 1, 33, 64}, 8, 1, placed::uneven, {.lengths = true}},
      {"keys of 16 bits apart", {1, 1, 70, 33}, 1, 20, placed::apart, {.bias = true}},
      {"long keys of 16 bits", {1, 1, 45, 272}, 1, 9, placed::whole, {}},
      {"a window of more columns than a block", {1, 1, 171, 16}, 2, 131, placed::whole, {}},
      {"one key of 16 bits", {1, 1, 1, 96}, 3, 1, placed::whole, {}},
  };
  for (auto const& [name, e, group, window, how, has] : of_matrices) {
    if (skips(name)) continue;
    cells const c(e, has, ++seed);
    test_matrix_window<f16>(c, group, window, how, ++seed, name);
    test_matrix_window<bf16>(c, group, window, how, seed + 1, name);
  }
  check(cudaDeviceSynchronize() == cudaSuccess, "the device is well", "all");
  std::printf(failures == 0 ? "all ops agree\n" : "%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
